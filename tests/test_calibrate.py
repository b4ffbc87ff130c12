"""Ranges of converters: what each rule keeps and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import context, weight
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pfmc_passes.calibrate import Calibrate, Rule
from pfmc_passes.inputs import thinned
from pfmc_passes.normalise import Normalise
from pfmc_passes.tile import Tile

from pfmc.errors import PassError, UsageError
from pfmc.ir.graph import Graph, MatMul
from pfmc.netlist.netlist import Netlist, Range
from pfmc.passmanager import Context, with_options
from pfmc.technology.loader import load

TECHNOLOGY = load("generic")
INPUT_BITS = int(TECHNOLOGY.converters.input_bits.value)
OUTPUT_BITS = int(TECHNOLOGY.converters.output_bits.value)


def chip(folder: Path, values: np.ndarray, x: np.ndarray) -> tuple[Netlist, Context]:
    """One contraction on tiles of 4 x 3."""
    matmul = MatMul("fc", "x", "y", weight(folder, "fc.weight", values.astype(np.float32)), None, ("fc",))
    graph = Graph("g", ("x",), ("y",), (matmul,), {"x": (None, len(values)), "y": (None, values.shape[1])})
    where = context(TECHNOLOGY, {"x": x})
    return Tile(rows=4, columns=3).run(Normalise().run(graph, where), where), where


def ranged(netlist: Netlist, where: Context, **options: object) -> Netlist:
    step = Calibrate(**options)  # type: ignore[arg-type]
    result = step.run(netlist, where)
    step.ensures(netlist, result)
    return result


def error(values: np.ndarray, span: Range, bits: int) -> float:
    """Mean square of what a converter with this range makes of values, less the values; without the pass's own code."""
    lowest, highest = span.codes(bits)
    levels = np.arange(lowest, highest + 1) * (span.high / highest)
    nearest = np.abs(values.reshape(-1, 1) - levels).min(axis=1)
    return float(np.mean(nearest**2))


def heavy_tailed(rng: np.random.Generator, vectors: int, rows: int) -> np.ndarray:
    return rng.standard_t(2.0, (vectors, rows)).astype(np.float32)


data = arrays(np.float32, (30, 6), elements=st.floats(-(2.0**40), 2.0**40, width=32))


@settings(max_examples=40, deadline=None)
@given(x=data, seed=st.integers(0, 2**32 - 1))
def test_the_mse_range_is_never_worse_than_the_largest_value(
    tmp_path_factory: pytest.TempPathFactory, x: np.ndarray, seed: int
) -> None:
    values = np.random.default_rng(seed).standard_normal((6, 5))
    netlist, where = chip(tmp_path_factory.mktemp("mse"), values, x)
    largest, best = (ranged(netlist, where, range=rule) for rule in (Rule.LARGEST, Rule.MSE))
    for wide, chosen in zip(largest.tiles, best.tiles, strict=True):
        inputs = x[:, wide.rows.start : wide.rows.stop].astype(np.float64)
        for before, after, seen, bits in (
            (wide.input_range, chosen.input_range, inputs, INPUT_BITS),
            (wide.output_range, chosen.output_range, inputs @ netlist.block(wide), OUTPUT_BITS),
        ):
            assert before is not None
            assert after is not None
            assert 0 < after.high <= before.high
            assert after.signed == before.signed
            rounded = 1e-6 * before.high**2 / 4.0**bits  # float32
            assert error(seen, after, bits) <= error(seen, before, bits) * (1 + 1e-3) + rounded


def test_with_few_bits_rare_values_are_cut_off(tmp_path: Path, rng: np.random.Generator) -> None:
    """Normal values and 4 bits: the range of least error is 2.6 standard deviations (J. Max, 1960), the largest 4.5."""
    coarse = TECHNOLOGY.converters.model_copy(
        update={"input_bits": TECHNOLOGY.converters.input_bits.model_copy(update={"value": 4.0})}
    )
    x = rng.standard_normal((20000, 6)).astype(np.float32)
    netlist, where = chip(tmp_path, rng.standard_normal((6, 5)), x)
    where = replace(where, technology=TECHNOLOGY.model_copy(update={"converters": coarse}))
    wide, cut = (ranged(netlist, where, range=rule).tiles[0].input_range for rule in (Rule.LARGEST, Rule.MSE))
    assert wide is not None
    assert cut is not None
    assert 2.4 < cut.high < 3.2
    assert error(x[:, :4], cut, 4) < 0.5 * error(x[:, :4], wide, 4)


