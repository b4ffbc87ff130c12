"""How a volume's transfer matrix depends on each of its voxels, a layer at a time.

What is kept is light: of the inputs, and backwards of the outputs, at every kick. The derivatives of the weights by the
voxels of one layer are products of it, so a matrix of all voxels and weights is never stored (4096 weights and 92 160
voxels: 1.5 GB in single precision; their light: 0.9 GB).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace, device
from jaxtyping import Complex, Float

from pfmc.physics.diffraction import overlap
from pfmc.physics.volume import Volume, kicks, profiles, walk, written

BAND = 2**21  # derivatives by samples of the field that are made at a time: they stay in the cache; measured


@dataclass(frozen=True, eq=False)
class Slopes:
    """The derivative of each Re T[i, j] by each voxel's index, where the light was sent.

    dT[i, j] / dΔn(r) = B_i(r) F_j(r): light that comes to the voxel from the input, times light that would come to it
    from the output.

    Attributes:
        ahead: F of each layer, [inputs, 2 · steps, samples]: real parts, then imaginary ones.
        behind: B likewise, [outputs, 2 · steps, samples], imaginary parts negative.
        down, across: share of each sample in each voxel, [layers, voxels, samples], along y and x.
    """

    ahead: list[Any]
    behind: list[Any]
    down: Any
    across: Any

    def layer(self, layer: int) -> Float[Any, "voxels weights"]:
        """Of the voxels of one layer, row by row, for T's elements, row by row."""
        xp = array_namespace(self.down)
        down, across = self.down[layer], self.across[layer]
        columns, pairs = across.shape[1], self.behind[layer].shape[0] * self.ahead[layer].shape[0]
        behind, ahead = (
            xp.asarray(xp.permute_dims(light[layer], order), copy=True)
            for light, order in ((self.behind, (2, 0, 1)), (self.ahead, (2, 1, 0)))
        )
        result = xp.zeros((down.shape[0], across.shape[0] * pairs), dtype=down.dtype, device=device(down))
        band = max(1, BAND // (columns * pairs))
        for row in range(0, down.shape[1], band):
            samples = slice(row * columns, (row + band) * columns)
            dense = xp.reshape(behind[samples] @ ahead[samples], (-1, columns, pairs))
            result += down[:, row : row + band] @ xp.reshape(across @ dense, (-1, across.shape[0] * pairs))
        return xp.reshape(result, (-1, pairs))

    def adjoint(self, weights: Float[Any, "columns outputs inputs"]) -> Float[Any, "columns layers voxels"]:
        """For each column the sum over all weights of weight · derivative, of every voxel."""
        xp = array_namespace(weights)
        layers = []
        for behind, ahead, down, across in zip(self.behind, self.ahead, self.down, self.across, strict=True):
            light = xp.reshape(xp.reshape(weights, (-1, weights.shape[2])) @ _flat(ahead), (-1, *behind.shape))
            light *= behind
            samples = xp.reshape(xp.sum(light, axis=(1, 2)), (-1, down.shape[1], across.shape[1]))
            layers.append(xp.reshape(down @ samples @ across.mT, (weights.shape[0], -1)))
        return xp.stack(layers, axis=1)

    def tangent(self, voxels: Float[Any, "columns layers voxels"]) -> Float[Any, "columns outputs inputs"]:
        """For each column the sum over all voxels of change · derivative, of every weight."""
        xp = array_namespace(voxels)
        total: Any = 0
        for layer, (behind, ahead, down, across) in enumerate(
            zip(self.behind, self.ahead, self.down, self.across, strict=True)
        ):
            planes = xp.reshape(voxels[:, layer], (-1, down.shape[0], across.shape[0]))
            samples = xp.reshape(down.mT @ planes @ across, (-1, 1, 1, behind.shape[2]))
            changes = xp.reshape(behind * samples, (-1, math.prod(behind.shape[1:])))
            total = total + changes @ _flat(ahead).T
        return xp.reshape(total, (voxels.shape[0], -1, total.shape[-1]))


def _flat(light: Any) -> Any:
    """One row per mode."""
    return array_namespace(light).reshape(light, (light.shape[0], -1))


def jacobian(
    delta_n: Float[Any, "layers y x"],
    inputs: Complex[Any, "inputs rows columns"],
    outputs: Complex[Any, "outputs rows columns"],
    volume: Volume,
) -> tuple[Complex[Any, "outputs inputs"], Slopes]:
    """The transfer matrix T, and how it depends on the voxels.

    Memory: layers · steps · (inputs + outputs) complex fields of ``written(volume)``.
    """
    xp = array_namespace(delta_n, inputs, outputs)
    rows, columns = written(volume)
    factors = [
        (1j * phase * volume.grid.pixel**2) * (scattering[rows, columns] + 1)
        for scattering, phase in kicks(delta_n, volume, inputs)
    ]
    ahead: list[Any] = []
    behind: list[Any] = []
    pending: list[Any] = []

    def visit(light: Any) -> None:
        """Light at one more kick; that of a layer is put together when the layer is through."""
        pending.append(light)
        if len(pending) == volume.steps:
            ahead.append(_parts(pending))
            pending.clear()

    def visit_back(light: Any) -> None:
        pending.append(light * factors.pop())
        if len(pending) == volume.steps:
            # Backwards, the last kick of a layer comes first.
            layer = _parts(pending[::-1])
            layer[:, volume.steps :] *= -1
            behind.append(layer)
            pending.clear()

    transfer = overlap(outputs, walk(inputs, delta_n, volume, visit), volume.grid)
    walk(xp.conj(outputs), xp.flip(delta_n, axis=0), volume.reversed, visit_back)
    down, across = (p.mT for p in profiles(volume, xp.real(transfer)))
    return transfer, Slopes(ahead, behind[::-1], down[:, :, rows], across[:, :, columns])


def _parts(kicks: list[Any]) -> Any:
    """Complex fields [modes, y, x] of each kick as real ones, [modes, 2 · kicks, y · x]: real parts, then imaginary."""
    xp = array_namespace(*kicks)
    parts = xp.stack([*(xp.real(light) for light in kicks), *(xp.imag(light) for light in kicks)], axis=1)
    return xp.reshape(parts, (*parts.shape[:2], -1))
