"""Lookups in constant tables, built as crossbars of one-hot rows: only where it was asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapping import both
from models import model, node
from numpy.testing import assert_allclose
from onnx import helper

import pfmc
from pfmc.errors import UsageError


def looked_up(table: np.ndarray, indices: np.ndarray, **attributes: int) -> onnx.ModelProto:
    made = node("Gather", "table i", "y", name="emb", **attributes)
    dtype = helper.np_dtype_to_tensor_dtype(indices.dtype)
    return model([made], {"i": indices.shape}, ["y"], {"table": table}, dtype=dtype)


@given(st.data())
def test_a_lookup_is_a_product_with_one_row(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any axis, any number of axes of both, indices from the end, of both integer types."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    table = rng.standard_normal(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    axis = data.draw(st.integers(-table.ndim, table.ndim - 1))
    extent = table.shape[axis]
    dtype = data.draw(st.sampled_from(["int32", "int64"]))
    shape = (data.draw(st.integers(1, 3)), *data.draw(st.lists(st.integers(1, 3), max_size=1)))
    indices = rng.integers(-extent, extent, shape).astype(dtype)
    kept = data.draw(st.sampled_from(["float32", "float64"]))
    made = looked_up(table.astype(kept), indices, axis=axis)
    reference, found, imported = both(made, tmp_path_factory.mktemp("m"), ["e*"], i=indices)
    assert found.dtype == reference.dtype
    assert_allclose(found, reference, rtol=1e-5, atol=1e-6)
    (contraction,) = imported.graph.contractions()
    assert contraction.name == "emb"
    assert contraction.weight.size == table.size


@pytest.fixture
def embedded(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Two tables, and a matrix behind their sum."""
    constants = {
        "words": rng.standard_normal((40, 8)).astype(np.float32),
        "places": rng.standard_normal((6, 8)).astype(np.float32),
        "w": rng.standard_normal((8, 5)).astype(np.float32),
    }
    nodes = [
        node("Gather", "words i", "a", name="/emb/words"),
        node("Gather", "places p", "b", name="/emb/places"),
        node("Add", "a b", "c"),
        node("MatMul", "c w", "y", name="/head"),
    ]
    path = tmp_path / "m.onnx"
    made = model(nodes, {"i": [None, 6], "p": [None, 6]}, ["y"], constants, dtype=onnx.TensorProto.INT64)
    onnx.save(made, path)
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "x.npz", i=rng.integers(0, 40, (64, 6)), p=np.tile(np.arange(6), (64, 1)))
    return path


def test_a_table_is_built_where_a_pattern_asks_for_it(embedded: Path, tmp_path: Path) -> None:
    data = tmp_path / "x.npz"
    plain = pfmc.compile(embedded, tmp_path / "plain", technology="generic", calibration=data)
    assert {tile.node for tile in plain.tiles} == {"/head"}
    chip = pfmc.compile(embedded, tmp_path / "chip", technology="generic", calibration=data, tables=["/emb/w*"])
    assert {tile.node for tile in chip.tiles} == {"/head", "/emb/words"}
    assert chip.manifest.parameters.mapped == 40 * 8 + 8 * 5
    assert chip.verify(data, ideal_converters=True, tolerance=0.002).passed
    assert "OneHot" in {made.op_type for made in onnx.load(tmp_path / "chip" / "host.onnx").graph.node}


def test_a_pattern_that_fits_no_lookup_is_named(embedded: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"no lookup .* a name like /emb/wrods.*nearest names: /emb/words, /emb/places"
    ):
        pfmc.compile(embedded, tmp_path / "out", technology="generic", tables=["/emb/wrods"])
    assert not (tmp_path / "out").exists()
