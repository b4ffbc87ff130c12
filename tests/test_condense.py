"""Rows and columns that need not be drawn; ONNX Runtime says what the others compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import weight
from exact import fabricated_exactly
from hypothesis import given
from hypothesis import strategies as st
from mapping import computed, imported_as_it_is
from models import FLOAT, model, node, saved
from pfmc_passes.condense import Condense
from pfmc_passes.fold import Fold
from pfmc_passes.merge import Merge
from pfmc_passes.normalise import Normalise
from pfmc_passes.tile import Tile

import pfmc
from pfmc.check.lift import host_model
from pfmc.ir.graph import Graph, MatMul
from pfmc.ir.text import render
from pfmc.passmanager import Context
from pfmc.technology.loader import load

CONTEXT = Context(load("sg13g2"), lambda _: iter(()), "made")


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def condensed(graph: Graph) -> Graph:
    for step in (Normalise(), Fold(), Merge(), Condense()):
        made = step.run(graph, CONTEXT)
        made.verify()
        step.ensures(graph, made)
        graph = made
    return graph


def of(folder: Path, values: np.ndarray) -> Graph:
    """A graph of one product."""
    node = MatMul("fc", "x", "y", weight(folder, "w", values), None, ("fc",))
    return condensed(Graph("g", ("x",), ("y",), (node,), {}))


def agree(made: onnx.ModelProto, folder: Path, x: np.ndarray) -> Graph:
    """The graph of a model whose as-fabricated model computes what it computes."""
    reference = computed(made, {"x": x}, literally=True)
    made.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", FLOAT, [None] * x.ndim))
    imported = imported_as_it_is(made, folder)
    graph = condensed(imported.graph)
    host = host_model(imported.folded, graph, {n.name for n in graph.matrices()})
    found = computed(fabricated_exactly(folder, host, graph.matrices()), {"x": x})
    np.testing.assert_allclose(found, reference, rtol=1e-3, atol=1e-4 * np.abs(reference).max())
    return graph


def redundant(rng: np.random.Generator, data: st.DataObject, rows: int, distinct: int) -> np.ndarray:
    """A matrix with rows and columns of zeros, and multiples of ``distinct`` columns, shuffled."""
    base = normal(rng, rows, distinct)
    more = data.draw(
        st.lists(st.tuples(st.integers(0, distinct - 1), st.sampled_from([1, -1, 0.5, 0.3, 0])), max_size=6)
    )
    columns = [*base.T, *(base[:, i] * np.float32(gain) for i, gain in more)]
    matrix = np.array(columns).T[:, rng.permutation(len(columns))]
    matrix[data.draw(st.lists(st.integers(0, rows - 1), max_size=rows - 2, unique=True))] = 0
    return matrix.astype(np.float32)


@given(st.data())
def test_only_what_is_different_is_drawn(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """A product, a convolution, or two products of the same input; as many columns as there are different ones."""
    rng, kind = np.random.default_rng(data.draw(st.integers(0, 2**32))), data.draw(st.sampled_from("pct"))
    distinct = data.draw(st.integers(1, 5))
    one, two = (redundant(rng, data, 6, distinct) for _ in range(2))
    if kind == "c":
        constants = {"w": one.T.reshape(-1, 2, 3), "b": normal(rng, one.shape[1])}
        nodes, x = [node("Conv", "x w b", "y", pads=[1, 1])], normal(rng, 2, 2, 5)
    elif kind == "p":
        constants, nodes, x = {"w": one}, [node("MatMul", "x w", "y")], normal(rng, 2, 4, 6)
    else:
        constants, x = {"u": one, "v": two}, normal(rng, 3, 6)
        nodes = [node("MatMul", "x u", "p"), node("MatMul", "x v", "q"), node("Concat", "p q", "y", axis=-1)]
    graph = agree(model(nodes, {"x": x.shape}, ["y"], constants), tmp_path_factory.mktemp("m"), x)
    (contraction,) = graph.matrices()
    used = [one, two] if kind == "t" else [one]
    assert contraction.matrix.columns == distinct * len(used)
    assert contraction.matrix.rows == sum(any(m[i].any() for m in used) for i in range(6))


def test_the_larger_of_two_columns_is_drawn(tmp_path: Path, rng: np.random.Generator) -> None:
    """Otherwise its error would be that of the small one, as many times as large."""
    small = normal(rng, 8)
    (contraction,) = of(tmp_path, np.stack([small, 100 * small], axis=1)).matrices()
    np.testing.assert_array_equal(contraction.matrix.block(range(8), range(1))[:, 0], 100 * small)
    assert contraction.arranged is not None
    np.testing.assert_allclose(contraction.arranged.gains, [0.01, 1.0])


def test_columns_that_only_resemble_each_other_are_both_drawn(tmp_path: Path, rng: np.random.Generator) -> None:
    """One weight that differs by a millionth of the largest is more than float32's rounding."""
    column = normal(rng, 8)
    other = column.copy()
    other[3] += 1e-6 * np.abs(column).max()
    assert of(tmp_path, np.stack([column, other], axis=1)).matrices()[0].arranged is None


