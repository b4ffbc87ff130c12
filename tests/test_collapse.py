"""Contractions one behind the other as one; ONNX Runtime says what they compute together."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from exact import fabricated_exactly
from hypothesis import given
from hypothesis import strategies as st
from mapping import computed, imported_as_it_is
from models import FLOAT, model, node, saved
from pfmc_passes.collapse import Collapse
from pfmc_passes.fold import Fold
from pfmc_passes.merge import Merge
from pfmc_passes.normalise import Normalise
from pfmc_passes.tile import Tile

import pfmc
from pfmc.check.lift import host_model
from pfmc.ir.derived import Dense
from pfmc.ir.graph import Graph
from pfmc.ir.text import render
from pfmc.passmanager import Context
from pfmc.report.terminal import manifest_facts
from pfmc.technology.loader import load

CONTEXT = Context(load("sg13g2"), lambda _: iter(()), "made")


def collapsed(graph: Graph) -> Graph:
    for step in (Normalise(), Fold(), Collapse(), Merge()):
        made = step.run(graph, CONTEXT)
        made.verify()
        step.ensures(graph, made)
        graph = made
    return graph


def agree(made: onnx.ModelProto, folder: Path, x: np.ndarray) -> Graph:
    """The graph of a model whose as-fabricated model computes what it computes."""
    reference = computed(made, {"x": x}, literally=True)
    for value in made.graph.output:
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, FLOAT, [None] * x.ndim))
    imported = imported_as_it_is(made, folder)
    graph = collapsed(imported.graph)
    host = host_model(imported.folded, graph, {n.name for n in graph.matrices()})
    found = computed(fabricated_exactly(folder, host, graph.matrices()), {"x": x})
    np.testing.assert_allclose(found, reference, rtol=1e-3, atol=1e-3 * np.abs(reference).max())
    return graph


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def weights(graph: Graph) -> int:
    return sum(n.matrix.rows * n.matrix.columns for n in graph.matrices())


def fewest(sizes: list[int]) -> int:
    """Weights of a chain of matrices, whichever neighbours are multiplied out; tried one by one."""
    between = range(1, len(sizes) - 1)
    return min(
        sum(a * b for a, b in pairwise(kept))
        for choice in range(2 ** len(between))
        for kept in [[sizes[0], *(sizes[i] for i in between if choice >> (i - 1) & 1), sizes[-1]]]
    )


@given(st.data())
def test_a_chain_becomes_what_has_the_fewest_weights(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """MatMuls with and without shifts, or a convolution with convolutions of single positions behind it."""
    rng, conv = np.random.default_rng(data.draw(st.integers(0, 2**32))), data.draw(st.booleans())
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=3, max_size=5))
    constants: dict[str, np.ndarray] = {}
    nodes, value = [], "x"
    for i, (rows, columns) in enumerate(pairwise(sizes)):
        kernel = [3] if conv and i == 0 else [1]
        constants[f"w{i}"] = normal(rng, columns, rows, *kernel) if conv else normal(rng, rows, columns)
        nodes.append(node("Conv" if conv else "MatMul", f"{value} w{i}", f"v{i}", name=f"n{i}"))
        value = f"v{i}"
        if data.draw(st.booleans()):
            constants[f"b{i}"] = normal(rng, columns, *[1] * conv)
            nodes.append(node("Add", f"{value} b{i}", f"s{i}"))
            value = f"s{i}"
    nodes[-1].output[0] = "y"
    x = normal(rng, 2, sizes[0], 5) if conv else normal(rng, 3, 2, sizes[0])
    graph = agree(model(nodes, {"x": x.shape}, ["y"], constants), tmp_path_factory.mktemp("m"), x)
    assert weights(graph) == fewest([sizes[0] * (3 if conv else 1), *sizes[1:]])


def test_a_chain_in_text_and_what_it_saves(tmp_path: Path, rng: np.random.Generator) -> None:
    constants = {"a": normal(rng, 70, 65), "b": normal(rng, 65, 5)}
    nodes = [node("MatMul", "x a", "h", name="A"), node("MatMul", "h b", "y", name="B")]
    graph = agree(model(nodes, {"x": [2, 70]}, ["y"], constants), tmp_path, normal(rng, 2, 70))
    assert (
        'matrixvector @A*B (%x) 70x5 = 70x65 of "a" float32[70x65] * 65x5 of "b" float32[65x5] replaces(A, B) '
        "; 2 contractions as one\n"
    ) in render(graph)
    (saving,) = Tile().run(graph, CONTEXT).savings
    assert (saving.nodes, saving.weights, saving.tiles) == (("A*B",), 70 * 65 + 65 * 5 - 70 * 5, 4 + 2 - 2)
    product = constants["a"].astype(np.float64) @ constants["b"]
    matrix = graph.matrices()[0].matrix
    assert isinstance(matrix, Dense)
    np.testing.assert_array_equal(matrix.values, product)  # in float64: float32 would round it


@pytest.mark.parametrize("between", ["Relu", "second reader", "output", "padding", "stride", "matrix used elsewhere"])
def test_what_must_stay_apart(tmp_path: Path, rng: np.random.Generator, between: str) -> None:
    constants = {"a": normal(rng, 6, 6, 1), "b": normal(rng, 6, 6, 1)}
    kind = {"padding": {"pads": [1, 1]}, "stride": {"strides": [2]}}.get(between, {})
    nodes = [node("Conv", "x a", "h", name="A"), node("Conv", "h b", "y", name="B", **kind)]
    outputs = ["y", "h"] if between == "output" else ["y"]
    if between == "Relu":
        nodes[1:] = [node("Relu", "h", "r"), node("Conv", "r b", "y", name="B")]
    elif between == "second reader":
        nodes.append(node("Relu", "h", "other"))
    elif between == "matrix used elsewhere":
        nodes[1:] = [node("Conv", "h b", "p", name="B"), node("Relu", "p", "r"), node("Conv", "r b", "y", name="C")]
    made = model(nodes, {"x": [2, 6, 5]}, outputs, constants)
    graph = agree(made, tmp_path, normal(rng, 2, 6, 5))
    assert [n.name for n in graph.matrices()][:2] == ["A", "B"]


def test_a_product_is_not_made_where_it_needs_more_tiles(tmp_path: Path, rng: np.random.Generator) -> None:
    """65 x 129 has fewer weights than 65 x 44 and 44 x 129, but 6 tiles instead of 5."""
    constants = {"a": normal(rng, 65, 44), "b": normal(rng, 44, 129)}
    nodes = [node("MatMul", "x a", "h", name="A"), node("MatMul", "h b", "y", name="B")]
    graph = agree(model(nodes, {"x": [2, 65]}, ["y"], constants), tmp_path, normal(rng, 2, 65))
    assert len(graph.matrices()) == 2


def test_a_collapsed_chain_is_counted_as_the_model_has_it(tmp_path: Path, rng: np.random.Generator) -> None:
    """End to end: parameters and MACs are those of both matrices, devices those of the one that is drawn."""
    constants = {"a": normal(rng, 12, 20), "b": normal(rng, 20, 3)}
    nodes = [node("MatMul", "x a", "h", name="A"), node("MatMul", "h b", "y", name="B")]
    path = saved(model(nodes, {"x": ["n", 12]}, ["y"], constants), tmp_path)
    bundle = pfmc.compile(path, tmp_path / "chip", technology="generic")
    manifest = bundle.manifest
    assert (manifest.parameters.mapped, manifest.parameters.total) == (300, 300)
    assert (manifest.macs.mapped, manifest.macs.total) == (300, 300)
    assert (manifest.devices, manifest.savings[0].weights) == (2 * 36, 300 - 36)
    assert ("saved", "528 devices, 1 tile: A*B, 2 contractions as one") in manifest_facts(manifest)
    assert manifest.energy.per_inference_j == pytest.approx(300 * manifest.energy.per_mac_j)
    assert bundle.verify().passed
