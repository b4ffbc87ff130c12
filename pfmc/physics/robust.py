"""How much the matrix of a volume differs from writing to writing, and how each voxel's index changes that.

The light of one writing goes forth and back once, whatever the number of weights: no matrix of slopes is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from array_api_compat import array_namespace, to_device
from jaxtyping import Complex, Float

from pfmc.physics.diffraction import overlap
from pfmc.physics.volume import Volume, kicks, sampled_index_adjoint, walk, written
from pfmc.physics.writing import Draw, WritingErrors, as_written, as_written_adjoint


def transfer_and_gradient(
    delta_n: Float[Any, "layers y x"],
    inputs: Complex[Any, "inputs rows columns"],
    outputs: Complex[Any, "outputs rows columns"],
    volume: Volume,
    weigh: Callable[[Any], Any],
) -> tuple[Complex[Any, "outputs inputs"], Float[Any, "layers y x"]]:
    """The transfer matrix T, and the derivative of Re Σ c[i, j] T[i, j] by each voxel's index, with c = ``weigh(T)``.

    Light that comes back from each output of the smaller side meets, in every voxel, the light of all inputs together,
    weighted with that output's c. Memory: layers · steps · outputs complex fields of ``written(volume)``.
    """
    xp = array_namespace(delta_n, inputs, outputs)
    if inputs.shape[0] < outputs.shape[0]:  # the same light, seen from behind
        seen = xp.flip(delta_n, axis=0), xp.conj(outputs), xp.conj(inputs), volume.reversed
        transfer, gradient = transfer_and_gradient(*seen, lambda turned: weigh(turned.T).T)
        return transfer.T, xp.flip(gradient, axis=0)
    rows, columns = written(volume)
    returned: list[Any] = []
    behind = walk(xp.conj(outputs), xp.flip(delta_n, axis=0), volume.reversed, returned.append)
    transfer = overlap(xp.conj(inputs), behind, volume.grid).T
    factors = [
        (1j * phase * volume.grid.pixel**2) * (scattering[rows, columns] + 1)
        for scattering, phase in kicks(delta_n, volume, inputs)
    ]
    gradient = xp.zeros((volume.layers, volume.grid.rows, volume.grid.columns), dtype=delta_n.dtype)

    def visit(light: Any) -> None:
        kick = len(factors) - len(returned)
        met = xp.sum(light * returned.pop(), axis=0)
        gradient[kick // volume.steps, rows, columns] += xp.real(met * factors[kick])

    walk(xp.tensordot(weigh(transfer), inputs, axes=1), delta_n, volume, visit)
    return transfer, sampled_index_adjoint(gradient, volume)


def writing_spread(
    index_change: Float[np.ndarray, "layers y x"],
    drawn: Complex[np.ndarray, "outputs inputs"],
    inputs: Complex[Any, "inputs rows columns"],
    outputs: Complex[Any, "outputs rows columns"],
    volume: Volume,
    full: float,
    errors: WritingErrors,
    draw: Draw,
    place: Callable[[np.ndarray], Any] = np.asarray,
) -> tuple[float, Float[np.ndarray, "layers y x"]]:
    """‖D Re T' − Re T‖² / ‖Re T‖² of a writing T' of a volume, and its derivative by each voxel's index for a given T.

    A phase that all of T' has in common is taken out, as an oscillator is set to it, and so is what a gain behind each
    output, D, makes up for to first order: a trim. In the mean over a draw and its
    opposite what is odd in the errors drops out of the derivative, and with it, to first order, that T is not given.

    Args:
        index_change: as drawn.
        drawn: T of the volume without errors, on the same grid as T'.
        inputs, outputs: modes on the grid of ``written_volume(volume)``.
        volume: as drawn, and how finely it is computed.
        full: the largest index change that can be written.
        errors: standard deviations.
        draw: what is off in this writing.
        place: from NumPy to the library and device that sends the light.
    """
    wanted = np.real(drawn)
    own = np.sum(np.square(wanted), axis=1, keepdims=True)  # power of each output
    own[own == 0] = 1.0
    size = float(np.sum(own))
    spread = []

    def weigh(light: Any) -> Any:
        transfer = np.asarray(to_device(light, "cpu"), dtype=complex)
        along = np.vdot(drawn, transfer)
        turn = np.exp(-1j * np.angle(along))
        off = np.real(transfer * turn) - wanted
        off -= np.sum(off * wanted, axis=1, keepdims=True) / own * wanted
        spread.append(float(np.sum(np.square(off))) / size)
        by_phase = float(np.sum(off * np.imag(transfer * turn)))
        return place((2 / size * (off * turn - 1j * by_phase * np.conj(drawn) / along)).astype(np.complex64))

    samples, sampled = as_written(index_change, volume, full, errors, draw)
    _, gradient = transfer_and_gradient(place(samples.astype(np.float32)), inputs, outputs, sampled, weigh)
    back = np.asarray(to_device(gradient, "cpu"), dtype=float)
    return spread[0], as_written_adjoint(back, volume, errors, draw)
