"""Light in slabs and written volumes, against closed forms, its own adjoint, and other people's propagators."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import fresnel

from pfmc.errors import UsageError
from pfmc.physics.diffraction import (
    Grid,
    cosines,
    gaussian_modes,
    overlap,
    power,
    propagate,
    propagate_adjoint,
    spot_centres,
    transform,
    transform_back,
)
from pfmc.physics.jacobian import jacobian
from pfmc.physics.volume import (
    Volume,
    check_validity,
    propagate_volume,
    propagate_volume_adjoint,
    sampled_index,
    sampled_index_adjoint,
    transfer_matrix,
)

GLASS = Grid(128, 128, 0.5e-6, 1e-6, 1.45)
UNEVEN = (1e-6, 0.7e-6, 1.3e-6)  # a layer each: what sees the volume from behind must turn them round
SMALL = Volume(3, 6, 5, 2e-6, 20e-6, 1e-6, 1.45, spread=UNEVEN, samples=2, steps=3, padding=8e-6)


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


def test_slopes_against_finite_differences() -> None:
    inputs, outputs = small_modes()
    delta_n, change = index_map(SMALL), np.random.default_rng(5).normal(size=SMALL.shape) * 1e-3
    transfer, slopes = jacobian(delta_n, inputs, outputs, SMALL)
    effect = slopes.tangent(change.reshape(1, len(change), -1))[0]
    np.testing.assert_allclose(transfer, transfer_matrix(delta_n, inputs, outputs, SMALL), atol=1e-14)
    plus, minus = (transfer_matrix(delta_n + s * 1e-4 * change, inputs, outputs, SMALL) for s in (1, -1))
    assert relative(effect, (plus - minus).real / 2e-4) < 1e-8


def test_slopes_of_a_layer_and_their_products_are_of_one_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five rows of samples at a time, of which the last band has fewer."""
    monkeypatch.setattr("pfmc.physics.jacobian.BAND", 5 * 22 * 12)
    slopes = jacobian(index_map(SMALL), *small_modes(), SMALL)[1]
    rng, layers = np.random.default_rng(6), range(SMALL.layers)
    dense = np.stack([slopes.layer(layer) for layer in layers])
    voxels = rng.normal(size=(2, *dense.shape[:2]))
    expected = np.einsum("clv,lvw->cw", voxels, dense)
    np.testing.assert_allclose(slopes.tangent(voxels).reshape(2, -1), expected, rtol=1e-10)
    weights = rng.normal(size=(2, *slopes.tangent(voxels).shape[1:]))
    expected = np.einsum("cw,lvw->clv", weights.reshape(2, -1), dense)
    np.testing.assert_allclose(slopes.adjoint(weights), expected, rtol=1e-9, atol=1e-12 * np.abs(expected).max())


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


def test_slit_in_closed_form() -> None:
    """Fresnel diffraction (Goodman, Introduction to Fourier Optics, section 4.5.1) behind a slit of 40 µm."""
    grid, z, half = Grid(1, 8192, 0.1e-6, 1e-6, 1.45), 300e-6, 20e-6
    x = grid.pixel * (np.arange(grid.columns) - (grid.columns - 1) / 2)
    found = propagate(np.asarray(np.abs(x) < half, dtype=complex)[None], grid, z)[0]
    edges = [fresnel(np.sqrt(2 * grid.index / grid.wavelength / z) * (x + side)) for side in (half, -half)]
    (s1, c1), (s2, c2) = edges
    intensity = ((c1 - c2) ** 2 + (s1 - s2) ** 2) / 2
    near = np.abs(x) < 40e-6
    assert relative(np.abs(found[near]) ** 2, intensity[near]) < 1e-2


@pytest.mark.parametrize("order", [6, 13, 18])
def test_thick_grating_has_kogelniks_efficiency(order: int) -> None:
    """Kogelnik, Bell Syst. Tech. J. 48, 2909, 1969, equation 45, at Bragg angles of 9°, 21° and 29° in the glass.

    Without the obliquity factor the phase would be 13 % short at 29°.
    """
    count, pixel, contrast, depth = 128, 0.2e-6, 2e-3, 150e-6
    volume = Volume(1, 1, count, pixel, depth, 1e-6, 1.45, samples=1, steps=300, padding=0.0, absorbing=False)
    sine = order / (count * pixel) * volume.wavelength / volume.index
    phase = 2 * np.pi * order * np.arange(count) / count
    behind = propagate_volume(np.exp(-1j * phase)[None], contrast * np.cos(2 * phase)[None, None], volume)
    efficiency = np.abs(np.fft.fft(behind[0])[order] / count) ** 2
    expected = np.sin(np.pi * contrast * depth / volume.wavelength / np.sqrt(1 - sine**2)) ** 2
    assert efficiency == pytest.approx(expected, rel=1e-2)


