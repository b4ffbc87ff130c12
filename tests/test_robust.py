"""The spread of writings: its slopes by finite differences, and designs that writers' errors disturb less."""

from __future__ import annotations

import numpy as np
import pytest

from pfmc.physics.construction import Ports, construct
from pfmc.physics.diffraction import gaussian_modes, spot_centres
from pfmc.physics.jacobian import jacobian
from pfmc.physics.robust import transfer_and_gradient, writing_spread
from pfmc.physics.volume import Volume, transfer_matrix
from pfmc.physics.writing import FAULTLESS, Draw, WritingErrors, as_written, written_volume

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
    expected = slopes.adjoint(weights[None])[0].reshape(gradient.shape)
    np.testing.assert_allclose(gradient, expected, atol=1e-9 * np.abs(gradient).max())


def test_the_slope_of_the_spread_is_what_differences_say() -> None:
    rng = np.random.default_rng(1)
    change, draw = rng.uniform(0.1, 0.9, VOLUME.shape) * FULL, Draw.of(VOLUME.shape, rng)
    still, written = as_written(change, VOLUME, FULL, FAULTLESS, draw)
    drawn = transfer_matrix(still, MANY, FEW, written)

    def spread(index: np.ndarray) -> tuple[float, np.ndarray]:
        return writing_spread(index, drawn, MANY, FEW, VOLUME, FULL, ERRORS, draw)

    found, slope = spread(change)
    assert found > 1e-4
    other = 1e-2 * FULL * slope / np.abs(slope).max()
    difference = spread(change + other)[0] - spread(change - other)[0]
    assert difference == pytest.approx(2 * np.sum(slope * other), rel=1e-2)
    made = transfer_matrix(as_written(change, VOLUME, FULL, ERRORS, draw)[0], MANY, FEW, written)
    made = np.real(made * np.exp(-1j * np.angle(np.vdot(drawn, made))))
    left = [row - (row @ own) / (own @ own) * own for row, own in zip(made, drawn.real, strict=True)]
    assert found == pytest.approx(np.linalg.norm(left) ** 2 / np.linalg.norm(drawn.real) ** 2, rel=1e-4)


def test_a_robust_construction_is_disturbed_less_by_other_writers_too() -> None:
    volume = Volume(12, 12, 12, 2e-6, 40e-6, 1e-6, 1.45, spread=1e-6, samples=2, steps=16)
    ports = Ports(spot_centres(2, 2, 8e-6), spot_centres(1, 3, 6e-6), 2.5e-6)
    target = np.array([[1.0, -0.5, 0.3, 0.8], [0.2, 0.9, -1.0, 0.1], [-0.6, 0.4, 0.7, -0.2]])
    table, errors = np.linspace(0, FULL, 64), WritingErrors(50e-9, 30e-9, 0.01, 0.005, 0.01)
    modes = [gaussian_modes(c, ports.waist, written_volume(volume).grid) for c in (ports.inputs, ports.outputs)]

    def light(levels: np.ndarray, size: WritingErrors, seed: int) -> np.ndarray:
        draw = Draw.of(volume.shape, np.random.default_rng([7, seed]))
        samples, written = as_written(table[levels], volume, FULL, size, draw)
        return np.asarray(transfer_matrix(samples, modes[0], modes[1], written))

    def disturbed(levels: np.ndarray) -> float:
        drawn = light(levels, FAULTLESS, 0)
        made = [light(levels, errors, seed) for seed in range(8)]
        made = [each * np.exp(-1j * np.angle(np.vdot(drawn, each))) for each in made]
        return float(np.sqrt(np.mean([np.linalg.norm((each - drawn).real) ** 2 for each in made])))

    plain, robust, again = (
        construct(target, ports, volume, table, np.random.default_rng(0), errors=errors, robust=steps)
        for steps in (0, 40, 40)
    )
    assert robust.error < 0.01
    assert robust.gain == pytest.approx(plain.gain, rel=0.01)
    assert disturbed(robust.levels) < 0.9 * disturbed(plain.levels)
    assert np.array_equal(again.levels, robust.levels)
