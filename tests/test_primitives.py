from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from crossbars import small
from hypothesis import given, settings
from hypothesis import strategies as st

from pfmc.errors import CapacityError
from pfmc.physics.crossbar import effective_matrix
from pfmc.physics.network import Wires
from pfmc.physics.precompensation import PairArray
from pfmc.primitives.crossbar import CrossbarTile
from pfmc.technology.loader import load

NAMES = ["sg13g2", "gf180mcu", "generic"]


def as_drawn(tile: CrossbarTile, lengths: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Effective matrix of a whole tile's lengths, the part that is the block."""
    return effective_matrix(1 / tile.resistance(lengths), tile.wires)[: block.shape[0], : block.shape[1]]


def relative(error: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(error) / np.linalg.norm(wanted))


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 64), columns=st.integers(1, 64), skew=st.floats(0.1, 4))
@settings(max_examples=25)
def test_programmed_pairs_realise_the_block(name: str, seed: int, rows: int, columns: int, skew: float) -> None:
    """On the grid, inside the cell's range, and closer to the block than one step of the weak device."""
    tile = CrossbarTile.of(load(name))
    rng = np.random.default_rng(seed)
    block = np.sign(rng.standard_normal((rows, columns))) * rng.random((rows, columns)) ** skew
    scale = tile.scale(float(np.abs(block).max()))
    lengths = tile.program(block, scale, compensate=False).lengths
    used = lengths[:rows, :columns]
    assert np.all(lengths % tile.step == 0)
    assert used.min() >= tile.length_min
    assert used.max() <= tile.length_max
    error = effective_matrix(1 / tile.resistance(used)) - scale * block
    # The weak device's step in conductance, at the strong device's largest excess above the smallest conductance.
    strong_step = tile.conductance_max**2 * tile.resistance_slope * tile.step
    weak = tile.conductance_min + strong_step
    assert np.abs(error).max() <= 0.51 * weak**2 * tile.resistance_slope * tile.step / (1 - weak * strong_step / weak)
    assert relative(error, scale * block) <= 2e-3


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 12), columns=st.integers(1, 12), skew=st.floats(0.1, 4))
@settings(max_examples=15, deadline=None)
def test_the_wires_are_compensated_as_well_as_the_grid_allows(
    name: str, seed: int, rows: int, columns: int, skew: float
) -> None:
    """Judged on the rounded lengths of the whole tile: no weight is off by more than a few steps of a weak device."""
    tile = CrossbarTile.of(small(name, 12, 12))
    tile = replace(tile, wires=Wires(2.0, 5.0, driver=2.0, sense=1.0))
    rng = np.random.default_rng(seed)
    block = np.sign(rng.standard_normal((rows, columns))) * rng.random((rows, columns)) ** skew
    scale = tile.feasible_scale(block)
    programmed = tile.program(block, scale, compensate=True)
    used = programmed.lengths[:rows, :columns]
    assert np.all(programmed.lengths % tile.step == 0)
    assert tile.length_min <= used.min() <= used.max() <= tile.length_max
    error = as_drawn(tile, programmed.lengths, block) - scale * block
    assert programmed.residual == pytest.approx(relative(error, scale * block))
    weak = tile.conductance_min + tile.conductance_max**2 * tile.resistance_slope * tile.step
    assert np.abs(error).max() <= 2 * weak**2 * tile.resistance_slope * tile.step
    assert used.min() <= tile.length_min + 3 * tile.step, "the largest feasible scale uses the whole range"


@pytest.mark.parametrize("name", NAMES)
def test_compensated_wires_against_wires_ignored(name: str) -> None:
    """At full size, with the technology's own wires; the programme is the same each time."""
    tile = CrossbarTile.of(load(name))
    block = np.random.default_rng(7).standard_normal((64, 64))
    scale = tile.feasible_scale(block)
    with_wires, again = (tile.program(block, scale, compensate=True) for _ in range(2))
    without = tile.program(block, scale, compensate=False)
    assert with_wires.residual < 3e-4
    assert without.residual > 300 * with_wires.residual
    error = as_drawn(tile, without.lengths, block) - scale * block
    assert without.residual == pytest.approx(relative(error, scale * block))
    np.testing.assert_array_equal(again.lengths, with_wires.lengths)
    np.testing.assert_array_equal(again.wanted, with_wires.wanted)


@pytest.mark.parametrize(("name", "solved"), [("sg13g2", False), ("sg13g2/rppd", True)])
def test_the_network_is_solved_for_a_scale_only_where_wires_load_it(
    name: str, solved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full tile takes 0.2 ms and not 4; what it then programmes is within the range, both ways."""
    tile = CrossbarTile.of(load(name))
    block = np.random.default_rng(9).standard_normal((64, 64))
    with monkeypatch.context() as m:
        calls: list[object] = []
        effective = PairArray.effective
        m.setattr(PairArray, "effective", lambda *args: (calls.append(args), effective(*args))[1])
        scale = tile.feasible_scale(block)
    assert bool(calls) == solved
    used = tile.program(block, scale, compensate=True).lengths
    assert tile.length_min <= used.min() <= tile.length_min + 3 * tile.step


def test_rounding_goes_to_the_next_level_of_what_was_wanted() -> None:
    """The stronger device at most a step or two from its wanted length: nothing is rounded far away."""
    tile = CrossbarTile.of(load("sg13g2"))
    block = np.random.default_rng(8).standard_normal((64, 64))
    programmed = tile.program(block, tile.feasible_scale(block), compensate=True)
    strong = programmed.lengths.min(axis=2), programmed.wanted.min(axis=2)
    off = (tile.resistance(strong[0]) - strong[1]) / (tile.resistance_slope * tile.step)
    assert np.abs(off).max() < 8
    assert -1 < np.median(off) < 0, "up in conductance: down in length"


@pytest.mark.parametrize("compensate", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_unused_positions_have_the_longest_strip(name: str, compensate: bool) -> None:
    tile = CrossbarTile.of(load(name))
    lengths = tile.program(np.ones((2, 3)), 0.0, compensate=compensate).lengths
    assert np.all(lengths[2:] == tile.length_max)
    assert np.all(lengths[:, 3:] == tile.length_max)
    assert tile.feasible_scale(np.zeros((2, 3))) == 1.0


@pytest.mark.parametrize("name", NAMES)
def test_a_resistance_leads_back_to_its_length(name: str) -> None:
    """What lets a table of devices be drawn again, byte for byte."""
    tile = CrossbarTile.of(load(name))
    lengths = np.arange(tile.length_min, tile.length_max + 1, tile.step)
    np.testing.assert_array_equal(tile.nearest_lengths(tile.resistance(lengths)), lengths)
    with pytest.raises(ValueError, match="outside"):
        tile.nearest_lengths(np.array([1.0]))


@pytest.mark.parametrize("compensate", [True, False])
def test_a_weight_beyond_the_range_is_refused(compensate: bool) -> None:
    tile = CrossbarTile.of(load("generic"))
    with pytest.raises(CapacityError, match="a scale of at most"):
        tile.program(np.ones((1, 1)), 1.01 * tile.scale(1.0), compensate=compensate)
