"""How a volume's transfer matrix depends on each of its voxels, as a plain matrix.

There are fewer weights than voxels and few of both per tile, so the matrix is small enough to be stored (640 weights
and 20 480 voxels: 52 MB in single precision), and a product with it is cheaper than sending light through the volume.
"""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace
from jaxtyping import Complex, Float

from pfmc.physics.diffraction import overlap
from pfmc.physics.volume import Volume, kicks, profiles, walk, written


def jacobian(
    delta_n: Float[Any, "layers y x"],
    inputs: Complex[Any, "inputs rows columns"],
    outputs: Complex[Any, "outputs rows columns"],
    volume: Volume,
) -> tuple[Complex[Any, "outputs inputs"], Float[Any, "voxels weights"]]:
    """The transfer matrix T, and the derivative of each Re T[i, j] by each voxel's index, [voxels, outputs · inputs].

    dT[i, j] / dΔn(r) = B_i(r) F_j(r): light that comes to the voxel from the input, times light that would come to it
    from the output. Memory: layers · steps · inputs complex fields of ``written(volume)``, and the result.
    """
    xp = array_namespace(delta_n, inputs, outputs)
    rows, columns = written(volume)
    size = (rows.stop - rows.start, columns.stop - columns.start)
    forward: list[Any] = []
    transfer = overlap(outputs, walk(inputs, delta_n, volume, forward.append), volume.grid)
    factors = [
        (1j * phase * volume.grid.pixel**2) * (scattering[rows, columns] + 1)
        for scattering, phase in kicks(delta_n, volume, inputs)
    ]
    pairs = outputs.shape[0] * inputs.shape[0]
    result = xp.empty((volume.layers, volume.rows * volume.columns, pairs), dtype=xp.real(transfer).dtype)
    down, across = (p.mT for p in profiles(volume, result))
    across, down = across[:, :, columns], down[:, :, rows]
    behind: list[Any] = []

    def visit(light: Any) -> None:
        behind.append(light * factors.pop())
        if len(behind) < volume.steps:
            return
        ahead = [forward.pop() for _ in behind]
        left, right = (_by_sample(xp.stack(side), size) for side in (behind, ahead))
        left[:, :, volume.steps :] *= -1
        dense = left @ xp.permute_dims(right, (0, 2, 1))
        layer = len(forward) // volume.steps
        dense = across[layer] @ xp.reshape(dense, (*size, pairs))
        dense = down[layer] @ xp.reshape(dense, (size[0], -1))
        result[layer] = xp.reshape(dense, (-1, pairs))
        behind.clear()

    walk(xp.conj(outputs), xp.flip(delta_n, axis=0), volume.reversed, visit)
    return transfer, xp.reshape(result, (-1, pairs))


def _by_sample(fields: Any, size: tuple[int, int]) -> Any:
    """[kicks, modes, y, x] complex to [y · x, modes, 2 · kicks] real: real parts, then imaginary ones."""
    xp = array_namespace(fields)
    parts = xp.concat([xp.real(fields), xp.imag(fields)])
    return xp.asarray(xp.permute_dims(xp.reshape(parts, (*parts.shape[:2], -1)), (2, 1, 0)), copy=True)
