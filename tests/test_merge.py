"""Contractions of the same input side by side on the same rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from builders import weight
from exact import fabricated_exactly
from mapping import computed, imported_as_it_is
from models import FLOAT, model, node
from onnx import helper
from pfmc_passes.fold import Fold
from pfmc_passes.merge import Merge
from pfmc_passes.normalise import Normalise
from pfmc_passes.tile import Tile

from pfmc.check.lift import host_model
from pfmc.ir.beside import Beside
from pfmc.ir.graph import Graph, MatMul
from pfmc.ir.text import render
from pfmc.ir.weights import Matrix
from pfmc.passmanager import Context
from pfmc.technology.loader import load

CONTEXT = Context(load("sg13g2"), lambda _: iter(()), "made")


def typed(made: onnx.ModelProto, rank: int) -> onnx.ModelProto:
    for value in made.graph.output:
        value.CopyFrom(helper.make_tensor_value_info(value.name, FLOAT, [None] * rank))
    return made


def merged(graph: Graph) -> Graph:
    for step in (Normalise(), Fold(), Merge()):
        made = step.run(graph, CONTEXT)
        made.verify()
        step.ensures(graph, made)
        graph = made
    return graph


def test_what_reads_the_same_input_is_one_contraction_with_three_results(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    nodes = [
        node("Relu", "x", "h"),
        node("MatMul", "h a", "ha", name="A"),
        node("Relu", "ha", "ra"),  # stands before what B and C make, which are folded
        node("MatMul", "h b", "hb", name="B"),
        node("Add", "hb c", "hc", name="shift"),
        node("Gemm", "h d", "hd", name="D", transB=1),
        node("Concat", "ra hc hd", "y", axis=-1),
    ]
    shapes = {"a": (70, 5), "b": (70, 7), "c": (7,), "d": (4, 70)}
    values = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    made = typed(model(nodes, {"x": [3, 70]}, ["y"], values), 2)
    graph = merged(imported_as_it_is(made, tmp_path).graph)
    (contraction,) = graph.matrices()
    assert contraction.outputs == ("ha", "hc", "hd")
    assert "3x5, %hc: 3x7, %hd: 3x4 = matrixvector @A|B|D (%h) 70x16 = [70x5 of" in render(graph)
    tiles = Tile().run(graph, CONTEXT).tiles  # 64 rows each; a matrix begins with a tile of its own
    assert [(t.rows.start, t.columns.start, t.columns.stop) for t in tiles] == [
        (row, *columns) for row in (0, 64) for columns in ((0, 5), (5, 12), (12, 16))
    ]
    host = host_model(tmp_path / "folded.onnx", graph, {contraction.name})
    x = rng.standard_normal((3, 70)).astype(np.float32)
    found = computed(fabricated_exactly(tmp_path, host, [contraction]), {"x": x})
    np.testing.assert_allclose(found, computed(made, {"x": x}), rtol=1e-4, atol=1e-4)


def test_convolutions_of_the_same_windows_are_merged_and_others_not(tmp_path: Path, rng: np.random.Generator) -> None:
    kinds = {"a": {}, "b": {}, "c": {"pads": [0, 0]}, "d": {"pads": [1, 1]}}
    nodes = [node("Conv", f"x {name}", f"y{name}", name=name, **kind) for name, kind in kinds.items()]
    values = {name: rng.standard_normal((2, 3, 3)).astype(np.float32) for name in kinds}
    made = typed(model(nodes, {"x": [2, 3, 9]}, ["yb", "ya", "yc", "yd"], values), 3)
    graph = merged(imported_as_it_is(made, tmp_path).graph)
    assert [contraction.name for contraction in graph.matrices()] == ["a|b|c", "d"]
    host = host_model(tmp_path / "folded.onnx", graph, {"a|b|c", "d"})
    x = rng.standard_normal((2, 3, 9)).astype(np.float32)
    found = computed(fabricated_exactly(tmp_path, host, graph.matrices()), {"x": x})
    np.testing.assert_allclose(found, computed(made, {"x": x}), rtol=1e-4, atol=1e-4)


def test_a_matrix_that_is_used_elsewhere_by_itself_keeps_its_tiles_for_both(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    u, v = (weight(tmp_path, name, rng.standard_normal((4, 4))) for name in "uv")
    nodes = (
        MatMul("first", "x", "a", u, None, ("first",)),
        MatMul("second", "x", "b", v, None, ("second",)),
        MatMul("again", "a", "c", u, None, ("again",)),
    )
    graph = merged(Graph("g", ("x",), ("b", "c"), nodes, {}))
    assert [contraction.name for contraction in graph.matrices()] == ["first", "second", "again"]
    assert Tile().run(graph, CONTEXT).graph.matrices()[2].shares == "first"


def test_branches_of_an_if_are_not_merged(tmp_path: Path, rng: np.random.Generator) -> None:
    u, v = (weight(tmp_path, name, rng.standard_normal((4, 4))) for name in "uv")
    nodes = tuple(
        MatMul(f"m{body}", "x", f"y{body}", w, None, (f"m{body}",), body=body) for body, w in ((1, u), (2, v))
    )
    assert len(merged(Graph("g", ("x",), ("y1", "y2"), nodes, {})).matrices()) == 2


def test_a_block_may_reach_over_several_matrices(tmp_path: Path, rng: np.random.Generator) -> None:
    values = [rng.standard_normal((3, n)) for n in (2, 4, 1)]
    parts = tuple(Matrix(weight(tmp_path, f"w{i}", v), transposed=False) for i, v in enumerate(values))
    block = Beside(parts).block(range(1, 3), range(1, 7))
    np.testing.assert_array_equal(block, np.concatenate(values, axis=1)[1:3, 1:7])