def test_where_no_value_is_far_out_nothing_is_cut_off(tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.random((500, 6)).astype(np.float32)
    netlist, where = chip(tmp_path, np.abs(rng.standard_normal((6, 5))), x)
    assert ranged(netlist, where).tiles == ranged(netlist, where, range=Rule.LARGEST).tiles


@pytest.mark.parametrize("percentile", [50.0, 99.0, 100.0])
def test_a_percentile_of_the_values_lies_within(tmp_path: Path, rng: np.random.Generator, percentile: float) -> None:
    x = heavy_tailed(rng, 3000, 6)
    netlist, where = chip(tmp_path, rng.standard_normal((6, 5)), x)
    for tile in ranged(netlist, where, range=Rule.PERCENTILE, percentile=percentile).tiles:
        assert tile.input_range is not None
        inputs = np.abs(x[:, tile.rows.start : tile.rows.stop])
        assert np.mean(inputs <= tile.input_range.high * (1 + 1e-6)) >= percentile / 100
        narrower = np.mean(inputs <= 0.89 * tile.input_range.high)  # by a step
        assert narrower < percentile / 100 or tile.input_range.high < inputs.max() / 6  # the least that is tried


@pytest.mark.parametrize("rule", list(Rule))
@pytest.mark.parametrize("value", [0.0, 3.0, -3.0, 1e-30])
def test_constant_inputs_have_a_range(tmp_path: Path, rule: Rule, value: float) -> None:
    x = np.full((20, 6), value, dtype=np.float32)
    netlist, where = chip(tmp_path, np.ones((6, 5)), x)
    for tile in ranged(netlist, where, range=rule).tiles:
        assert tile.input_range is not None and tile.mean_square is not None
        assert tile.input_range.high >= abs(value)
        assert np.isfinite(tile.mean_square).all()


@pytest.mark.parametrize("rule", list(Rule))
def test_nan_among_the_data_counts_for_nothing_and_infinity_is_refused(
    tmp_path: Path, rng: np.random.Generator, rule: Rule
) -> None:
    x = rng.standard_normal((40, 6)).astype(np.float32)
    netlist, where = chip(tmp_path, rng.standard_normal((6, 5)), x)
    spoilt = np.concatenate([x, np.full((1, 6), np.nan, dtype=np.float32)])
    assert (
        ranged(netlist, context(TECHNOLOGY, {"x": spoilt}), range=rule).tiles
        == ranged(netlist, where, range=rule).tiles
    )
    spoilt[-1] = np.inf
    with pytest.raises(PassError, match="input range is"), np.errstate(invalid="ignore"):
        ranged(netlist, context(TECHNOLOGY, {"x": spoilt}), range=rule)


def test_tiles_side_by_side_share_their_input_range(tmp_path: Path, rng: np.random.Generator) -> None:
    netlist, where = chip(tmp_path, rng.standard_normal((6, 9)), heavy_tailed(rng, 300, 6))
    shared = {(tile.rows.start, tile.input_range) for tile in ranged(netlist, where).tiles}
    assert len(shared) == 2


def test_how_the_data_come_in_batches_makes_no_difference(tmp_path: Path, rng: np.random.Generator) -> None:
    x = heavy_tailed(rng, 300, 6)
    netlist, where = chip(tmp_path, rng.standard_normal((6, 5)), x)

    def batches(names: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        yield from (dict.fromkeys(names, part) for part in np.split(x, 10))

    for rule in Rule:
        apart = ranged(netlist, replace(where, activations=batches), range=rule)
        for one, other in zip(apart.tiles, ranged(netlist, where, range=rule).tiles, strict=True):
            assert one.input_range == other.input_range
            assert one.output_range is not None and other.output_range is not None
            assert one.output_range.high == pytest.approx(other.output_range.high, rel=1e-6)


def test_options_by_their_names() -> None:
    assert with_options(Calibrate, {"range": "percentile", "percentile": "99"}) == Calibrate(Rule.PERCENTILE, 99.0)
    with pytest.raises(UsageError, match=r"'most' is not one of largest, percentile, mse, calibrate.range"):
        with_options(Calibrate, {"range": "most"})
    with pytest.raises(UsageError, match="percentile must be above 0"):
        with_options(Calibrate, {"percentile": "0"})


@given(images=st.integers(1, 200), width=st.integers(2, 160), most=st.integers(32, 2048))
def test_vectors_are_not_those_of_a_few_places_of_every_image(images: int, width: int, most: int) -> None:
    """Every so-manieth would be: 64 of 1024 windows of images 16 wide are all of the first column."""
    vectors = np.arange(images * width, dtype=np.float64)[:, None]
    found = thinned(vectors, most)
    places = np.unique(found % width)
    assert len(np.unique(found)) == min(most, images * width)
    # Drawn at random they would be of 63 per cent of the places, where there are as many places as vectors.
    assert len(places) > min(width, len(found)) / 3
    assert len(np.unique(found // width)) > min(images, len(found)) / 3
