"""Sparse matrices on fewer tiles, rows and columns in another order; ONNX Runtime says what they compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from exact import fabricated_exactly
from hypothesis import given
from hypothesis import strategies as st
from mapping import computed, imported_as_it_is
from models import FLOAT, model, node, saved
from pfmc_passes.condense import Condense
from pfmc_passes.fold import Fold
from pfmc_passes.merge import Merge
from pfmc_passes.normalise import Normalise
from pfmc_passes.packing import packed
from pfmc_passes.tile import Tile
from scipy.sparse import csr_array

import pfmc
from pfmc.check.lift import host_model
from pfmc.ir.text import render
from pfmc.netlist.netlist import Netlist
from pfmc.passmanager import Context
from pfmc.technology.loader import load

CONTEXT = Context(load("sg13g2"), lambda _: iter(()), "made")


def agree(made: onnx.ModelProto, folder: Path, x: np.ndarray, size: int) -> Netlist:
    """The tiles of a model, of so many rows and columns at most, that compute what it computes."""
    reference = computed(made, {"x": x}, literally=True)
    made.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", FLOAT, [None] * x.ndim))
    imported = imported_as_it_is(made, folder)
    graph = imported.graph
    for step in (Normalise(), Fold(), Merge(), Condense()):
        graph = step.run(graph, CONTEXT)
    netlist = Tile(rows=size, columns=size).run(graph, CONTEXT)
    netlist.verify()
    cuts = {n.name: [(t.rows, t.columns) for t in tiles] for n, tiles in netlist.by_node()}
    host = host_model(imported.folded, netlist.graph, netlist.mapped())
    owners = [n for n in netlist.graph.matrices() if n.name in cuts]
    found = computed(fabricated_exactly(folder, host, owners, cuts), {"x": x})
    np.testing.assert_allclose(found, reference, rtol=1e-3, atol=1e-4 * np.abs(reference).max())
    return netlist


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def blocks_on_a_diagonal(rng: np.random.Generator, sizes: list[tuple[int, int]]) -> np.ndarray:
    """Blocks of these sizes, rows and columns shuffled."""
    matrix = np.zeros(np.sum(sizes, axis=0), np.float32)
    row = column = 0
    for rows, columns in sizes:
        matrix[row : row + rows, column : column + columns] = normal(rng, rows, columns)
        row, column = row + rows, column + columns
    return matrix[rng.permutation(row)][:, rng.permutation(column)]


@given(st.data())
def test_shuffled_blocks_compute_the_same_on_no_more_tiles(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    sizes = data.draw(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=6))
    matrix = blocks_on_a_diagonal(rng, sizes)
    matrix[:, data.draw(st.integers(0, matrix.shape[1] - 1))] = 0
    if not matrix.any():
        return
    conv = data.draw(st.booleans())
    if conv:
        nodes, x = [node("Conv", "x w", "y")], normal(rng, 2, matrix.shape[0], 3)
        constants = {"w": matrix.T[:, :, None]}
    else:
        nodes, constants, x = [node("MatMul", "x w", "y")], {"w": matrix}, normal(rng, 3, matrix.shape[0])
    netlist = agree(model(nodes, {"x": x.shape}, ["y"], constants), tmp_path_factory.mktemp("m"), x, 4)
    as_it_is = sum(
        matrix[i : i + 4, j : j + 4].any() for i in range(0, len(matrix), 4) for j in range(0, matrix.shape[1], 4)
    )
    assert len(netlist.tiles) <= as_it_is


@given(st.data())
def test_every_weight_is_in_one_block(data: st.DataObject) -> None:
    """And nothing else is in two: a row that stands again for padding is in no block."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    shape = data.draw(st.tuples(st.integers(1, 30), st.integers(1, 30)))
    pattern = rng.random(shape) < data.draw(st.sampled_from([0.01, 0.05, 0.2]))
    found = packed(csr_array(pattern.astype(np.int8)), 4, 3)
    if found is None:
        assert not pattern.any()
        return
    times = np.zeros(shape, dtype=int)
    for rows, columns in found.blocks:
        assert rows.start % 4 == 0 and len(rows) <= 4 and len(columns) <= 3
        times[np.ix_(found.rows[rows.start : rows.stop], found.columns[columns.start : columns.stop])] += 1
    assert times.max() <= 1
    assert (times[pattern] == 1).all()


def test_groups_that_do_not_fill_tiles_get_tiles_of_their_own(tmp_path: Path, rng: np.random.Generator) -> None:
    """Four groups of 48 x 48 lie across 7 tiles of 64 x 64 in their own order; each fits on one."""
    w = normal(rng, 192, 48, 1)
    made = model([node("Conv", "x w", "y", group=4)], {"x": [1, 192, 2]}, ["y"], {"w": w})
    netlist = agree(made, tmp_path, normal(rng, 1, 192, 2), 64)
    assert [(t.rows, t.columns) for t in netlist.tiles] == [
        (range(64 * i, 64 * i + 48), range(48 * i, 48 * i + 48)) for i in range(4)
    ]
    (saving,) = netlist.savings
    drawn = 3 * 64 * 64 + 4 * 64 * 64 - 4 * 48 * 48
    assert (saving.tiles, saving.how) == (3, ("rows and columns in another order",))
    assert saving.weights == drawn
    assert "240x192 of 192x192 of" in render(netlist.graph)


def test_a_shuffled_band_is_found_again(tmp_path: Path, rng: np.random.Generator) -> None:
    """By Cuthill and McKee's order: connected throughout, it has no blocks."""
    i, j = np.indices((40, 40))
    band = normal(rng, 40, 40) * (np.abs(i - j) <= 1)
    shuffled = band[rng.permutation(40)][:, rng.permutation(40)]
    made = model([node("MatMul", "x w", "y")], {"x": [2, 40]}, ["y"], {"w": shuffled})
    assert len(agree(made, tmp_path, normal(rng, 2, 40), 8).tiles) <= 15  # 5 blocks on the diagonal and 8 beside it


def test_a_dense_matrix_and_one_that_gains_nothing_keep_their_order(tmp_path: Path, rng: np.random.Generator) -> None:
    for values in (
        normal(rng, 16, 16),
        normal(rng, 16, 16) * np.kron(np.eye(4, dtype=np.float32), np.ones((4, 4), np.float32)),
    ):
        made = model([node("MatMul", "x w", "y")], {"x": [2, 16]}, ["y"], {"w": values})
        assert not agree(made, tmp_path, normal(rng, 2, 16), 4).savings


def test_from_masks(tmp_path: Path, rng: np.random.Generator) -> None:
    """End to end, in tiles that are halved for their wires too."""
    matrix = blocks_on_a_diagonal(rng, [(40, 30), (20, 34), (48, 48)])
    path = saved(model([node("MatMul", "x w", "y")], {"x": ["n", 108]}, ["y"], {"w": matrix}), tmp_path)
    np.savez(tmp_path / "x.npz", x=normal(rng, 50, 108))
    bundle = pfmc.compile(path, tmp_path / "chip", technology="sg13g2", calibration=tmp_path / "x.npz")
    assert (bundle.manifest.tiles, bundle.manifest.savings[0].tiles) == (2, 2)
    assert bundle.verify(tmp_path / "x.npz", tolerance=0.03).passed
    halved = pfmc.compile(path, tmp_path / "halved", technology="sg13g2/rppd", options={"scale.least": 0.5})
    assert halved.manifest.tiles > 2
    assert halved.verify(tolerance=0.05).passed
