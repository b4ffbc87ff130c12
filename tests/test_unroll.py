"""Sets of a contraction's tiles that take its input vectors in turn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import context, perceptron
from crossbars import small
from exact import ANY, exact_tiles
from glasses import small_glass
from hypothesis import given
from hypothesis import strategies as st
from models import model, node, saved
from pfmc_passes.normalise import Normalise
from pfmc_passes.tile import Tile
from pfmc_passes.unroll import Unroll
from test_check_lift import graph_of, matrix_vector, run
from test_monte_carlo import fabrication
from typer.testing import CliRunner

import pfmc
from pfmc.backend import TileAsBuilt
from pfmc.bundle import TileRecord
from pfmc.check.lift import as_fabricated, host_model, save_model
from pfmc.check.made import MadeCrossbars, MadeModel
from pfmc.cli import app
from pfmc.data import Dataset
from pfmc.errors import UsageError, VerifyError
from pfmc.registry import load_backend
from pfmc.technology.loader import load
from pfmc.uses import in_lane, lanes_of, turns

SAMPLE = Path(__file__).parents[1] / "samples" / "digits_cnn"
ROWS, COLUMNS = 6, 4


def in_lanes(folder: Path, matrices: np.ndarray) -> tuple[list[TileRecord], list[TileAsBuilt], Path]:
    """Tiles with a matrix of its own for each lane and copy, and the host model of x · w."""
    lanes, copies = matrices.shape[:2]
    path = saved(
        model([node("MatMul", "x w", "y", name="fc")], {"x": ["a", "b", ROWS]}, ["y"], {"w": matrices[0, 0]}), folder
    )
    records, built = [], []
    for lane, copy in np.ndindex(lanes, copies):
        mapped = matrix_vector(folder, "fc", matrices[lane, copy], value_names=("x", "y"))
        some = exact_tiles(mapped, load("generic"), rows=4, columns=3, input_range=ANY, output_range=ANY)
        for record, tile in zip(*some, strict=True):
            name = f"{record.name}-{lane}-{copy}"
            place = {"lane": lane, "lanes": lanes, "copy_number": copy, "copies": copies}
            records.append(record.model_copy(update={"name": name, **place}))
            built.append(replace(tile, name=name))
    save_model(host_model(path, graph_of(mapped), {"fc"}), folder / "host.onnx")
    return records, built, folder / "host.onnx"


@given(
    lanes=st.integers(1, 5),
    copies=st.integers(1, 2),
    leading=st.tuples(st.integers(0, 3), st.integers(1, 7)),
    seed=st.integers(0, 999),
)
def test_each_vector_meets_the_matrix_of_its_own_set(
    tmp_path_factory: pytest.TempPathFactory, lanes: int, copies: int, leading: tuple[int, int], seed: int
) -> None:
    """Number i that of set i mod lanes, whatever the number of vectors; as drawn, and as made with errors and trim."""
    folder, rng = tmp_path_factory.mktemp("lanes"), np.random.default_rng(seed)
    matrices = rng.uniform(0.2, 1.0, (lanes, copies, ROWS, COLUMNS)).astype(np.float32)
    records, built, host = in_lanes(folder, matrices)
    x = rng.standard_normal((*leading, ROWS)).astype(np.float32)
    vectors = x.reshape(-1, ROWS)
    of_lane = matrices.mean(axis=1)
    expected = [vector @ of_lane[i % lanes] for i, vector in enumerate(vectors)]
    drawn = as_fabricated(host, records, built, load("generic"), ideal_converters=True)
    (y,) = run(drawn, x=x)
    assert y.shape == (*leading, COLUMNS)
    np.testing.assert_allclose(y.reshape(-1, COLUMNS), np.reshape(expected, (-1, COLUMNS)), rtol=1e-4, atol=1e-4)
    if not len(vectors):
        return
    made, _ = MadeModel.of(host, records, load("generic"), ideal_converters=True)
    crossbars = made.crossbars["fc"]
    chip = MadeCrossbars.drawn(crossbars)
    added = rng.standard_normal((lanes, COLUMNS))
    for record in records:
        at, across = crossbars.block_of(record), slice(record.column_start, record.column_stop)
        rows = slice(record.row_start, record.row_stop)
        block = matrices[record.lane, record.copy_number, rows, across]
        chip.microsiemens[at, : block.shape[0], across] = block
        if record.row_start == 0 and record.copy_number == 0:
            chip.added[at, 0, across] = added[record.lane, across]
    given_x = Dataset({"x": x}, None, "file")
    found = made.run({"fc": chip}, given_x, rng)["y"].reshape(-1, COLUMNS)
    also = [row + added[i % lanes] for i, row in enumerate(expected)]
    np.testing.assert_allclose(found, also, rtol=1e-4, atol=1e-4)


def test_sets_that_do_not_belong_together_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    records, built, host = in_lanes(tmp_path, rng.uniform(0.2, 1.0, (2, 1, ROWS, COLUMNS)).astype(np.float32))
    for wrong in (records[:-1], [*records[:-1], records[-1].model_copy(update={"lane": 7})]):
        with pytest.raises(VerifyError, match="set"):
            as_fabricated(host, wrong, built, load("generic"))


@given(counts=st.lists(st.integers(0, 300), min_size=1, max_size=4), lanes=st.integers(1, 40))
def test_the_sets_share_all_vectors_and_take_as_many_turns_as_the_busiest(counts: list[int], lanes: int) -> None:
    shares = [in_lane(counts, lane, lanes) for lane in range(lanes)]
    assert sum(shares) == sum(counts)
    assert shares[0] == max(shares) == turns(counts, lanes)


@given(count=st.integers(1, 300), most=st.integers(1, 80))
def test_no_set_is_built_that_saves_no_turn(tmp_path_factory: pytest.TempPathFactory, count: int, most: int) -> None:
    graph = perceptron(tmp_path_factory.mktemp("net"), np.random.default_rng(0))
    where = context(small("generic", 4, 3), {})
    netlist = Tile().run(Normalise().run(graph, where), where)
    lanes = lanes_of(netlist, {"fc1": (count,), "fc2": (1,)}, most)
    assert lanes["fc2"] == 1
    assert lanes["fc1"] <= most
    assert turns([count], lanes["fc1"]) == turns([count], most)
    assert lanes["fc1"] == 1 or turns([count], lanes["fc1"] - 1) > turns([count], most)
    inside = replace(netlist.graph, nodes=tuple(replace(n, body=1) for n in netlist.graph.nodes))
    assert set(lanes_of(replace(netlist, graph=inside), {"fc1": (count,), "fc2": (1,)}, most).values()) == {1}


def test_sets_stand_one_behind_the_other(tmp_path: Path, rng: np.random.Generator) -> None:
    where = replace(context(small("generic", 4, 3), {}), vectors=lambda _netlist: {"fc1": (9,), "fc2": (1,)})
    netlist = Tile().run(Normalise().run(perceptron(tmp_path, rng), where), where)
    unrolled = Unroll(times=3).run(netlist, where)
    unrolled.verify()
    found = [(tile.node, tile.lane, tile.rows.start, tile.columns.start) for tile in unrolled.tiles]
    assert found == sorted(found)
    assert len(found) == 3 * 4 + 2
    assert [tile.name for tile in unrolled.tiles] == [f"t{i:05d}" for i in range(14)]
    with pytest.raises(ValueError, match="at least 1"):
        Unroll(times=0)


@pytest.fixture(scope="module")
def unrolled(tmp_path_factory: pytest.TempPathFactory) -> pfmc.Bundle:
    folder = tmp_path_factory.mktemp("unrolled") / "chip"
    calibration = SAMPLE / "calibration.npz"
    return pfmc.compile(SAMPLE / "model.onnx", folder, calibration=calibration, spatial_unroll=5)


def test_a_network_is_unrolled_verified_and_faster(unrolled: pfmc.Bundle, tmp_path: Path) -> None:
    layers = {layer.node: layer for layer in unrolled.manifest.layers}
    found = {name: (layer.uses, layer.side_by_side, layer.turns) for name, layer in layers.items()}
    assert found == {
        "conv/Conv": (64, 5, 13),
        "depthwise/Conv": (16, 4, 4),  # a fifth set would save nothing
        "pointwise/Conv": (16, 4, 4),
        "output/Gemm": (1, 1, 1),
    }
    plain = pfmc.compile(SAMPLE / "model.onnx", tmp_path / "plain", calibration=SAMPLE / "calibration.npz")
    old, new = plain.manifest, unrolled.manifest
    assert new.energy.latency_s == pytest.approx(old.energy.latency_s * 22 / 97)
    assert new.energy.per_inference_j == pytest.approx(old.energy.per_inference_j)  # as many products
    assert (old.tiles, new.tiles) == (7, 5 * 1 + 4 * 3 + 4 * 1 + 2)
    assert (new.parameters, new.macs) == (old.parameters, old.macs)
    assert new.area is not None and old.area is not None
    assert new.area.periphery_mm2 == pytest.approx(old.area.periphery_mm2 * new.tiles / old.tiles)
    planned = pfmc.plan(SAMPLE / "model.onnx", spatial_unroll=5)
    assert (planned.tiles, planned.devices) == (new.tiles, new.devices)
    assert planned.latency_s == pytest.approx(new.energy.latency_s)
    verdicts = [bundle.verify(SAMPLE / "test.npz", lvs=bundle is unrolled) for bundle in (plain, unrolled)]
    assert not verdicts[1].lvs
    assert verdicts[1].devices_read_back == new.devices
    assert verdicts[1].outputs == verdicts[0].outputs  # all sets are drawn alike


def test_each_position_of_a_network_runs_on_its_own_set(unrolled: pfmc.Bundle) -> None:
    """One set of the first layer is measured as another: every fifth of its 64 windows then, and no other."""
    host, records = unrolled.path / "host.onnx", unrolled.tiles
    technology = unrolled.manifest.technology
    tiles = list(load_backend(unrolled.manifest.backend).read(unrolled.path, technology, records, lambda _done: None))
    of_set = {record.name for record in records if record.node == "conv/Conv" and record.lane == 3}
    assert len(of_set) == 1
    wrong = [replace(tile, resistance=tile.resistance[..., ::-1]) if tile.name in of_set else tile for tile in tiles]  # type: ignore[union-attr]
    images = np.load(SAMPLE / "test.npz")
    (name,) = (key for key in images if key != "labels")
    outputs = []
    for built in (tiles, wrong):
        fabricated = as_fabricated(host, records, built, technology)
        (made,) = (n.output[0] for n in fabricated.graph.node if n.name == "conv/Conv")
        del fabricated.graph.output[:]
        fabricated.graph.output.append(onnx.ValueInfoProto(name=made))
        outputs.append(run(fabricated, **{name: images[name][:3]})[0])
    differs = np.any(outputs[0] != outputs[1], axis=-1).reshape(-1)
    assert set(np.flatnonzero(differs) % 5) == {3}
    assert differs[3::5].mean() > 0.5  # the others see an empty corner of the image


def test_chips_differ_from_set_to_set(unrolled: pfmc.Bundle) -> None:
    """What differs from device to device is drawn for each set; all are drawn alike."""
    made = fabrication(unrolled)
    crossbars = made.model.crossbars["conv/Conv"]
    drawn, chip = (
        each["conv/Conv"].microsiemens.reshape(crossbars.lanes, -1)
        for each in (
            made.drawn,
            made.maker.chip(0, replace(made.maker.still, sheet_mismatch=made.variation.sheet_mismatch)),
        )
    )
    assert np.all(drawn == drawn[0])
    off = (chip - drawn)[:, np.any(drawn != 0, axis=0)]
    alike = np.corrcoef(off) - np.eye(crossbars.lanes)
    assert off.std() > 0
    assert np.abs(alike).max() < 0.5  # 72 weights: by chance 0.12 or so


def test_each_set_has_its_copies_and_slices(tmp_path: Path, rng: np.random.Generator) -> None:
    constants = {"w": rng.standard_normal((3, 2, 3)).astype(np.float32)}
    path = saved(model([node("Conv", "x w", "y", name="conv")], {"x": [None, 2, 7]}, ["y"], constants), tmp_path)
    np.savez(tmp_path / "x.npz", x=rng.random((40, 2, 7)).astype(np.float32))
    bundle = pfmc.compile(
        path,
        tmp_path / "chip",
        technology="generic",
        calibration=tmp_path / "x.npz",
        spatial_unroll=4,
        options={"provide.copies": 2, "provide.slices": 2},
    )
    assert bundle.manifest.tiles == 3 * (2 + 1)  # 5 windows: 3 sets take 2 turns, as 4 would
    assert bundle.verify(tmp_path / "x.npz", tolerance=0.02, monte_carlo=1, trim=True).passed


def test_volumes_of_glass_stand_side_by_side_too(tmp_path: Path, rng: np.random.Generator) -> None:
    """A block is constructed once, written for each set, and read back from each."""
    constants = {"w": rng.standard_normal((6, 3)).astype(np.float32)}
    path = saved(model([node("MatMul", "x w", "y", name="fc")], {"x": [None, 3, 6]}, ["y"], constants), tmp_path)
    bundle = pfmc.compile(
        path, tmp_path / "glass", target="glass", technology=small_glass(tmp_path), spatial_unroll=2, workers=1
    )
    (layer,) = bundle.manifest.layers
    assert (bundle.manifest.tiles, layer.uses, layer.turns) == (2, 3, 2)
    verdict = bundle.verify(tolerance=0.1)
    assert verdict.passed
    assert verdict.devices_read_back == 2 * 12 * 14**2


def test_the_command_line() -> None:
    path = str(SAMPLE / "model.onnx")
    found = CliRunner().invoke(app, ["plan", path, "--spatial-unroll", "8", "--json"])
    planned = json.loads(found.stdout)
    assert [layer["side_by_side"] for layer in planned["layers"]] == [8, 8, 8, 1]
    shown = CliRunner().invoke(app, ["plan", path, "--spatial-unroll", "8"]).stdout
    assert "6.89 µs, 62%: 64 uses on 8 sets of tiles in 8 turns × 861 ns of conv/Conv" in shown
    with pytest.raises(UsageError, match="only the layers of a model"):
        pfmc.plan(parameters=1e6, spatial_unroll=2)
