"""Inputs that reach far and inputs that do not: the product stays the same, and converters are better used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import context, weight
from onnx import TensorProto, helper, numpy_helper
from pfmc_passes.calibrate import Calibrate
from pfmc_passes.equalise import Equalise
from pfmc_passes.inputs import input_vectors
from pfmc_passes.merge import Merge
from pfmc_passes.normalise import Normalise
from pfmc_passes.tile import Tile

import pfmc
from pfmc.bundle import read_tiles
from pfmc.check.functions import Crossbars
from pfmc.errors import VerifyError
from pfmc.ir.graph import Conv, Graph, MatMul
from pfmc.ir.text import render
from pfmc.ir.windows import Windows
from pfmc.netlist.netlist import Netlist
from pfmc.passmanager import Context
from pfmc.technology.loader import load
from pfmc.technology.schema import Technology

TECHNOLOGY = load("generic")
OUTLIER = 100.0


def outlying(rng: np.random.Generator, vectors: int, rows: int) -> np.ndarray:
    """Row 2 is a hundred times as large as the others."""
    x = rng.standard_normal((vectors, rows)).astype(np.float32)
    x[:, 2] *= OUTLIER
    return x


def with_mismatch(factor: float) -> Technology:
    said = TECHNOLOGY.variation
    law = said.sheet_mismatch.model_copy(update={"value": factor * said.sheet_mismatch.value})
    return TECHNOLOGY.model_copy(update={"variation": said.model_copy(update={"sheet_mismatch": law})})


def tiled(folder: Path, rng: np.random.Generator, technology: Technology) -> tuple[Netlist, Context]:
    """Two contractions of the same input, side by side, in tiles of 4 rows."""
    nodes = tuple(
        MatMul(
            name, "x", f"y_{name}", weight(folder, name, rng.standard_normal((8, 3)).astype(np.float32)), None, (name,)
        )
        for name in ("q", "k")
    )
    graph = Graph("g", ("x",), ("y_q", "y_k"), nodes, {"x": (None, 8)})
    where = context(technology, {"x": outlying(rng, 200, 8)})
    return Tile(rows=4, columns=3).run(Merge().run(Normalise().run(graph, where), where), where), where


def test_shifted_inputs_by_shifted_rows_are_the_same_product(tmp_path: Path, rng: np.random.Generator) -> None:
    before, where = tiled(tmp_path, rng, with_mismatch(0.0))
    after = Equalise().run(before, where)
    node = after.graph.matrices()[0]
    assert (
        node.input_shift is not None
        and node.input_shift[2] > node.input_shift.min()
        and "shifted(" in render(after.graph)
    )
    everything = range(8), range(6)
    (_, _, plain), (_, _, shifted) = (next(input_vectors(netlist, where, 200)) for netlist in (before, after))
    expected = plain @ before.graph.matrices()[0].matrix.block(*everything)
    np.testing.assert_allclose(shifted @ node.matrix.block(*everything), expected, rtol=1e-12)
    calibrated = Calibrate().run(after, where)
    for tile in calibrated.tiles:
        assert tile.input_shift is not None
        np.testing.assert_array_equal(tile.input_shift, node.input_shift[tile.rows.start : tile.rows.stop])


def test_mismatch_speaks_against_it(tmp_path: Path, rng: np.random.Generator) -> None:
    """Where devices differ a lot, weights that differ a lot cost more than rounding."""
    spread = []
    for factor in (0.0, 1e3):
        netlist, where = tiled(tmp_path, rng, with_mismatch(factor))
        shift = Equalise().run(netlist, where).graph.matrices()[0].input_shift
        spread.append(0 if shift is None else int(np.ptp(shift)))
    assert spread[1] < spread[0]


def test_no_strength_leaves_everything_as_it_is(tmp_path: Path, rng: np.random.Generator) -> None:
    netlist, where = tiled(tmp_path, rng, TECHNOLOGY)
    assert Equalise(strongest=0.0).run(netlist, where) is netlist


def test_the_taps_of_a_channel_are_shifted_alike(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.standard_normal((4, 3, 2, 2)).astype(np.float32)
    conv = Conv("c", "x", "y", weight(tmp_path, "w", values), None, ("c",), windows=Windows(*5 * ((1, 1),)))
    conv = replace(conv, windows=replace(conv.windows, kernel=(2, 2), pads_begin=(0, 0), pads_end=(0, 0)))
    x = rng.standard_normal((20, 3, 6, 6)).astype(np.float32)
    x[:, 1] *= OUTLIER
    where = context(with_mismatch(0.0), {"x": x})
    graph = Graph("g", ("x",), ("y",), (conv,), {"x": (None, 3, 6, 6)})
    shift = Equalise().run(Tile().run(Normalise().run(graph, where), where), where).graph.matrices()[0].input_shift
    assert shift is not None
    channels = shift.reshape(3, 4)
    assert (channels == channels[:, :1]).all() and channels[1, 0] > channels[0, 0]


@pytest.fixture
def model(tmp_path: Path, rng: np.random.Generator) -> Path:
    weights = rng.standard_normal((40, 7)).astype(np.float32)
    weights[2] /= OUTLIER  # what is large by nature does not count more
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")],
        "outlying",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 40])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 7])],
        [numpy_helper.from_array(weights, "w")],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    np.savez(tmp_path / "data.npz", x=outlying(rng, 300, 40))
    return path


def test_what_the_masks_compute_is_nearer_to_the_model(tmp_path: Path, model: Path) -> None:
    """With inputs of five bits, as measured from the masks and rounded by the converters."""
    technology = tmp_path / "coarse.toml"
    bits = '{ value = 5, unit = "bit", source = "assumption: coarse" }'
    told = {key: getattr(TECHNOLOGY.converters, key) for key in ("output_bits", "input_voltage")}
    others = "\n".join(
        f'{key} = {{ value = {q.value}, unit = "{q.unit}", source = "as before" }}' for key, q in told.items()
    )
    technology.write_text(
        f'base = "generic"\nname = "coarse"\ntitle = "coarse"\n[converters]\ninput_bits = {bits}\n{others}\n'
    )
    errors = []
    for strongest in ("0", "1"):
        bundle = pfmc.compile(
            model,
            tmp_path / strongest,
            technology=str(technology),
            calibration=tmp_path / "data.npz",
            options={"equalise.strongest": strongest},
        )
        errors.append(bundle.verify(tmp_path / "data.npz").outputs["y"].relative_error)
    assert errors[0] is not None and errors[1] is not None and errors[1] < 0.5 * errors[0]
    tiles = read_tiles(tmp_path / "1" / "tiles.parquet")
    assert all(len(tile.input_shift) == tile.row_stop - tile.row_start for tile in tiles)
    broken = [tile.model_copy(update={"input_shift": (1, 2)}) for tile in tiles]
    with pytest.raises(VerifyError, match="shifts"):
        Crossbars.of("fc", 40, 7, broken, TECHNOLOGY)
