"""What a coarse grid adds on average goes into the bias."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builders import context, weight
from crossbars import small
from hypothesis import given, settings
from hypothesis import strategies as st
from pfmc_passes.calibrate import Calibrate
from pfmc_passes.debias import Debias
from pfmc_passes.merge import Merge
from pfmc_passes.normalise import Normalise
from pfmc_passes.provide import Provide
from pfmc_passes.scale import Scale
from pfmc_passes.tile import Tile

import pfmc
from pfmc.driver import CompileOptions, compile_model
from pfmc.ir.graph import Gemm, Graph, MatMul, MatrixVector
from pfmc.layout.layout import WeightProgramme
from pfmc.netlist.netlist import Netlist
from pfmc.observer import Silent
from pfmc.physics.crossbar import effective_matrix
from pfmc.primitives.crossbar import CrossbarTile

SAMPLE = Path(__file__).parents[1] / "samples" / "digits_mlp"
TECHNOLOGY = small("sg13g2/tapvia", 4, 3)


def computed(netlist: Netlist, node: MatrixVector, x: np.ndarray) -> np.ndarray:
    """What tiles as they are drawn make of vectors, copies on average and second slices added."""
    primitive = CrossbarTile.of(TECHNOLOGY)
    programme, y = WeightProgramme(netlist, primitive), np.zeros((len(x), node.matrix.columns))
    for tile in (tile for tile in netlist.tiles if tile.node == node.name):
        assert tile.provision is not None
        lengths = programme.devices(tile).lengths
        conductance = 1 / primitive.resistance(lengths)
        siemens = effective_matrix(conductance, primitive.network(lengths).wires)[: len(tile.rows), : len(tile.columns)]
        share = 1 if tile.remainder_of is not None else tile.provision.copies
        y[:, tile.columns.start : tile.columns.stop] += (
            x[:, tile.rows.start : tile.rows.stop] @ siemens / tile.scale / share
        )
    return y


@settings(max_examples=12)
@given(seed=st.integers(0, 999), copies=st.integers(1, 2), slices=st.integers(1, 2), low=st.sampled_from([0.0, -1.0]))
def test_the_mean_of_every_output_is_right_as_drawn(
    tmp_path_factory: pytest.TempPathFactory, seed: int, copies: int, slices: int, low: float
) -> None:
    """Of contractions that stand side by side, one of them with a bias, on tiles of several blocks."""
    folder, rng = tmp_path_factory.mktemp("debias"), np.random.default_rng(seed)
    x = rng.uniform(low, 1.0, (30, 6)).astype(np.float32)
    first, second = (rng.standard_normal((6, n)).astype(np.float32) for n in (5, 2))
    bias = rng.standard_normal(2)
    nodes = (
        MatMul("a", "x", "ya", weight(folder, "a", first), None, ("a",)),
        Gemm("b", "x", "yb", weight(folder, "b", second), bias, ("b",)),
    )
    graph = Graph("two", ("x",), ("ya", "yb"), nodes, {"x": (None, 6), "ya": (None, 5), "yb": (None, 2)})
    where, current = context(TECHNOLOGY, {"x": x}), graph
    for step in (Normalise(), Merge(), Tile(), Scale(), Calibrate(), Provide(copies=copies, slices=slices), Debias()):
        current = step.run(current, where)  # type: ignore[assignment,arg-type]
    assert isinstance(current, Netlist)
    (node,) = current.graph.matrices()
    assert len(node.parts) == 2
    biases = np.concatenate([np.asarray(part.bias) for part in node.parts])
    found = (computed(current, node, x) + biases).mean(axis=0)
    wanted = np.concatenate([x @ first, x @ second + bias], axis=1).mean(axis=0)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_contractions_that_share_tiles_are_left_alone(tmp_path: Path, rng: np.random.Generator) -> None:
    stored = weight(tmp_path, "w", rng.standard_normal((4, 4)).astype(np.float32))
    nodes = tuple(MatMul(name, x, y, stored, None, (name,)) for name, x, y in (("a", "x", "h"), ("b", "h", "y")))
    current: object = Graph("twice", ("x",), ("y",), nodes, {})
    where = context(
        TECHNOLOGY, {"x": rng.random((9, 4)).astype(np.float32), "h": rng.random((9, 4)).astype(np.float32)}
    )
    for step in (Normalise(), Tile(), Scale(), Calibrate(), Provide(), Debias()):
        current = step.run(current, where)  # type: ignore[arg-type]
    assert isinstance(current, Netlist)
    assert all(node.bias is None for node in current.graph.matrices())


def test_a_network_of_few_values_is_half_as_far_off(tmp_path: Path) -> None:
    errors = []
    for name, passes in (("plain", ()), ("debiased", ("debias",))):
        options = CompileOptions(technology="sg13g2/tapvia", calibration=SAMPLE / "calibration.npz", add_passes=passes)
        compile_model(SAMPLE / "model.onnx", tmp_path / name, options, Silent())
        (output,) = pfmc.open(tmp_path / name).verify(SAMPLE / "test.npz", tolerance=1.0).outputs.values()
        assert output.relative_error is not None
        errors.append(output.relative_error)
    assert errors[1] < 0.6 * errors[0]  # on images that were not seen
