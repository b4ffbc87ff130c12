"""Accuracy on demand: the cheapest converters and copies by the law of independent errors, and what is made of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from crossbars import layout, records
from hypothesis import given
from hypothesis import strategies as st
from pfmc_backends.crossbar_gdsii import BACKEND

import pfmc
from pfmc.bench import Share, least, standard_error
from pfmc.budget import tile_area, tile_ground
from pfmc.errors import CapacityError, TechnologyError
from pfmc.netlist.netlist import Provision
from pfmc.netlist.netlist import Tile as NetlistTile
from pfmc.primitives.crossbar import CrossbarTile
from pfmc.sizing import Cut, _area, _cheapest, predicted
from pfmc.tailoring import ladder
from pfmc.technology.loader import load
from pfmc.technology.schema import Technology

SAMPLE = Path(__file__).parent.parent / "samples" / "digits_mlp"
USUAL = Provision(10, 10)
ONE = Cut(tiles=1, feeds=1)


def test_errors_fall_with_bits_and_copies() -> None:
    share = Share(devices=4e-4, inputs=1e-6, outputs=2e-6)
    assert predicted(share, USUAL, USUAL) == pytest.approx(4.03e-4)
    assert predicted(share, Provision(9, 8, 4), USUAL) == pytest.approx(4e-6 + (32e-6 + 4e-4) / 4)

    assert predicted(Share(0.0, 0.0, 0.0, rounding=1e-4), replace(USUAL, copies=4), USUAL) == pytest.approx(1e-4)
    assert predicted(Share(0.0, 0.0, 0.0, rounding=1e-4), replace(USUAL, slices=2), USUAL) == 0.0
    assert predicted(Share(0.0, 0.0, 0.0, feeds=1e-4), replace(USUAL, copies=4), USUAL) == pytest.approx(1e-4)


def test_tiles_on_the_same_rows_and_copies_pay_for_one_set_of_input_converters() -> None:
    """Two blocks of rows and three of columns, twice each: twelve tiles at two sets of converters."""
    technology = crossbar("sg13g2")
    dac = technology.periphery.dac_area
    assert dac is not None
    sets = technology.tile.rows.value * dac.si
    tiles = [NetlistTile(f"t{i}", "n", range(i % 2, i % 2 + 1), range(i // 2, i // 2 + 1)) for i in range(6)]
    apart, together = (_area(replace(USUAL, copies=2), cut, technology) for cut in (Cut(6, 12), Cut.of(tiles)))
    assert apart - together == pytest.approx(10 * sets)


def test_few_chips_and_few_samples_leave_a_margin() -> None:
    """Two chips at 0.98 and 1.0 of 100 samples: 0.99, with errors of 0.01 for the chips and 0.00995 for the samples."""
    assert least([0.98, 1.0], 100) == pytest.approx(0.99 - np.hypot(0.01, np.sqrt(0.99 * 0.01 / 100)))
    assert least([0.99], 100) > least([0.98, 1.0], 100)
    assert standard_error([0.1, 0.3]) == pytest.approx(0.1)
    assert standard_error([0.1, np.inf]) == 0.0


def crossbar(name: str) -> Technology:
    technology = load(name)
    assert isinstance(technology, Technology)
    return technology


squares = st.floats(1e-8, 1e-3)


@given(st.lists(st.builds(Share, squares, squares, squares), min_size=1, max_size=3), st.floats(0.02, 0.5))
def test_what_is_chosen_is_enough_and_no_step_down_would_be(shares: list[Share], goal: float) -> None:
    technology = crossbar("sg13g2")
    by_node = {f"n{i}": share for i, share in enumerate(shares)}
    cuts = dict.fromkeys(by_node, ONE)
    chosen = _cheapest(goal, 0.0, by_node, cuts, technology)

    def total(provisions: dict[str, Provision]) -> float:
        return sum(predicted(by_node[node], provisions[node], USUAL) for node in by_node)

    assert total(chosen) <= goal**2
    coarser = _cheapest(1.5 * goal, 0.0, by_node, cuts, technology)
    assert sum(_area(p, ONE, technology) for p in coarser.values()) <= sum(
        _area(p, ONE, technology) for p in chosen.values()
    )


def test_a_model_gets_what_its_accuracy_needs(tmp_path: Path) -> None:
    bundle = pfmc.compile(
        SAMPLE / "model.onnx", tmp_path / "chip", calibration=SAMPLE / "calibration.npz", min_agreement=0.98
    )
    sizing = bundle.manifest.sizing
    assert sizing is not None
    assert sizing.agreement >= 0.98
    chosen = {entry.node: {choice.name: choice.value for choice in entry.choices} for entry in sizing.contractions}
    assert all(choices["input_bits"] + choices["output_bits"] < 20 for choices in chosen.values())
    for tile in bundle.tiles:
        got = {"input_bits": tile.input_bits, "output_bits": tile.output_bits}
        assert chosen[tile.node] == {**got, "copies": tile.copies, "slices": tile.slices}
    technology, area = bundle.manifest.technology, bundle.manifest.area
    ground = tile_ground(technology, USUAL, 1) - tile_area(technology, USUAL)[1]
    stands_around = sum(entry.area_mm2 for entry in sizing.contractions) - 1e6 * ground * bundle.manifest.tiles
    assert area.periphery_mm2 == pytest.approx(stands_around)
    best, *others = sizing.trials
    size = bundle.manifest.technology.tile
    assert (best.rows, best.columns, best.tiles) == (size.rows.value, size.columns.value, bundle.manifest.tiles)
    assert best.area_mm2 == pytest.approx(sum(entry.area_mm2 for entry in sizing.contractions))
    assert best.area_mm2 is not None
    assert all(other.area_mm2 is None or other.area_mm2 >= best.area_mm2 for other in others)
    assert (others[-1].rows, others[-1].columns) == (64, 64)
    (output,) = bundle.verify(SAMPLE / "test.npz", tolerance=1.0).outputs.values()
    assert output.agreement >= 0.96


def test_what_is_out_of_reach_is_said_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(CapacityError, match="out of reach"):
        pfmc.compile(
            SAMPLE / "model.onnx", tmp_path / "chip", calibration=SAMPLE / "calibration.npz", max_relative_error=1e-5
        )
    assert list(tmp_path.iterdir()) == []


def test_a_grid_of_few_lengths_is_mended_by_slices_not_by_copies() -> None:
    technology = crossbar("sg13g2/tapvia")
    share = {"n": Share(devices=1e-4, inputs=1e-8, outputs=1e-8, rounding=1e-2)}
    (provision,) = _cheapest(0.03, 0.0, share, {"n": ONE}, technology).values()
    assert (provision.copies, provision.slices) == (1, 2)


def test_what_lowers_no_error_is_not_paid_for() -> None:
    technology = crossbar("sg13g2")
    share = {"n": Share(devices=1e-3, inputs=0.0, outputs=0.0)}
    (provision,) = _cheapest(1e-4, 0.0, share, {"n": ONE}, technology).values()
    assert (provision.input_bits, provision.output_bits, provision.copies, provision.slices) == (4, 4, 16, 1)


def test_tiles_are_offered_down_to_the_least_side() -> None:
    technology = crossbar("sg13g2")
    sizes = [(int(t.tile.rows.value), int(t.tile.columns.value)) for t in ladder(technology)]
    assert sizes[0] == (64, 64)
    assert sorted(sizes) == [(m, n) for m in (8, 16, 32, 64) for n in (8, 16, 32, 64)]
    with pytest.raises(ValueError, match="not offered"):
        technology.with_tile(4, 64)


@pytest.mark.parametrize("name", ["sg13g2", "sg13g2/tapvia", "gf180mcu", "generic"])
def test_wider_wires_leave_more_of_the_range_and_masks_that_keep_the_rules(name: str, tmp_path: Path) -> None:
    own = crossbar(name)
    (wires,) = own.cell.wider_wires
    wider = own.with_wires(wires)
    block = np.random.default_rng(0).standard_normal((64, 64))
    scales = [CrossbarTile.of(technology).feasible_scale(block) for technology in (own, wider)]
    assert scales[1] > scales[0]
    chip = layout(wider.with_tile(8, 8), [(8, 8), (5, 3)])
    BACKEND.emit(chip, tmp_path, lambda _done: None)
    checked = BACKEND.check_rules(tmp_path, chip.technology, records(chip), lambda _done: None)
    assert not checked.violated


def test_wider_wires_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Blocks of neighbouring strips overlap."""
    text = (Path(pfmc.__file__).parent / "technology" / "library" / "generic.toml").read_text()
    path = tmp_path / "wide.toml"
    path.write_text(text.replace("block_overhang = { value = 0.8", "block_overhang = { value = 0.9"))
    with pytest.raises(TechnologyError, match=r"do not fit the cell: blocks of neighbours overlap.*wider_wires.0"):
        load(str(path))
