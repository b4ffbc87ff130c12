"""Light in slabs and written volumes, against closed forms, its own adjoint, and other people's propagators."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pfmc.errors import UsageError
from pfmc.physics.diffraction import (
    Grid,
    gaussian_modes,
    overlap,
    power,
    propagate,
    propagate_adjoint,
    spot_centres,
)
from pfmc.physics.volume import (
    Volume,
    cotangent,
    linearise,
    propagate_volume,
    propagate_volume_adjoint,
    sampled_index,
    sampled_index_adjoint,
    tangent,
    transfer_matrix,
)

GLASS = Grid(128, 128, 0.5e-6, 1e-6, 1.45)
SMALL = Volume(3, 6, 5, 2e-6, 20e-6, 1e-6, 1.45, spread=1e-6, samples=2, steps=3, padding=8e-6)


def noise(seed: int, *shape: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def index_map(volume: Volume, contrast: float = 5e-3) -> np.ndarray:
    return contrast * np.random.default_rng(7).uniform(-0.5, 0.5, volume.shape)


def small_modes() -> tuple[np.ndarray, np.ndarray]:
    inputs = gaussian_modes(spot_centres(2, 2, 4e-6), 1.7e-6, SMALL.grid)
    return inputs, gaussian_modes(spot_centres(1, 3, 3e-6), 2e-6, SMALL.grid)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_gaussian_beam_in_closed_form() -> None:
    """Kogelnik and Li, Appl. Opt. 5, 1550, 1966: width, curvature and phase, as long as the beam is paraxial."""
    grid, waist, z = replace(GLASS, rows=192, columns=192), 6e-6, 150e-6
    k = grid.wavenumber
    q0 = -0.5j * k * waist**2
    y, x = (grid.pixel * (np.arange(n) - (n - 1) / 2) for n in (grid.rows, grid.columns))
    r2 = y[:, None] ** 2 + x**2
    expected = np.sqrt(2 / np.pi) / waist * q0 / (z + q0) * np.exp(1j * k * (z + r2 / 2 / (z + q0)))
    found = propagate(gaussian_modes(np.zeros((1, 2)), waist, grid), grid, z)[0]
    assert relative(found, expected) < 5e-3
    half = propagate(gaussian_modes(np.zeros((1, 2)), 2 * waist, grid), grid, z)[0]
    wide = np.sqrt(2 / np.pi) / (2 * waist) * 4 * q0 / (z + 4 * q0) * np.exp(1j * k * (z + r2 / 2 / (z + 4 * q0)))
    assert relative(half, wide) < 5e-4  # the paraxial error falls with the fourth power of the angle


@pytest.mark.parametrize("band_limited", [False, True])
def test_adjoint_of_a_slab(band_limited: bool) -> None:
    grid = Grid(24, 30, 0.4e-6, 1e-6, 1.45)
    a, b = noise(1, 24, 30), noise(2, 24, 30)
    forward = np.vdot(a, propagate(b, grid, 30e-6, band_limited=band_limited))
    assert np.vdot(propagate_adjoint(a, grid, 30e-6, band_limited=band_limited), b) == pytest.approx(forward, rel=1e-12)


def test_adjoint_of_a_volume() -> None:
    a, b = noise(1, 3, 28, 28), noise(2, 3, 28, 28)
    delta_n = index_map(SMALL)
    forward = np.vdot(a, propagate_volume(b, delta_n, SMALL))
    assert np.vdot(propagate_volume_adjoint(a, delta_n, SMALL), b) == pytest.approx(forward, rel=1e-11)
    fine, coarse = np.random.default_rng(3).normal(size=(3, 28, 28)), np.random.default_rng(4).normal(size=SMALL.shape)
    there = np.vdot(fine, sampled_index(coarse, SMALL))
    assert np.vdot(sampled_index_adjoint(fine, SMALL), coarse) == pytest.approx(there, rel=1e-12)


def test_both_sides_give_the_same_transfer_matrix() -> None:
    inputs, outputs = small_modes()
    delta_n = index_map(SMALL)
    from_outputs = transfer_matrix(delta_n, inputs, outputs, SMALL)  # 4 inputs, 3 outputs
    from_inputs = overlap(outputs, propagate_volume(inputs, delta_n, SMALL), SMALL.grid)
    np.testing.assert_allclose(from_outputs, from_inputs, atol=1e-14)


def test_jacobian_against_finite_differences() -> None:
    inputs, outputs = small_modes()
    delta_n, change = index_map(SMALL), np.random.default_rng(5).normal(size=SMALL.shape) * 1e-3
    at = linearise(delta_n, inputs, outputs, SMALL)
    np.testing.assert_allclose(at.transfer, transfer_matrix(delta_n, inputs, outputs, SMALL), atol=1e-14)
    plus, minus = (transfer_matrix(delta_n + s * 1e-4 * change, inputs, outputs, SMALL) for s in (1, -1))
    found = tangent(at, change)
    assert relative(found, (plus - minus) / 2e-4) < 1e-8
    gradient = noise(6, 3, 4)
    assert np.sum(cotangent(at, gradient) * change) == pytest.approx(np.real(np.vdot(gradient, found)), rel=1e-11)


def test_power_is_conserved_without_absorber() -> None:
    volume = replace(SMALL, absorbing=False, steps=16)
    field = propagate(gaussian_modes(np.zeros((1, 2)), 2e-6, volume.grid), volume.grid, 20e-6)
    assert power(propagate_volume(field, index_map(volume), volume), volume.grid) == pytest.approx(1.0, abs=2e-4)


def test_wrong_shapes_are_one_clear_line() -> None:
    with pytest.raises(UsageError, match="28"):
        propagate_volume(noise(1, 2, 30, 30), index_map(SMALL), SMALL)
    with pytest.raises(UsageError, match=r"3, 6, 5"):
        propagate_volume(noise(1, 2, 28, 28), np.zeros((2, 6, 5)), SMALL)
    with pytest.raises(UsageError, match="128, 128"):
        propagate(noise(1, 64, 64), GLASS, 1e-6)
    with pytest.raises(UsageError, match="does not fit"):
        gaussian_modes(np.array([[30e-6, 0.0]]), 3e-6, GLASS)
    with pytest.raises(UsageError, match="steps is 0"):
        replace(SMALL, steps=0)