def test_homogeneous_change_at_an_angle() -> None:
    """A plane wave at 29° has the phase of the exact k_z in the medium; without obliquity it is 0.18 rad off."""
    count, order, depth = 128, 18, 100e-6
    volume = Volume(1, 1, count, 0.2e-6, depth, 1e-6, 1.45, samples=1, steps=200, padding=0.0, absorbing=False)
    wave = np.exp(2j * np.pi * order * np.arange(count) / count)[None]
    ratio = (propagate_volume(wave, np.full((1, 1, count), 2e-3), volume) / wave)[0, 0]
    k, across = 2 * np.pi * 1.452 / 1e-6, 2 * np.pi * order / (count * 0.2e-6)
    assert np.angle(ratio * np.exp(-1j * depth * np.sqrt(k**2 - across**2))) == pytest.approx(0, abs=1e-3)
    assert abs(ratio) == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("depth", [100e-6, 300e-6])
def test_gradient_index_lens(depth: float) -> None:
    """Δn = −n g² r² / 2 takes the beam parameter through the matrix (cos gz, sin gz / g; −g sin gz, cos gz)."""
    volume = Volume(1, 48, 48, 1e-6, depth, 1e-6, 1.45, samples=1, steps=40, padding=16e-6)
    grid, g, waist = volume.grid, 5200.0, 8e-6
    y = 1e-6 * (np.arange(48) - 23.5)
    lens = -volume.index * g**2 / 2 * (y[:, None] ** 2 + y**2)
    found = propagate_volume(gaussian_modes(np.zeros((1, 2)), waist, grid), lens[None], volume)
    q0 = -0.5j * grid.wavenumber * waist**2
    q = (np.cos(g * depth) * q0 + np.sin(g * depth) / g) / (-g * np.sin(g * depth) * q0 + np.cos(g * depth))
    r = grid.pixel * (np.arange(grid.rows) - (grid.rows - 1) / 2)
    beam = np.exp(0.5j * grid.wavenumber * (r[:, None] ** 2 + r**2) / q)[None]
    beam = beam / np.sqrt(power(beam, grid))[0]
    assert abs(overlap(beam, found, grid)[0, 0]) > 0.995


def helmholtz(field: np.ndarray, delta_n: np.ndarray, volume: Volume) -> np.ndarray:
    """Both directions of the scalar Helmholtz equation, as one of first order in (E, dE/dz), steps of λ/16n."""
    grid = volume.grid
    kept = cosines(grid) >= 0.5
    cosine = np.where(kept, cosines(grid), 1.0)
    kz = grid.wavenumber * cosine
    electric = transform(field) * kept / np.sqrt(cosine)
    slope = 1j * kz * electric
    for layer in sampled_index(delta_n, volume):
        count = int(np.ceil(16 * volume.layer * volume.index / volume.wavelength))
        h = volume.layer / count
        disturbance = (2 * np.pi / volume.wavelength) ** 2 * h * ((grid.index + layer) ** 2 - grid.index**2)
        c, s = np.cos(kz * h / 2), np.sin(kz * h / 2)
        for _ in range(count):
            electric, slope = c * electric + s / kz * slope, c * slope - kz * s * electric
            slope = slope - kept * transform(disturbance * transform_back(electric))
            electric, slope = c * electric + s / kz * slope, c * slope - kz * s * electric
    return np.asarray(transform_back(kept * np.sqrt(cosine) * (electric + slope / (1j * kz)) / 2))


def strips(contrast: float, steps: int) -> tuple[Volume, np.ndarray, np.ndarray]:
    """A volume that is the same along y, the middle of it written, and two beams; 5 layers of 20 µm.

    Its voxels have sharp edges, which scatter up to 60°: steps must be short enough not to couple to those waves.
    """
    volume = Volume(5, 1, 64, 2e-6, 20e-6, 1e-6, 1.45, samples=6, steps=steps, padding=0.0, absorbing=False)
    delta_n = np.zeros(volume.shape)
    delta_n[..., 16:48] = index_map(replace(volume, columns=32), contrast)
    x = volume.grid.pixel * (np.arange(volume.grid.columns) - (volume.grid.columns - 1) / 2)
    beams = np.exp(-np.square((x - np.array([[0.0], [10e-6]])) / 2e-6))
    return volume, delta_n, np.repeat(beams[:, None, :], volume.grid.rows, axis=1).astype(complex)


@pytest.mark.parametrize(("contrast", "steps", "error"), [(5e-3, 40, 2e-3), (2e-2, 40, 1e-2)])
def test_against_the_whole_helmholtz_equation(contrast: float, steps: int, error: float) -> None:
    volume, delta_n, beams = strips(contrast, steps)
    expected = helmholtz(beams, delta_n, volume)
    assert relative(propagate_volume(beams, 0 * delta_n, volume), expected) > 20 * error  # the voxels matter
    assert relative(propagate_volume(beams, delta_n, volume), expected) < error


def test_refinement_converges() -> None:
    """Halving steps and pixels changes the transfer matrix less and less; the default is within 1 %."""
    found = []
    base = Volume(4, 10, 10, 2e-6, 40e-6, 1e-6, 1.45, spread=1e-6, padding=16e-6)
    for volume in (base, replace(base, samples=4, steps=8), replace(base, samples=6, steps=24)):
        modes = gaussian_modes(spot_centres(2, 2, 8e-6), 2.5e-6, volume.grid)
        found.append(transfer_matrix(index_map(base), modes, modes, volume))
    errors = [relative(f, found[-1]) for f in found[:-1]]
    assert errors[0] < 1e-2
    assert errors[1] < errors[0] / 2


