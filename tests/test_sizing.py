"""Accuracy on demand: the cheapest converters and copies by the law of independent errors, and what is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pfmc
from pfmc.errors import CapacityError
from pfmc.netlist.netlist import Provision
from pfmc.sizing import Share, _area, _cheapest, predicted
from pfmc.technology.loader import load

SAMPLE = Path(__file__).parent.parent / "samples" / "digits_mlp"
USUAL = Provision(10, 10)


def test_errors_fall_with_bits_and_copies() -> None:
    share = Share(devices=4e-4, inputs=1e-6, outputs=2e-6)
    assert predicted(share, USUAL, USUAL) == pytest.approx(4.03e-4)
    assert predicted(share, Provision(9, 8, 4), USUAL) == pytest.approx(4e-6 + (32e-6 + 4e-4) / 4)


squares = st.floats(1e-8, 1e-3)


@given(st.lists(st.builds(Share, squares, squares, squares), min_size=1, max_size=3), st.floats(0.02, 0.5))
def test_what_is_chosen_is_enough_and_no_step_down_would_be(shares: list[Share], goal: float) -> None:
    technology = load("sg13g2")
    by_node = {f"n{i}": share for i, share in enumerate(shares)}
    tiles = dict.fromkeys(by_node, 1)
    chosen = _cheapest(goal, 0.0, by_node, tiles, technology)

    def total(provisions: dict[str, Provision]) -> float:
        return sum(predicted(by_node[node], provisions[node], USUAL) for node in by_node)

    assert total(chosen) <= goal**2
    coarser = _cheapest(1.5 * goal, 0.0, by_node, tiles, technology)
    assert sum(_area(p, 1, technology) for p in coarser.values()) <= sum(
        _area(p, 1, technology) for p in chosen.values()
    )


def test_a_model_gets_what_its_accuracy_needs(tmp_path: Path) -> None:
    bundle = pfmc.compile(
        SAMPLE / "model.onnx", tmp_path / "chip", calibration=SAMPLE / "calibration.npz", min_agreement=0.98
    )
    sizing = bundle.manifest.sizing
    assert sizing is not None
    assert sizing.agreement >= 0.98
    assert all(entry.input_bits + entry.output_bits < 20 for entry in sizing.contractions)
    assert {(tile.input_bits, tile.output_bits) for tile in bundle.tiles} == {
        (entry.input_bits, entry.output_bits) for entry in sizing.contractions
    }
    (output,) = bundle.verify(SAMPLE / "test.npz", tolerance=1.0).outputs.values()
    assert output.agreement >= 0.96


def test_what_is_out_of_reach_is_said_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(CapacityError, match="out of reach"):
        pfmc.compile(
            SAMPLE / "model.onnx", tmp_path / "chip", calibration=SAMPLE / "calibration.npz", max_relative_error=1e-5
        )
    assert list(tmp_path.iterdir()) == []
