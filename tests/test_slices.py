"""A second slice of significance: what a coarse grid leaves of a block, on another tile at a larger scale."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from crossbars import layout, records, small
from pfmc_backends.crossbar_gdsii import BACKEND

import pfmc
from pfmc.backend import TileAsBuilt
from pfmc.errors import PassError
from pfmc.netlist.netlist import Provision, Range, Tile
from pfmc.physics.crossbar import IDEAL
from pfmc.primitives.crossbar import CrossbarTile
from pfmc.slices import provided, second_slice
from pfmc.technology.loader import load
from pfmc.technology.schema import Technology

SAMPLE = Path(__file__).parent.parent / "samples" / "digits_cnn"


@pytest.fixture(scope="module")
def primitive() -> CrossbarTile:
    technology = load("sg13g2/tapvia")
    assert isinstance(technology, Technology)
    return CrossbarTile.of(technology)


@pytest.fixture(scope="module")
def block() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((12, 5))


@pytest.fixture(scope="module")
def coarse(primitive: CrossbarTile, block: np.ndarray) -> Tile:
    scale = primitive.feasible_scale(block)
    return Tile("t", "n", range(12), range(5), Range(0.0, 2.0), Range(-9.0, 9.0), scale=scale, compensated=True)


def test_two_slices_together_are_nearer_to_the_block_than_one(
    primitive: CrossbarTile, block: np.ndarray, coarse: Tile
) -> None:
    left = primitive.remainder(block, coarse.scale, compensate=True)
    second = second_slice(coarse, block, primitive)
    assert second is not None
    assert second.scale > 5 * coarse.scale
    left_then = primitive.remainder(left, second.scale, compensate=True)
    assert np.linalg.norm(left_then) < 0.15 * np.linalg.norm(left)
    reach = np.abs(left).sum(axis=0).max() * 2.0
    assert second.output_range == Range(-reach, reach)


def test_vias_that_move_are_read_where_they_were_reckoned_with(tmp_path: Path) -> None:
    """What lies between two vias of a column is not what lies between two rows."""
    chip = layout(small("sg13g2/tapvia", 8, 4), [(8, 4), (5, 3)])
    BACKEND.emit(chip, tmp_path, lambda _done: None)
    read = BACKEND.read(tmp_path, chip.technology, records(chip), lambda _done: None)
    primitive = CrossbarTile.of(chip.technology)
    for built, (_placed, programmed) in zip(read, chip.programmed(), strict=True):
        assert isinstance(built, TileAsBuilt)
        expected = np.asarray(primitive.network(programmed.lengths).wires.column_segment)
        assert np.ptp(expected[1:]) > 0.1
        np.testing.assert_allclose(built.wires.column_segment, expected, rtol=1e-9)


def test_a_block_without_remainder_has_one_slice(primitive: CrossbarTile) -> None:
    tile = Tile("t", "n", range(2), range(2), Range(0.0, 1.0), Range(-1.0, 1.0), scale=1.0)
    assert second_slice(tile, np.zeros((2, 2)), replace(primitive, wires=IDEAL)) is None


def test_copies_come_first_and_the_second_slice_once(primitive: CrossbarTile, block: np.ndarray, coarse: Tile) -> None:
    tiles = list(provided(coarse, block, Provision(8, 8, copies=3, slices=2), primitive))
    assert [tile.copy for tile in tiles] == [0, 1, 2, 3]
    assert [tile.remainder_of for tile in tiles] == [None, None, None, coarse.scale]


def test_slices_are_built_read_back_and_added(tmp_path: Path) -> None:
    """16 values: one tile of each block is far off, two copies as far, and two slices much nearer."""
    errors = []
    for name, options in (
        ("one", {}),
        ("copies", {"provide.copies": 2}),
        ("slices", {"provide.slices": 2}),
    ):
        calibration = SAMPLE / "calibration.npz"
        bundle = pfmc.compile(
            SAMPLE / "model.onnx", tmp_path / name, technology="sg13g2/tapvia", calibration=calibration, options=options
        )
        verdict = bundle.verify(SAMPLE / "test.npz", tolerance=1.0, lvs=name == "slices")
        assert not verdict.lvs
        (output,) = verdict.outputs.values()
        assert output.relative_error is not None
        errors.append(output.relative_error)
    (exact,) = bundle.verify(SAMPLE / "test.npz", tolerance=1.0, ideal_converters=True).outputs.values()
    assert exact.relative_error is not None
    assert exact.relative_error < 0.01
    assert errors[1] == pytest.approx(errors[0], rel=0.05)
    assert errors[2] < 0.7 * errors[0]


def test_slices_are_of_crossbars(block: np.ndarray, coarse: Tile) -> None:
    with pytest.raises(PassError, match="only crossbars have slices"):
        list(provided(coarse, block, Provision(8, 8, slices=2), None))
