"""Matrices as two of a small rank; ONNX Runtime says what they compute, the verdict is against the model as given."""

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
from pfmc_passes.calibrate import Calibrate, Rule
from pfmc_passes.condense import Condense
from pfmc_passes.factorise import Factorise
from pfmc_passes.fold import Fold
from pfmc_passes.merge import Merge
from pfmc_passes.normalise import Normalise
from pfmc_passes.tile import Tile

import pfmc
from pfmc.check.lift import host_model
from pfmc.driver import CompileOptions, pipeline
from pfmc.errors import UsageError
from pfmc.ir.graph import Graph, MatMul
from pfmc.ir.text import render
from pfmc.passmanager import Context, with_options
from pfmc.registry import backend_for
from pfmc.report.terminal import manifest_facts, saving_facts
from pfmc.technology.loader import load


def of_size(side: int) -> Context:
    """Tiles of so many rows and columns."""
    technology = load("sg13g2")
    rows, columns = (
        each.model_copy(update={"value": side}) for each in (technology.tile.rows, technology.tile.columns)
    )
    tile = technology.tile.model_copy(update={"rows": rows, "columns": columns})
    return Context(technology.model_copy(update={"tile": tile}), lambda _: iter(()), "made")


def factorised(graph: Graph, error: float, context: Context) -> Graph:
    for step in (Normalise(), Fold(), Factorise(error), Merge()):
        made = step.run(graph, context)
        made.verify()
        step.ensures(graph, made)
        graph = made
    return graph


def agree(made: onnx.ModelProto, folder: Path, x: np.ndarray, error: float = 1e-5) -> Graph:
    """The graph of a model, on tiles of 3 x 3; condensed, its as-fabricated model computes what it computes."""
    reference = computed(made, {"x": x}, literally=True)
    made.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", FLOAT, [None] * x.ndim))
    imported = imported_as_it_is(made, folder)
    graph = factorised(imported.graph, error, of_size(3))
    condensed = Condense().run(graph, of_size(3))
    host = host_model(imported.folded, condensed, {n.name for n in graph.matrices()})
    found = computed(fabricated_exactly(folder, host, condensed.matrices()), {"x": x})
    np.testing.assert_allclose(found, reference, rtol=1e-3, atol=1e-3 * np.abs(reference).max())
    return graph


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def of_rank(rng: np.random.Generator, rows: int, columns: int, rank: int) -> np.ndarray:
    return normal(rng, rows, rank) @ normal(rng, rank, columns)