def test_a_matrix_in_which_nothing_repeats_is_left_as_it_is(tmp_path: Path) -> None:
    """Also where columns are alike but for their order, as an identity's are."""
    assert of(tmp_path, np.eye(300, dtype=np.float32)).matrices()[0].arranged is None


def test_text_and_savings(tmp_path: Path, rng: np.random.Generator) -> None:
    values = normal(rng, 66, 70)
    values[[0, 7, 9]] = 0  # 63 rows are left, and 64 columns
    values[:, 5] = 0
    values[:, 10:15] = values[:, 15:20] * 0.5
    graph = of(tmp_path, values)
    notes = "; 3 rows of zeros, 1 column of zeros, 5 columns as multiples of others"
    assert f'matrixvector @fc (%x) 63x64 of 66x70 of "w" float32[66x70] {notes}\n' in render(graph)
    (saving,) = Tile().run(graph, CONTEXT).savings
    assert (saving.weights, saving.tiles) == (66 * 70 - 63 * 64, 3)


def test_matrices_with_the_same_weights_still_share_tiles(tmp_path: Path, rng: np.random.Generator) -> None:
    values = normal(rng, 5, 5)
    values[2] = 0
    w = weight(tmp_path, "w", values)
    nodes = (MatMul("one", "x", "h", w, None, ("one",)), MatMul("two", "h", "y", w, None, ("two",)))
    netlist = Tile().run(condensed(Graph("g", ("x",), ("y",), nodes, {})), CONTEXT)
    assert [n.shares for n in netlist.graph.matrices()] == ["", "one"]


@pytest.mark.parametrize("technology", ["generic", "sg13g2"])
def test_from_masks(tmp_path: Path, rng: np.random.Generator, technology: str) -> None:
    """End to end, with a window whose rows are equalised channel by channel."""
    values = normal(rng, 6, 4, 3, 3)
    values[2] = 0.5 * values[1]
    values[:, 1, 0] = 0  # three taps of a channel
    nodes = [node("Conv", "x w", "y", pads=[1, 1, 1, 1])]
    path = saved(model(nodes, {"x": ["n", 4, 5, 5]}, ["y"], {"w": values}), tmp_path)
    x = normal(rng, 40, 4, 5, 5) * np.array([1, 1, 8, 1], np.float32)[:, None, None]
    np.savez(tmp_path / "x.npz", x=x)
    bundle = pfmc.compile(path, tmp_path / "chip", technology=technology, calibration=tmp_path / "x.npz")
    assert (bundle.manifest.devices, bundle.manifest.savings[0].weights) == (2 * 33 * 5, 36 * 6 - 33 * 5)
    assert bundle.manifest.parameters.mapped == values.size
    assert bundle.verify(tmp_path / "x.npz", tolerance=0.03).passed


def test_rows_are_kept_where_blocks_on_a_diagonal_would_not_end_where_tiles_do(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    """16 groups of 16 rows and columns, on 4 tiles: without one row, all but the first would lie across two tiles."""
    values = normal(rng, 256, 16, 1)
    values[:16, 0] = 0  # the first row of the first group
    graph = agree(
        model([node("Conv", "x w", "y", group=16)], {"x": [1, 256, 2]}, ["y"], {"w": values}),
        tmp_path,
        normal(rng, 1, 256, 2),
    )
    assert graph.matrices()[0].arranged is None
    assert len(Tile().run(graph, CONTEXT).tiles) == 4
