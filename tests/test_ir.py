from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import perceptron, weight
from hypothesis import given
from hypothesis import strategies as st

from pfmc.errors import PassError
from pfmc.ir.graph import HostNode
from pfmc.ir.text import render
from pfmc.ir.weights import Matrix


def test_text_of_a_graph(tmp_path: Path, rng: np.random.Generator) -> None:
    assert render(perceptron(tmp_path, rng)) == (
        "graph @perceptron (%x: ?x6)\n"
        '  %h: ?x5 = matmul @fc1 (%x) "fc1.weight" float32[6x5]\n'
        '  %y: ?x3 = gemm @fc2 (%h) "fc2.weight" float32[3x5] alpha=2 transposed bias\n'
        "  return %y\n"
    )


def test_names_from_a_model_cannot_break_the_text(tmp_path: Path, rng: np.random.Generator) -> None:
    graph = perceptron(tmp_path, rng)
    evil = HostNode("a\nreturn %x", "Relu\x1b[31m", ("y",), ("z\n",))
    lines = render(replace(graph, nodes=(*graph.nodes, evil))).splitlines()
    assert len(lines) == 5
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("order", [(1, 0), (0, 0)])
def test_a_graph_out_of_order_or_with_a_name_twice_is_refused(
    tmp_path: Path, rng: np.random.Generator, order: tuple[int, int]
) -> None:
    graph = perceptron(tmp_path, rng)
    graph.verify()
    with pytest.raises(PassError, match="node fc"):
        replace(graph, nodes=tuple(graph.nodes[i] for i in order)).verify()


def test_topology_follows_values(tmp_path: Path, rng: np.random.Generator) -> None:
    assert list(perceptron(tmp_path, rng).topology().edges(data="value")) == [("fc1", "fc2", "h")]


@given(
    groups=st.integers(1, 4),
    rows_per_group=st.integers(1, 5),
    columns_per_group=st.integers(1, 5),
    data=st.data(),
)
def test_a_block_is_that_part_of_the_whole_matrix(
    tmp_path_factory: pytest.TempPathFactory,
    groups: int,
    rows_per_group: int,
    columns_per_group: int,
    data: st.DataObject,
) -> None:
    """Whatever the block, across the borders of groups too; the whole is built here from first principles."""
    rng = np.random.default_rng(groups)
    stored = rng.standard_normal((groups * columns_per_group, rows_per_group)).astype(np.float32)
    gain = rng.standard_normal(groups * columns_per_group)
    matrix = Matrix(weight(tmp_path_factory.mktemp("w"), "w", stored), transposed=True, groups=groups, gain=gain)
    whole = np.zeros((groups * rows_per_group, groups * columns_per_group))
    for g in range(groups):
        r, c = g * rows_per_group, g * columns_per_group
        whole[r : r + rows_per_group, c : c + columns_per_group] = stored[c : c + columns_per_group].T
    whole *= gain
    assert (matrix.rows, matrix.columns) == whole.shape
    r0 = data.draw(st.integers(0, matrix.rows - 1))
    r1 = data.draw(st.integers(r0 + 1, matrix.rows))
    c0 = data.draw(st.integers(0, matrix.columns - 1))
    c1 = data.draw(st.integers(c0 + 1, matrix.columns))
    np.testing.assert_array_equal(matrix.block(range(r0, r1), range(c0, c1)), whole[r0:r1, c0:c1])
