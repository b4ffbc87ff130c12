"""The spread of writings: its slopes by finite differences, and designs that writers' errors disturb less."""

from __future__ import annotations

import numpy as np
import pytest

from pfmc.physics.diffraction import gaussian_modes, spot_centres
from pfmc.physics.jacobian import jacobian
from pfmc.physics.robust import transfer_and_gradient, writing_spread
from pfmc.physics.volume import Volume, transfer_matrix
from pfmc.physics.writing import Draw, WritingErrors, as_written, written_volume

FULL = 5e-3
VOLUME = Volume(4, 8, 10, 2e-6, 40e-6, 1e-6, 1.45, spread=(1e-6, 0.9e-6, 0.9e-6, 1.1e-6), samples=1, steps=2)
ERRORS = WritingErrors(3e-7, 1e-7, 0.02, 0.02, 0.02)
GRID = written_volume(VOLUME).grid
FEW, MANY = (gaussian_modes(spot_centres(*size, 6e-6), 2.5e-6, GRID) for size in ((1, 3), (2, 2)))


@pytest.mark.parametrize(("inputs", "outputs"), [(MANY, FEW), (FEW, MANY)], ids=["fewer outputs", "fewer inputs"])
def test_the_gradient_is_the_slopes_times_the_weights(inputs: np.ndarray, outputs: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    change = as_written(rng.uniform(0, FULL, VOLUME.shape), VOLUME, FULL, ERRORS, Draw.of(VOLUME.shape, rng))[0]
    weights = rng.normal(size=(len(outputs), len(inputs)))
    written = written_volume(VOLUME)
    transfer, gradient = transfer_and_gradient(change, inputs, outputs, written, lambda _: weights)
    np.testing.assert_allclose(transfer, transfer_matrix(change, inputs, outputs, written), atol=1e-12)
    slopes = jacobian(change, inputs, outputs, written)[1]
    np.testing.assert_allclose(gradient.reshape(-1), slopes @ weights.reshape(-1), atol=1e-9 * np.abs(gradient).max())


def test_the_slope_of_the_spread_is_what_differences_say() -> None:
    rng = np.random.default_rng(1)
    change, draw = rng.uniform(0.1, 0.9, VOLUME.shape) * FULL, Draw.of(VOLUME.shape, rng)
    still, written = as_written(change, VOLUME, FULL, WritingErrors(), draw)
    drawn = transfer_matrix(still, MANY, FEW, written)

    def spread(index: np.ndarray) -> tuple[float, np.ndarray]:
        return writing_spread(index, drawn, MANY, FEW, VOLUME, FULL, ERRORS, draw)

    found, slope = spread(change)
    assert found > 1e-4
    other = 1e-2 * FULL * slope / np.abs(slope).max()
    difference = spread(change + other)[0] - spread(change - other)[0]
    assert difference == pytest.approx(2 * np.sum(slope * other), rel=1e-2)
    off = as_written(change, VOLUME, FULL, ERRORS, draw)[0]
    made = transfer_matrix(off, MANY, FEW, written)
    made = made * np.exp(-1j * np.angle(np.vdot(drawn, made)))
    assert found == pytest.approx(np.linalg.norm((made - drawn).real) ** 2 / np.linalg.norm(drawn.real) ** 2, rel=1e-4)