def test_the_rim_takes_what_leaves_and_nothing_else() -> None:
    base = Volume(8, 12, 12, 2e-6, 40e-6, 1e-6, 1.45, spread=1e-6, samples=2, padding=16e-6)
    found = []
    for volume in (base, replace(base, padding=60e-6), replace(base, absorbing=False)):
        modes = gaussian_modes(spot_centres(2, 2, 8e-6), 2.5e-6, volume.grid)
        found.append(transfer_matrix(index_map(base), modes, modes, volume))
    default, wide, periodic = found
    assert relative(default, wide) < 1e-3
    assert relative(periodic, wide) > 4e-3


def test_single_precision_and_torch() -> None:
    inputs, outputs = small_modes()
    delta_n = index_map(SMALL)
    expected = transfer_matrix(delta_n, inputs, outputs, SMALL)
    single = [delta_n.astype(np.float32), inputs.astype(np.complex64), outputs.astype(np.complex64)]
    found = transfer_matrix(*single, SMALL)
    assert found.dtype == np.complex64
    assert relative(found, expected) < 1e-5
    torch = pytest.importorskip("torch")
    tensors = [torch.asarray(a) for a in (delta_n, inputs, outputs)]
    assert relative(transfer_matrix(*tensors, SMALL).numpy(), expected) < 1e-12
    slopes = [jacobian(*arrays, SMALL)[1] for arrays in (tensors, (delta_n, inputs, outputs))]
    assert relative(slopes[0].layer(1).numpy(), slopes[1].layer(1)) < 1e-12
    weights = np.random.default_rng(7).normal(size=(1, *expected.shape))
    found = slopes[0].adjoint(torch.asarray(weights))
    assert relative(found.numpy(), slopes[1].adjoint(weights)) < 1e-12
    assert relative(slopes[0].tangent(found).numpy(), slopes[1].tangent(found.numpy())) < 1e-12


def test_torchoptics_sends_light_to_the_same_place() -> None:
    torch = pytest.importorskip("torch")
    torchoptics = pytest.importorskip("torchoptics")
    grid = replace(GLASS, wavelength=1e-6)
    start = gaussian_modes(np.array([[0.0, 0.0], [4e-6, -6e-6]]), 3e-6, grid)
    peer = torchoptics.Field(torch.asarray(start), grid.wavelength / grid.index, 0, grid.pixel)
    expected = peer.propagate_to_z(60e-6, propagation_method="ASM").data.numpy()
    assert relative(propagate(start, grid, 60e-6), expected) < 1e-4


def test_torchoptics_sees_the_same_matrix_in_a_written_volume() -> None:
    """Their slabs and thin phase masks, 40 per layer; they know no obliquity, which is 1 % of the change at 8°."""
    torch = pytest.importorskip("torch")
    torchoptics = pytest.importorskip("torchoptics")
    volume = Volume(6, 12, 12, 2e-6, 40e-6, 1e-6, 1.45, spread=1e-6, samples=2, steps=16, absorbing=False)
    grid, delta_n = volume.grid, index_map(volume) + 2.5e-3
    inputs, outputs = (gaussian_modes(spot_centres(n, 3, 7e-6), 2.5e-6, grid) for n in (2, 3))
    light, step = torchoptics.Field(torch.asarray(inputs), 1e-6 / 1.45, 0, grid.pixel), 1e-6
    for i, index in enumerate(np.repeat(sampled_index(delta_n, volume), 40, axis=0)):
        light = light.propagate_to_z((i + 0.5) * step, propagation_method="ASM", asm_pad=0)
        light = light.modulate(torch.asarray(np.exp(2j * np.pi / 1e-6 * step * index)))
    behind = light.propagate_to_z(240 * step, propagation_method="ASM", asm_pad=0).data.numpy()
    expected = overlap(outputs, behind, grid)
    empty = transfer_matrix(0 * delta_n, inputs, outputs, volume)
    assert relative(empty, expected) > 0.5  # the voxels matter
    assert relative(transfer_matrix(delta_n, inputs, outputs, volume), expected) < 1e-2


@pytest.mark.parametrize(
    ("change", "index_change", "aperture", "complaint"),
    [
        ({}, 2.5e-3, 1.4, "60°"),
        ({}, 2.5e-3, 0.8, "4 samples"),
        ({}, 0.1, 0.3, "reflections"),
        ({"steps": 1}, 2.5e-3, 0.3, "1 steps.*give 4"),
        ({"steps": 2}, 2.5e-3, 0.1, "2 steps.*give 3"),
    ],
)
def test_what_cannot_be_computed_is_refused(
    change: dict[str, int], index_change: float, aperture: float, complaint: str
) -> None:
    volume = Volume(20, 32, 32, 2e-6, 40e-6, 1e-6, 1.45)
    check_validity(volume, 2.5e-3, 0.3)
    with pytest.raises(UsageError, match=complaint):
        check_validity(replace(volume, **change), index_change, aperture)
