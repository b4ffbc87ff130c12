"""Exports of a written volume, read back by libraries that others wrote, or by a parser of the writer's moves."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from pfmc_backends.glass_voxels import optional
from pfmc_backends.glass_voxels.gwl import write_gwl
from pfmc_backends.glass_voxels.meep import write_meep
from pfmc_backends.glass_voxels.path import passes, segments_of
from pfmc_backends.glass_voxels.pgm import write_pgm
from pfmc_backends.glass_voxels.schedule import write_time
from pfmc_backends.glass_voxels.stl import write_stl
from pfmc_backends.glass_voxels.tiff import write_tiff
from pfmc_backends.glass_voxels.volume import WrittenVolume
from pfmc_backends.glass_voxels.vti import write_vti
from scipy.ndimage import gaussian_filter
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkIOXML import vtkXMLImageDataReader
from written import written_volume

from pfmc.errors import UsageError
from pfmc.physics.volume import Volume

SHAPE = (3, 7, 10)
SCAN = {"scan_pitch": 3e-6, "speed": 0.02}
PATH = Path("unused")


def block() -> Volume:
    """The written volume of this shape as its light would be computed, without blur."""
    return Volume(*SHAPE, voxel=0.9e-6, layer=6e-6, wavelength=1e-6, index=1.4525)


def binary_volume(levels: np.ndarray) -> WrittenVolume:
    two = written_volume((1, 1, 1), levels=2)
    return replace(two, levels=levels.astype(np.uint8))


# Images and grids


def test_tiff_holds_levels_pitch_and_what_levels_are(tmp_path: Path) -> None:
    volume = written_volume(SHAPE)
    write_tiff(volume, tmp_path / "v.tif")
    with tifffile.TiffFile(tmp_path / "v.tif") as file:
        assert np.array_equal(file.asarray(), volume.levels)
        assert file.series[0].axes == "ZYX"
        assert file.pages[0].dtype == np.uint16
        imagej = file.imagej_metadata
        assert imagej is not None
        assert (imagej["unit"], imagej["spacing"], imagej["max"]) == ("um", 6.0, 7.0)
        for tag in ("XResolution", "YResolution"):
            pixels, um = file.pages[0].tags[tag].value
            assert um / pixels == pytest.approx(0.9, rel=1e-6)
    table = json.loads(imagej["Info"])
    assert table["index_change"] == volume.index_change.tolist()
    assert table["power_w"] == volume.power.tolist()


def test_vtk_reads_levels_index_and_geometry(tmp_path: Path) -> None:
    volume = written_volume((5, 300, 400))  # more than a block of base64
    write_vti(volume, tmp_path / "v.vti")
    reader = vtkXMLImageDataReader()
    reader.SetFileName(str(tmp_path / "v.vti"))
    reader.Update()
    image = reader.GetOutput()
    assert reader.GetErrorCode() == 0
    assert image.GetDimensions() == (401, 301, 6)
    assert image.GetSpacing() == pytest.approx((0.9, 0.9, 6.0))
    assert image.GetOrigin() == pytest.approx((-180.0, -135.0, 170.0))
    cells = image.GetCellData()
    assert np.array_equal(vtk_to_numpy(cells.GetArray("level")), volume.levels.ravel())
    assert np.allclose(
        vtk_to_numpy(cells.GetArray("index_change")), volume.index_change[volume.levels].ravel(), rtol=1e-6
    )
    x, y, z = 37, 251, 4  # x is the fastest
    assert vtk_to_numpy(cells.GetArray("level"))[(z * 300 + y) * 400 + x] == volume.levels[z, y, x]


def test_hdf5_holds_the_permittivity_with_x_first(tmp_path: Path) -> None:
    volume = written_volume(SHAPE, sign=-1)
    write_meep(volume, tmp_path / "v.h5", block())
    with h5py.File(tmp_path / "v.h5") as file:
        assert list(file) == ["eps"]
        permittivity = file["eps"][()]
        assert file["eps"].attrs["size_um"] == pytest.approx([9.0, 6.3, 18.0])
    assert permittivity.shape == (4 * 10, 4 * 7, 8 * 3)
    assert permittivity[35, 20, 15] == (1.4525 + volume.index_change[volume.levels[1, 5, 8]]) ** 2
    expected = volume.refractive_index() ** 2
    for axis, count in enumerate((8, 4, 4)):
        expected = np.repeat(expected, count, axis)
    np.testing.assert_allclose(permittivity.T, expected, rtol=1e-12)


def test_hdf5_holds_the_blur_of_the_writing(tmp_path: Path) -> None:
    """Each layer by its own standard deviation, as SciPy blurs it on a grid five times as fine."""
    volume, spreads = written_volume(SHAPE), (0.45e-6, 0.6e-6, 0.9e-6)
    write_meep(volume, tmp_path / "v.h5", replace(block(), spread=spreads))
    with h5py.File(tmp_path / "v.h5") as file:
        change = np.sqrt(file["eps"][()].T) - volume.index
        across = file["eps"].attrs["size_um"][:2] / 0.225
    assert across == pytest.approx(change.shape[:0:-1])
    rims = [(n - 4 * voxels) // 2 for n, voxels in zip(change.shape[1:], SHAPE[1:], strict=True)]
    assert min(rims) >= 16  # four standard deviations of 0.9 um
    for layer, spread in enumerate(spreads):
        fine = np.kron(volume.index_change[volume.levels[layer]], np.ones((20, 20)))
        fine = gaussian_filter(np.pad(fine, [(5 * rim, 5 * rim) for rim in rims]), spread / 0.045e-6, truncate=6)
        np.testing.assert_allclose(change[8 * layer + 3], fine[2::5, 2::5], atol=1e-5)  # of 4e-3


@pytest.mark.parametrize("name", ["tifffile", "h5py"])
def test_a_library_that_is_missing_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(UsageError, match=r"needs the library .*pip install 'pfmc\[glass\]'"):
        optional.library(name)


# The boundary


def edges_that_meet_no_other(mesh: trimesh.Trimesh) -> int:
    """Edges whose number of uses in one direction is not that in the other."""
    balance: Counter[tuple[int, int]] = Counter()
    for a, b in mesh.edges:
        balance[min(a, b), max(a, b)] += 1 if a < b else -1
    return sum(count != 0 for count in balance.values())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.tuples(st.integers(1, 10), st.integers(1, 5), st.integers(1, 4)))
def test_boundary_is_closed_and_holds_the_written_volume(
    tmp_path_factory: pytest.TempPathFactory, seed: int, shape: tuple[int, int, int]
) -> None:
    levels = np.random.default_rng(seed).integers(0, 2, shape)
    levels[0, 0, 0] = 1
    path = tmp_path_factory.mktemp("stl") / "v.stl"
    write_stl(binary_volume(levels), path)
    mesh = trimesh.load_mesh(path)
    assert edges_that_meet_no_other(mesh) == 0
    assert mesh.volume == pytest.approx(levels.sum() * 0.9 * 0.9 * 6.0, rel=1e-4)  # signed: normals point outwards
    padded = np.pad(levels, 1)
    faces = sum(np.count_nonzero(np.diff(padded, axis=axis)) for axis in range(3))
    assert len(mesh.faces) == 2 * faces


def test_boundary_without_diagonal_contacts_is_watertight(tmp_path: Path) -> None:
    levels = np.zeros((20, 9, 12))
    levels[2:19, 1:8, 1:4] = levels[4:7, 3:6, 4:11] = 1  # a bar with an arm, across slabs
    levels[9:12, 3:5, 2] = 0  # and a hollow
    write_stl(binary_volume(levels), tmp_path / "v.stl")
    mesh = trimesh.load_mesh(tmp_path / "v.stl")
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(levels.sum() * 0.9 * 0.9 * 6.0, rel=1e-5)
    assert mesh.bounds[0] == pytest.approx([(1 - 6) * 0.9, (1 - 4.5) * 0.9, 170 + 2 * 6], rel=1e-6)
    assert mesh.bounds[1] == pytest.approx([(11 - 6) * 0.9, (8 - 4.5) * 0.9, 170 + 19 * 6], rel=1e-6)
    assert mesh.face_normals.sum(axis=0) == pytest.approx([0, 0, 0], abs=1e-6)


def test_stored_normals_are_those_of_the_corners(tmp_path: Path) -> None:
    write_stl(binary_volume(np.ones((2, 3, 4))), tmp_path / "v.stl")
    data = (tmp_path / "v.stl").read_bytes()
    assert len(data) == 84 + 50 * int.from_bytes(data[80:84], "little")
    rows = np.frombuffer(data[84:], np.dtype([("f", "<f4", (4, 3)), ("a", "<u2")]))["f"]
    normals = np.cross(rows[:, 2] - rows[:, 1], rows[:, 3] - rows[:, 1])
    assert np.allclose(normals / np.linalg.norm(normals, axis=1, keepdims=True), rows[:, 0], atol=1e-5)


def test_boundary_of_many_levels_is_refused() -> None:
    with pytest.raises(UsageError, match="has 8 levels"):
        write_stl(written_volume(SHAPE), PATH)


# The path and the programs


def rebuilt(
    volume: WrittenVolume, moves: list[tuple[float, float, float, float, float]], pitch: float, bottom: float | None
) -> np.ndarray:
    """Levels from written moves (x0, x1, y, z, power), lengths in um; all passes of a layer must agree."""
    layers, rows, columns = volume.levels.shape
    count = round(volume.layer / pitch)
    found = np.zeros((layers * count, rows, columns), int)
    for x0, x1, y, z, power in moves:
        depth = z if bottom is None else bottom - z
        number = (depth - volume.depth * 1e6) / (pitch * 1e6) - 0.5
        row = y / (volume.voxel * 1e6) + rows / 2 - 0.5
        edges = sorted(x / (volume.voxel * 1e6) + columns / 2 for x in (x0, x1))
        for value in (number, row, *edges):
            assert value == pytest.approx(round(value), abs=1e-3)
        part = found[round(number), round(row), round(edges[0]) : round(edges[1])]
        assert part.size
        assert not part.any(), "written twice"
        part[:] = np.argmin(abs(volume.power - power))
    assert np.array_equal(found, np.repeat(found[::count], count, axis=0))
    return found[::count]


def gwl_moves(path: Path, full_power: float) -> list[tuple[float, float, float, float, float]]:
    moves, points = [], []
    for line in path.read_text().splitlines():
        if re.match(r"[-\d]", line):
            points.append([float(word) for word in line.split()])
        elif line == "Write":
            (x0, y0, z0, p0), (x1, y1, z1, p1) = points
            assert (y0, z0, p0) == (y1, z1, p1)
            moves.append((x0, x1, y0, z0, p0 / 100 * full_power))
            points = []
        else:
            assert re.fullmatch(r"%.*|[A-Z][A-Za-z]+( [\d.e+]+)?", line), line
    assert not points
    return moves


def pgm_moves(path: Path, full_power: float) -> tuple[list[tuple[float, float, float, float, float]], list[float]]:
    """Moves with the light on, and dwells; the head stands where the last move left it."""
    at = {"X": 0.0, "Y": 0.0, "Z": 0.0}
    power, moves, dwells = 0.0, [], []
    for line in path.read_text().splitlines():
        if line.startswith("'") or re.fullmatch(r"G71|G76|G90|G108|F[\d.]+|END PROGRAM", line):
            continue
        if match := re.fullmatch(r"\$AO\[0\]\.X=([\d.]+)", line):
            power = float(match[1]) / 10 * full_power
        elif match := re.fullmatch(r"G4 P([\d.e-]+)", line):
            assert power == 0, "dwells with the light on"
            dwells.append(float(match[1]))
        else:
            match = re.fullmatch(r"G1((?: ?[XYZ]-?[\d.]+)+)", line)
            assert match, line
            target = at | {axis: 1e3 * float(value) for axis, value in re.findall(r"([XYZ])(-?[\d.]+)", match[1])}
            if power:
                assert (target["Y"], target["Z"]) == (at["Y"], at["Z"])
                moves.append((at["X"], target["X"], at["Y"], at["Z"], power))
            at = target
    assert power == 0
    return moves, dwells


VOLUMES = [written_volume(SHAPE), written_volume((1, 1, 1), 2), written_volume((2, 3, 4), levels=200, sign=-1)]


@pytest.mark.parametrize("volume", [*VOLUMES, binary_volume(np.eye(6)[None])])
def test_moves_of_gwl_rebuild_the_voxels(tmp_path: Path, volume: WrittenVolume) -> None:
    write_gwl(volume, tmp_path / "v.gwl", **SCAN, full_power=0.5)
    bottom = (volume.depth + len(volume.levels) * volume.layer) * 1e6
    moves = gwl_moves(tmp_path / "v.gwl", 0.5)
    assert np.array_equal(rebuilt(volume, moves, 3e-6, bottom), volume.levels)
    heights = [move[3] for move in moves]
    assert heights == sorted(heights), "a layer stands on the one before"
    assert "ScanSpeed 20000\n" in (tmp_path / "v.gwl").read_text()


@pytest.mark.parametrize("volume", [*VOLUMES, binary_volume(np.eye(6)[None])])
def test_moves_of_pgm_rebuild_the_voxels(tmp_path: Path, volume: WrittenVolume) -> None:
    write_pgm(volume, tmp_path / "v.pgm", **SCAN, line_settling=2e-3, full_power=0.5)
    moves, dwells = pgm_moves(tmp_path / "v.pgm", 0.5)
    assert np.array_equal(rebuilt(volume, moves, 3e-6, None), volume.levels)
    depths = [move[3] for move in moves]
    assert depths == sorted(depths, reverse=True), "light would pass what is written"
    time = write_time(volume, **SCAN, line_settling=2e-3, layer_move=0.1)
    assert sum(dwells) == pytest.approx(time.settling_s)
    assert time.segments == len(moves)
    assert sum(abs(x1 - x0) for x0, x1, *_ in moves) * 1e-6 / SCAN["speed"] == pytest.approx(time.writing_s, rel=1e-5)


@given(st.integers(0, 10_000), st.tuples(st.integers(1, 6), st.integers(1, 8)), st.integers(2, 4))
def test_segments_are_maximal_runs_written_to_and_fro(seed: int, shape: tuple[int, int], levels: int) -> None:
    image = np.random.default_rng(seed).integers(0, levels, shape, dtype=np.uint8)
    segments = segments_of(image)
    found = np.zeros_like(image)
    at: tuple[int, int] | None = None
    last = 0
    for row, start, stop, level, opens, begins in zip(
        segments.row, segments.start, segments.stop, segments.level, segments.opens, segments.begins, strict=True
    ):
        assert (start < stop) == (row % 2 == 0)
        assert begins == (at is None or at[0] != row)
        assert opens == (at != (row, start))
        assert opens or level != last, "two segments that are one"
        part = found[row, min(start, stop) : max(start, stop)]
        assert not part.any()
        part[:] = level
        at, last = (row, stop), level
    assert np.array_equal(found, image)


def test_time_of_a_volume_reckoned_by_hand() -> None:
    levels = np.zeros((3, 4, 6), np.uint8)
    levels[1, 0, 1:3], levels[1, 0, 3], levels[1, 0, 5] = 1, 2, 1  # three segments, one gap of a voxel
    levels[1, 2, 4:6] = 1  # from the end of row 0 at edge 6 to edge 4 of row 2: both go forward
    volume = replace(written_volume((1, 1, 1), levels=3), levels=levels)
    time = write_time(volume, scan_pitch=2e-6, speed=1e-3, line_settling=0.25, layer_move=0.5)
    assert (time.voxels, time.segments, time.lines, time.passes) == (6, 12, 6, 3)
    assert time.writing_s == pytest.approx(3 * 6 * 0.9e-6 / 1e-3)
    assert time.moving_s == pytest.approx(3 * (1 + np.hypot(2, 2)) * 0.9e-6 / 1e-3)
    assert time.settling_s == 6 * 0.25
    assert time.layers_s == 3 * 0.5
    assert time.seconds == pytest.approx(time.writing_s + time.moving_s + 1.5 + 1.5)


def test_volume_in_which_nothing_is_written_takes_no_time_and_no_moves(tmp_path: Path) -> None:
    volume = replace(written_volume(SHAPE), levels=np.zeros(SHAPE, np.uint8))
    assert write_time(volume, **SCAN, line_settling=1.0, layer_move=1.0).seconds == 0
    write_pgm(volume, tmp_path / "v.pgm", **SCAN, line_settling=2e-3, full_power=0.5)
    assert pgm_moves(tmp_path / "v.pgm", 0.5) == ([], [])
    write_gwl(volume, tmp_path / "v.gwl", **SCAN, full_power=0.5)
    assert gwl_moves(tmp_path / "v.gwl", 0.5) == []


@pytest.mark.parametrize("pitch", [0.0, -3e-6, 4e-6, 7e-6, 100e-6])
def test_passes_that_do_not_fill_a_layer_are_refused(pitch: float) -> None:
    with pytest.raises(UsageError, match="do not fill a layer"):
        passes(written_volume(SHAPE), pitch)


def test_more_power_than_there_is_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    volume = written_volume(SHAPE)
    with pytest.raises(UsageError, match=r"a level needs 0\.31 W of 0\.3 W"):
        write_gwl(volume, tmp_path / "v", **SCAN, full_power=0.3)
    with pytest.raises(UsageError, match=r"a level needs 0\.31 W of 0\.3 W"):
        write_pgm(volume, tmp_path / "v", **SCAN, line_settling=0.0, full_power=0.3)
    assert not list(tmp_path.iterdir())


WRITERS: dict[str, Callable[[WrittenVolume, Path], None]] = {
    "tiff": write_tiff,
    "vti": write_vti,
    "meep": lambda volume, path: write_meep(volume, path, block()),
    "stl": write_stl,
    "gwl": lambda volume, path: write_gwl(volume, path, **SCAN, full_power=0.5),
    "pgm": lambda volume, path: write_pgm(volume, path, **SCAN, line_settling=1e-3, full_power=0.5),
}


@pytest.mark.parametrize("name", WRITERS)
def test_same_volume_same_bytes(tmp_path: Path, name: str) -> None:
    volume = binary_volume(np.random.default_rng(3).integers(0, 2, SHAPE))
    for copy in ("a", "b"):
        WRITERS[name](volume, tmp_path / copy)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("name", ["gwl", "pgm"])
def test_a_name_adds_no_line_to_a_program(tmp_path: Path, name: str) -> None:
    volume = written_volume(SHAPE)
    WRITERS[name](volume, tmp_path / "a")
    WRITERS[name](replace(volume, name="fc1\nG1 X1 µ"), tmp_path / "b")
    lines = [(tmp_path / copy).read_text().splitlines() for copy in "ab"]
    assert lines[0][1:] == lines[1][1:]
