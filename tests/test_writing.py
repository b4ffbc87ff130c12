"""Writing errors: where a displaced voxel is, and how much a written change of index is off."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.special

from pfmc.errors import UsageError
from pfmc.physics.diffraction import gaussian_modes, spot_centres
from pfmc.physics.volume import Volume, sampled_index, transfer_matrix
from pfmc.physics.writing import Draw, WritingErrors, as_written, as_written_adjoint, written_volume

VOXEL, SPREADS, FULL = 2e-6, (1e-6, 0.8e-6, 1.2e-6), 5e-3
VOLUME = Volume(3, 8, 8, VOXEL, 10e-6, 1e-6, 1.45, spread=SPREADS, samples=4, padding=12e-6)


def drawn() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.1, 1.0, VOLUME.shape) * FULL


def moved_profile(count: int, size: int, shift: float, spread: float) -> np.ndarray:
    """What each voxel adds at each sample if all are displaced, exactly."""
    position = VOLUME.grid.pixel * (np.arange(size) - (size - 1) / 2)[:, None] - shift
    edges = VOXEL * (np.arange(count + 1) - count / 2)
    below = scipy.special.ndtr((position - edges) / spread)
    return below[:, :-1] - below[:, 1:]


def written(change: np.ndarray, errors: WritingErrors, seed: int = 3) -> np.ndarray:
    """On the samples of the grid."""
    found, volume = as_written(change, VOLUME, FULL, errors, Draw.of(VOLUME.shape, np.random.default_rng(seed)))
    return sampled_index(found, replace(volume, padding=(VOLUME.grid.rows - volume.rows) / 2 * volume.voxel))


def test_a_displaced_layer_is_where_it_was_displaced_to() -> None:
    shift = 300e-9
    found = written(drawn(), WritingErrors(layer_position=shift))
    rng = np.random.default_rng(3)
    rng.standard_normal(1 + 3 + drawn().size)
    dy, dx = shift * rng.standard_normal((2, 3))
    for layer, change in enumerate(drawn()):
        y, x = (moved_profile(8, VOLUME.grid.rows, by[layer], SPREADS[layer]) for by in (dy, dx))
        np.testing.assert_allclose(found[layer], y @ change @ x.T, atol=1e-6 * FULL)


def test_a_voxel_displaced_alone_is_where_a_layer_of_one_voxel_would_be() -> None:
    change = np.zeros(VOLUME.shape)
    change[1, 4, 4] = FULL
    shift = 50e-9
    found = written(change, WritingErrors(voxel_position=shift))[1]
    rng = np.random.default_rng(3)
    rng.standard_normal(1 + 3 + change.size + 6)
    dy, dx = shift * rng.standard_normal((2, *VOLUME.shape))[:, 1, 4, 4]
    y, x = (moved_profile(8, VOLUME.grid.rows, by, SPREADS[1]) for by in (dy, dx))
    exact, still = y @ change[1] @ x.T, sampled_index(change, VOLUME)[1]
    assert np.linalg.norm(found - exact) < 0.06 * np.linalg.norm(still - exact)


def test_nothing_is_off_without_errors_and_unwritten_glass_stays_so() -> None:
    change = drawn()
    np.testing.assert_allclose(written(change, WritingErrors()), sampled_index(change, VOLUME), atol=1e-6 * FULL)
    noisy = written(np.zeros(VOLUME.shape), WritingErrors(1e-7, 1e-7, 0.1, 0.1, 0.1))
    assert not noisy.any()


def test_light_sees_the_same_volume_sample_by_sample() -> None:
    change = drawn()
    draw = Draw.of(VOLUME.shape, np.random.default_rng(1))
    found, volume = as_written(change, VOLUME, FULL, WritingErrors(), draw)
    centres = spot_centres(2, 2, 6e-6)
    as_drawn, as_made = (
        transfer_matrix(index, *2 * (gaussian_modes(centres, 2.5e-6, v.grid),), v)
        for index, v in ((change, VOLUME), (found, volume))
    )
    np.testing.assert_allclose(as_made, as_drawn, atol=1e-4)


def test_the_adjoint_is_that_of_the_writing() -> None:
    """⟨g, A x⟩ = ⟨Aᵀ g, x⟩; the noise, which does not depend on the drawing, is left out of A."""
    rng = np.random.default_rng(4)
    volume = replace(VOLUME, rows=6)
    errors, draw = WritingErrors(3e-7, 2e-7, 0.1, 0.1), Draw.of(volume.shape, rng)
    change = rng.uniform(size=volume.shape)
    there, sampled = as_written(change, volume, FULL, errors, draw)
    assert sampled == written_volume(volume)
    assert there.shape == sampled.shape
    gradient = rng.normal(size=there.shape)
    back = as_written_adjoint(gradient, volume, errors, draw)
    assert np.sum(back * change) == pytest.approx(np.sum(gradient * there), rel=1e-12)


@pytest.mark.parametrize(("name", "alike"), [("index_scale", (0, 1, 2)), ("index_drift", (1, 2)), ("index_noise", ())])
def test_index_errors_are_shared_as_they_should_be_and_as_large(name: str, alike: tuple[int, ...]) -> None:
    """In the middle of each voxel of a volume without blur to speak of."""
    sharp = replace(VOLUME, spread=0.05e-6, samples=5)
    change = np.full(VOLUME.shape, FULL)
    rng = np.random.default_rng(7)
    off = []
    for _ in range(100):
        found, _volume = as_written(change, sharp, FULL, WritingErrors(**{name: 0.02}), Draw.of(sharp.shape, rng))
        rim = (found.shape[1] - 40) // 2
        off.append(found[:, rim + 2 : rim + 40 : 5, rim + 2 : rim + 40 : 5] / FULL - 1)
    errors = np.stack(off)
    assert errors.std() == pytest.approx(0.02, rel=0.15)
    within = errors.std(axis=tuple(axis + 1 for axis in alike)).max() if alike else errors.std(axis=1).min()
    assert (within < 1e-12) == bool(alike)


def test_a_writing_without_blur_is_refused() -> None:
    with pytest.raises(UsageError, match="no spread"):
        as_written(
            drawn(), replace(VOLUME, spread=0.0), FULL, WritingErrors(), Draw.of(VOLUME.shape, np.random.default_rng(1))
        )
