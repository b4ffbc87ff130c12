from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfmc.physics.crossbar import effective_matrix
from pfmc.primitives.crossbar import CrossbarTile
from pfmc.technology.loader import load

NAMES = ["sg13g2", "gf180mcu", "generic"]


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 64), columns=st.integers(1, 64), skew=st.floats(0.1, 4))
def test_programmed_pairs_realise_the_block(name: str, seed: int, rows: int, columns: int, skew: float) -> None:
    """On the grid, inside the cell's range, and closer to the block than one step of the weak device."""
    tile = CrossbarTile.of(load(name))
    rng = np.random.default_rng(seed)
    block = np.sign(rng.standard_normal((rows, columns))) * rng.random((rows, columns)) ** skew
    scale = tile.scale(float(np.abs(block).max()))
    lengths = tile.program(block, scale).lengths
    used = lengths[:rows, :columns]
    assert np.all(lengths % tile.step == 0)
    assert used.min() >= tile.length_min
    assert used.max() <= tile.length_max
    error = effective_matrix(1 / tile.resistance(used)) - scale * block
    # The weak device's step in conductance, at the strong device's largest excess above the smallest conductance.
    strong_step = tile.conductance_max**2 * tile.resistance_slope * tile.step
    weak = tile.conductance_min + strong_step
    assert np.abs(error).max() <= 0.51 * weak**2 * tile.resistance_slope * tile.step / (1 - weak * strong_step / weak)
    assert np.linalg.norm(error) <= 2e-3 * np.linalg.norm(scale * block) or np.abs(block).max() == 0


@pytest.mark.parametrize("name", NAMES)
def test_unused_positions_are_an_exact_zero(name: str) -> None:
    tile = CrossbarTile.of(load(name))
    lengths = tile.program(np.ones((2, 3)), 0.0).lengths
    assert np.all(lengths[2:] == tile.length_unused)
    assert np.all(lengths[:, 3:] == tile.length_unused)


@pytest.mark.parametrize("name", NAMES)
def test_a_resistance_leads_back_to_its_length(name: str) -> None:
    """What lets a table of devices be drawn again, byte for byte."""
    tile = CrossbarTile.of(load(name))
    lengths = np.arange(tile.length_min, tile.length_max + 1, tile.step)
    lengths = np.append(lengths, tile.length_unused)
    np.testing.assert_array_equal(tile.nearest_lengths(tile.resistance(lengths)), lengths)
    with pytest.raises(ValueError, match="outside"):
        tile.nearest_lengths(np.array([1.0]))


def test_a_weight_beyond_the_range_is_refused() -> None:
    tile = CrossbarTile.of(load("generic"))
    with pytest.raises(ValueError, match="beyond"):
        tile.program(np.ones((1, 1)), 1.01 * tile.scale(1.0))