@given(st.data())
def test_a_matrix_of_small_rank_is_split_without_loss(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """A product, a convolution, or two products of the same input, whose first factors stand side by side."""
    rng, kind = np.random.default_rng(data.draw(st.integers(0, 2**32))), data.draw(st.sampled_from("pct"))
    rank, columns = data.draw(st.integers(1, 2)), data.draw(st.integers(5, 9))
    one, two = of_rank(rng, 6, columns, rank), of_rank(rng, 6, columns, 1)
    if kind == "c":
        constants = {"w": one.T.reshape(-1, 2, 3), "b": normal(rng, columns)}
        nodes, x = [node("Conv", "x w b", "y", pads=[1, 1], strides=[2])], normal(rng, 2, 2, 5)
    elif kind == "p":
        constants = {"w": one, "b": normal(rng, columns)}
        nodes, x = [node("MatMul", "x w", "h"), node("Add", "h b", "y")], normal(rng, 2, 4, 6)
    else:
        constants, x = {"u": one, "v": two}, normal(rng, 3, 6)
        nodes = [node("MatMul", "x u", "p"), node("MatMul", "x v", "q"), node("Concat", "q p", "y", axis=-1)]
    graph = agree(model(nodes, {"x": x.shape}, ["y"], constants), tmp_path_factory.mktemp("m"), x)
    weights = sum(n.matrix.rows * n.matrix.columns for n in graph.matrices())
    assert weights == rank * (6 + columns) + (6 + columns if kind == "t" else 0)


def test_the_smallest_rank_within_the_error_is_taken(tmp_path: Path, rng: np.random.Generator) -> None:
    """By Eckart and Young: singular values 4, 2, 1 and 0.5, so rank 2 leaves sqrt(1.25 / 21.25) of the norm."""
    u, v = (np.linalg.qr(rng.standard_normal((20, 4)))[0] for _ in range(2))
    w = (u * [4, 2, 1, 0.5] @ v.T).astype(np.float32)
    fc = MatMul("fc", "x", "y", weight(tmp_path, "w", w), None, ("fc",))
    for allowed, rank, error in ((0.25, 2, (1.25 / 21.25) ** 0.5), (0.24, 3, (0.25 / 21.25) ** 0.5)):
        graph = factorised(Graph("g", ("x",), ("y",), (fc,), {}), allowed, of_size(8))
        left, right = (n.matrix.block(range(n.matrix.rows), range(n.matrix.columns)) for n in graph.matrices())
        assert left.shape == (20, rank)
        assert np.linalg.norm(left @ right - w) / np.linalg.norm(w) == pytest.approx(error, rel=1e-4)
        (saving,) = Tile().run(graph, of_size(8)).savings
        assert saving.errors == (("fc/right", pytest.approx(error, rel=1e-4)),)
        assert f"; rank {rank}, error {error:.2%}" in render(graph)


def test_a_matrix_of_full_rank_and_one_that_needs_more_tiles_stay_whole(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    """64 x 64 of rank 1 fits on one tile: its factors would take two."""
    for values in (normal(rng, 20, 20), of_rank(rng, 64, 64, 1)):
        tile = MatMul("fc", "x", "y", weight(tmp_path, "w", values), None, ("fc",))
        assert len(factorised(Graph("g", ("x",), ("y",), (tile,), {}), 0.01, of_size(64)).matrices()) == 1


def test_what_lies_between_is_calibrated(tmp_path: Path, rng: np.random.Generator) -> None:
    """It is no value of the model: its range follows from the input and the first factor."""
    w = of_rank(rng, 130, 130, 3)
    fc = MatMul("fc", "x", "y", weight(tmp_path, "w", w), None, ("fc",))
    x = normal(rng, 50, 130)
    graph = factorised(Graph("g", ("x",), ("y",), (fc,), {}), 1e-4, of_size(64))

    def activations(names: object) -> object:
        assert names == ["x"]
        yield {"x": x}

    context = Context(load("sg13g2"), activations, "made")  # type: ignore[arg-type]
    netlist = Calibrate(range=Rule.LARGEST, headroom=1.0).run(Tile().run(graph, context), context)
    left = graph.matrices()[0].matrix.block(range(130), range(3))
    ranges = [t.input_range.high for t in netlist.tiles if t.node == "fc/right" and t.input_range]
    assert ranges == [pytest.approx(np.abs(x @ left).max(), rel=1e-5)] * 3


def test_low_rank_adds_the_pass_in_front_of_merging() -> None:
    passes = pipeline(backend_for("crossbar"), CompileOptions(low_rank=0.2))
    names = [step.name for step in passes]
    assert names[names.index("factorise") - 1 : names.index("factorise") + 2] == ["collapse", "factorise", "merge"]
    assert Factorise(0.2) in passes
    assert "factorise" not in [step.name for step in pipeline(backend_for("glass"), CompileOptions())]


def test_a_wrong_error_is_refused() -> None:
    with pytest.raises(UsageError, match="error must be from 0 to below 1"):
        with_options(Factorise, {"error": "1.5"})


def test_from_masks(tmp_path: Path, rng: np.random.Generator) -> None:
    """The verdict says what the rank costs, for it compares with the model as given; counts are the model's."""
    w = of_rank(rng, 130, 70, 5)
    w += 0.1 * np.linalg.norm(w) / np.sqrt(w.size) * normal(rng, 130, 70)
    path = saved(model([node("MatMul", "x w", "y")], {"x": ["n", 130]}, ["y"], {"w": w}), tmp_path)
    np.savez(tmp_path / "x.npz", x=normal(rng, 60, 130))
    bundle = pfmc.compile(path, tmp_path / "chip", calibration=tmp_path / "x.npz", low_rank=0.12)
    manifest = bundle.manifest
    (saving,) = manifest.savings
    assert (manifest.parameters.mapped, manifest.macs.mapped) == (9100, 9100)
    assert manifest.devices + 2 * saving.weights == 2 * 9100
    assert manifest.calibration.unreached == ()
    lost = saving.errors["MatMul_1/right"]
    assert 0.05 < lost <= 0.12
    verdict = bundle.verify(tmp_path / "x.npz")
    assert not verdict.passed
    assert verdict.outputs["y"].relative_error == pytest.approx(lost, rel=0.2)
    ((_, text),) = saving_facts(manifest)
    assert f"error {lost:.2%}" in text


def test_it_is_said_where_no_matrix_has_a_small_rank(tmp_path: Path, rng: np.random.Generator) -> None:
    path = saved(model([node("MatMul", "x w", "y")], {"x": ["n", 9]}, ["y"], {"w": normal(rng, 9, 4)}), tmp_path)
    manifest = pfmc.compile(path, tmp_path / "chip", technology="generic", low_rank=0.1).manifest
    assert ("low rank", "no matrix is smaller as two of them with an error of 10.00%") in manifest_facts(manifest)
