"""The light in two written volumes as a full-vector solver has it: Meep's amplitudes, recorded by fdtd_judge.

Voxels of half a micrometre with sharp faces and ports of numerical aperture 0.4 are the hardest that a technology here
asks for; the weak volume has the index changes of fused silica, the strong one those of the physical limit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import fdtd_judge as judge
import h5py
import numpy as np
import pytest

from pfmc.physics.diffraction import cosines, propagate, transform, transform_back
from pfmc.physics.volume import STEEPEST, Volume, propagate_volume

RECORD = json.loads((Path(__file__).parent / "fdtd_record.json").read_text())
GRIDS = (12, 15, 18)  # samples per um


def index_map(name: str) -> np.ndarray:
    return np.linspace(0.0, judge.CONTRASTS[name], judge.LEVELS)[np.array(RECORD["levels"])]


def amplitudes(index_change: np.ndarray, direction: str = "x") -> np.ndarray:
    """Of the electric field in each output, as pfmc has it.

    A sheet of current J along x makes a field along x of (1 − s_x²) / cosθ · J in each plane wave, s its direction.
    """
    size = (judge.LAYERS, judge.VOXELS, judge.VOXELS, judge.VOXEL, judge.LAYER)
    volume = Volume(*size, judge.WAVELENGTH, judge.INDEX, samples=6, steps=16, padding=4e-6)
    grid = volume.grid
    y, x = (grid.pixel * (np.arange(n) - (n - 1) / 2) for n in (grid.rows, grid.columns))

    def profile(at: tuple[float, float]) -> np.ndarray:
        return np.exp(-((y[:, None] - at[0]) ** 2 + (x - at[1]) ** 2) / judge.WAIST**2).astype(complex)

    kept = cosines(grid) >= STEEPEST
    cosine = np.where(kept, cosines(grid), 1.0)
    count, axis = (grid.columns, 1) if direction == "x" else (grid.rows, 0)
    sine = np.expand_dims(np.fft.fftfreq(count, grid.pixel) * grid.wavelength / grid.index, 1 - axis)
    light = transform_back(transform(profile(judge.INPUT)) * kept * (1 - sine**2) / np.sqrt(cosine))
    light = propagate(light, grid, judge.GAP, band_limited=False)
    light = propagate(propagate_volume(light, index_change, volume), grid, judge.GAP, band_limited=False)
    electric = transform_back(transform(light) * kept / np.sqrt(cosine))
    return np.array([grid.pixel**2 * np.sum(profile(at) * electric) for at in judge.OUTPUTS])


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def fit(found: np.ndarray, expected: np.ndarray) -> complex:
    """The number that takes what is expected nearest to what is found."""
    return complex(np.vdot(expected, found) / np.vdot(expected, expected))


def recorded(run: str, component: str) -> np.ndarray:
    return np.array([complex(*a) for a in RECORD["runs"][run][component]])


@pytest.fixture(scope="module")
def empty() -> dict[str, np.ndarray]:
    """Amplitudes without voxels, by the direction of the current."""
    return {direction: amplitudes(index_map("none"), direction) for direction in ("x", "y")}


def on_grid(name: str, empty: dict[str, np.ndarray], samples: int, direction: str = "x") -> np.ndarray:
    """Amplitudes as Meep has them, in pfmc's units: one complex number, which fits those without voxels best."""
    unit = fit(recorded(f"none {direction} {samples}", direction), empty[direction])
    return recorded(f"{name} {direction} {samples}", direction) / unit


def extrapolated(name: str, empty: dict[str, np.ndarray]) -> np.ndarray:
    """To infinitely many samples: errors of second and fourth order are taken away (Richardson)."""
    powers = np.power.outer(np.array(GRIDS, dtype=float), (0, -2, -4))
    return np.asarray(np.linalg.solve(powers, np.stack([on_grid(name, empty, samples) for samples in GRIDS]))[0])


def test_the_record_is_of_the_volume_that_is_exported(tmp_path: Path) -> None:
    """Meep read pfmc's own file; the middle of its cell holds the voxels, x and y and z in their places."""
    judge.export(tmp_path)
    cell = judge.permittivity(tmp_path / "strong.h5")
    assert cell.shape == (240, 240, 384)
    expected = (judge.INDEX + index_map("strong").T) ** 2
    np.testing.assert_allclose(cell[54:192:12, 54:192:12, 72:336:48], expected, rtol=1e-12)
    assert (np.delete(cell, np.s_[48:192], axis=0) == judge.INDEX**2).all()
    with h5py.File(tmp_path / "strong.h5") as file:
        assert file["eps"].attrs["size_um"] == pytest.approx([6.0, 6.0, 12.0])


def test_the_judges_own_error_is_known(empty: dict[str, np.ndarray]) -> None:
    """Without voxels each plane wave goes its way: Yee's error falls as the square, and what is left can be told."""
    coarse, middle, fine = (relative(on_grid("none", empty, samples), empty["x"]) for samples in GRIDS)
    assert middle == pytest.approx(coarse * (12 / 15) ** 2, rel=0.05)
    assert fine == pytest.approx(coarse * (12 / 18) ** 2, rel=0.05)
    assert relative(extrapolated("none", empty), empty["x"]) < 5e-4


@pytest.mark.parametrize(
    ("name", "change", "pattern", "error"), [("weak", 0.19, 1e-2, 1e-3), ("strong", 0.9, 5e-2, 5e-3)]
)
def test_light_in_voxels_is_as_the_vector_solver_has_it(
    empty: dict[str, np.ndarray], name: str, change: float, pattern: float, error: float
) -> None:
    """``change`` is what the voxels do to the light, ``pattern`` what of that is no common phase."""
    expected = extrapolated(name, empty)
    alike = fit(expected, empty["x"]) * empty["x"]
    assert relative(empty["x"], expected) > change and relative(alike, expected) > pattern
    found = amplitudes(index_map(name))
    assert relative(found, expected) < error
    assert relative(found / fit(found, expected), expected) < error / 2


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda index: -index, id="sign"),
        pytest.param(lambda index: index[::-1], id="planes reversed"),
        pytest.param(lambda index: index[[0, 1, 3, 2, 4, 5]], id="two planes swapped"),
        pytest.param(lambda index: index.transpose(0, 2, 1), id="x for y"),
        pytest.param(lambda index: index[:, ::-1], id="mirrored"),
        pytest.param(lambda index: np.roll(index, 1, axis=2), id="shifted by a voxel"),
        pytest.param(lambda index: 0.98 * index, id="a fiftieth too weak"),
    ],
)
def test_another_volume_is_told_apart(empty: dict[str, np.ndarray], wrong: Callable[[np.ndarray], np.ndarray]) -> None:
    assert relative(amplitudes(wrong(index_map("strong"))), extrapolated("strong", empty)) > 1e-2


def test_polarisation_is_left_out_and_does_little(empty: dict[str, np.ndarray]) -> None:
    """Currents along y instead of x on one grid, whose error is the same for both; the ports' share is known."""
    strong = index_map("strong")
    found = on_grid("strong", empty, 12, "y") - on_grid("strong", empty, 12)
    expected = amplitudes(strong, "y") - amplitudes(strong)
    assert np.linalg.norm(found - expected) < 5e-3 * np.linalg.norm(amplitudes(strong))
    along, across = (recorded("strong x 18", component) for component in ("x", "y"))
    assert np.linalg.norm(across) < 1e-2 * np.linalg.norm(along)
