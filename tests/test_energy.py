"""Energy, time, area and currents: against a dense network, brute force over the data, and arithmetic by hand."""

from __future__ import annotations

import html
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import context, perceptron
from crossbars import small
from hypothesis import given
from hypothesis import strategies as st
from models import model, node, saved
from pfmc_passes.calibrate import Calibrate
from pfmc_passes.normalise import Normalise
from pfmc_passes.place import Place
from pfmc_passes.provide import Provide
from pfmc_passes.scale import Scale
from pfmc_passes.tile import Tile

from pfmc.api import Bundle, compile, plan
from pfmc.budget import Metered, read_time, shared_inputs, tile_area
from pfmc.bundle import read_details, read_manifest
from pfmc.errors import PassError
from pfmc.layout.layout import Layout
from pfmc.netlist.netlist import Provision
from pfmc.netlist.netlist import Tile as NetlistTile
from pfmc.physics import energy
from pfmc.physics.network import Wires, transfer_matrix
from pfmc.report.terminal import layer_facts, metric
from pfmc.sections import TileEnergy
from pfmc.technology.schema import Technology

SAMPLES = Path(__file__).parents[1] / "samples"


def drawn_power(g: np.ndarray, wires: Wires, voltage: np.ndarray) -> np.ndarray:
    """What the drivers deliver into the network, by dense nodal analysis; a row of ``voltage`` per vector."""
    rows, columns = g.shape
    row, column = (np.broadcast_to(r, g.shape) for r in (wires.row_segment, wires.column_segment))
    number = np.arange(2 * g.size).reshape(2, rows, columns)  # nodes of the row wires, then of the column wires
    Y = np.zeros((2 * g.size, 2 * g.size))
    for a, b, siemens in (
        (number[0], number[1], g),
        (number[0, :, :-1], number[0, :, 1:], 1 / row[:, 1:]),
        (number[1, :-1], number[1, 1:], 1 / column[1:]),
    ):
        Y[a, a] += siemens
        Y[b, b] += siemens
        Y[a, b] -= siemens
        Y[b, a] -= siemens
    feed = 1 / (wires.driver + row[:, 0])
    Y[number[0, :, 0], number[0, :, 0]] += feed
    Y[number[1, 0], number[1, 0]] += 1 / (wires.sense + column[0])
    source = np.zeros((2 * g.size, len(voltage)))
    source[number[0, :, 0]] = feed[:, None] * voltage.T
    at_rows = np.linalg.solve(Y, source)[number[0, :, 0]].T
    return np.asarray((voltage * feed * (voltage - at_rows)).sum(axis=1))


@given(
    seed=st.integers(0, 999),
    rows=st.integers(1, 8),
    columns=st.integers(1, 8),
    ohms=st.sampled_from([0.01, 1.0, 300.0]),
    signed=st.booleans(),
)
def test_power_lies_between_its_bounds(seed: int, rows: int, columns: int, ohms: float, signed: bool) -> None:
    rng = np.random.default_rng(seed)
    g = 10 ** rng.uniform(-6, -3, (rows, columns))
    wires = Wires(ohms * rng.uniform(0.5, 2, (rows, columns)), ohms * rng.uniform(0.5, 2, (rows, columns)), ohms, ohms)
    voltage = rng.uniform(-0.2 if signed else 0.0, 0.2, (20, rows))
    power, mean_square = drawn_power(g, wires, voltage).mean(), np.square(voltage).mean(axis=0)
    transfer = transfer_matrix(g, wires)
    assert energy.least_power(transfer, mean_square) <= power * (1 + 1e-6)
    assert power <= energy.resistive_power(g, mean_square) * (1 + 1e-6)
    if ohms < 1:  # next to ideal wires
        assert power == pytest.approx(energy.resistive_power(g, mean_square), rel=1e-3)
    same = np.full((1, rows), 0.1)
    assert drawn_power(g, wires, same)[0] == pytest.approx(energy.least_power(transfer, same[0] ** 2), rel=1e-6)


@given(seed=st.integers(0, 999), rows=st.integers(1, 9), columns=st.integers(1, 9))
def test_no_wire_carries_more_than_was_said(seed: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    g, voltage = rng.uniform(1e-5, 1e-3, (rows, columns)), rng.normal(0.02, 0.1, (30, rows))
    root_mean_square = np.sqrt(np.square(voltage).mean(axis=0))
    in_rows, in_columns = energy.wire_current(g, root_mean_square)
    currents = voltage[:, :, None] * g  # of every device, for every vector
    for found, limit in ((currents.sum(axis=2), in_rows), (currents.sum(axis=1), in_columns)):
        assert np.all(np.sqrt(np.square(found).mean(axis=0)) <= limit * (1 + 1e-12))
    supply = np.abs(currents.sum(axis=2)).sum(axis=1).mean() * 1.2
    assert supply <= energy.supply_power(g, np.square(root_mean_square), 1.2) * (1 + 1e-12)


def test_settling_leaves_half_a_step() -> None:
    seconds = energy.settling_time(20e6, 10)
    assert math.exp(-2 * math.pi * 20e6 * seconds) == pytest.approx(0.5 / 2**10)
    assert energy.conversion_energy(48e-15, 10) == pytest.approx(49.152e-12)


def placed(folder: Path, rng: np.random.Generator, technology: Technology) -> tuple[Layout, dict[str, np.ndarray]]:
    x = rng.random((50, 6)).astype(np.float32)
    graph = perceptron(folder, rng)
    values = {"x": x, "h": x @ graph.contractions()[0].weight.map()}
    current = graph
    for step in (Normalise(), Tile(rows=4, columns=3), Calibrate(), Scale(), Provide(), Place()):
        current = step.run(current, context(technology, values))  # type: ignore[assignment,arg-type]
    assert isinstance(current, Layout)
    return current, values


def test_a_tile_draws_what_each_vector_of_the_data_draws(tmp_path: Path, rng: np.random.Generator) -> None:
    technology = small("sg13g2", 4, 3)
    layout, values = placed(tmp_path, rng, technology)
    meter = Metered.of(layout, {"fc1": (1,), "fc2": (5,)})
    programmed = {place.tile.name: meter.devices(place.tile) for place in layout.tiles}
    volts = meter.volts()
    time = math.log(2) * 11 / (2 * math.pi * 20e6) + 8 * 100e-9
    assert read_time(technology, 10) == pytest.approx(time)
    for place, spent in zip(layout.tiles, meter.energies(volts), strict=True):
        tile = place.tile
        given = values["x" if tile.node == "fc1" else "h"][:, tile.rows.start : tile.rows.stop].astype(float)
        assert tile.input_range is not None
        voltage = given * 0.2 / tile.input_range.high
        ohms = meter.primitive.resistance(programmed[tile.name].lengths[: len(tile.rows)])
        watts = np.mean([(v[:, None, None] ** 2 / ohms).sum() for v in voltage])
        vectors = 1 if tile.node == "fc1" else 5
        assert spent.resistive_j == pytest.approx(vectors * watts * time, rel=1e-6)
        beside = 2 if tile.node == "fc1" else 1  # blocks of columns, which the same rows drive
        conversions = len(tile.rows) * 6e-15 * 1024 / beside + len(tile.columns) * 48e-15 * 1024
        assert spent.converters_j == pytest.approx(vectors * conversions)
        amperes = np.abs(voltage[:, :, None, None] / ohms).sum(axis=(1, 2, 3)).mean()
        assert 0 < (amperes * 1.2 - watts) * time * vectors <= spent.output_stages_j
    assert set(volts.values()) == {0.2}
    again = Metered.of(layout, meter.vectors)
    assert again.energies(again.volts()) == meter.energies(volts)  # whoever asked for the devices
    total = meter.sections(volts)["energy"]
    assert total.per_inference_j == pytest.approx(sum(getattr(e, p) for e in meter.energies(volts) for p in e.parts()))
    assert total.latency_s == pytest.approx((1 + 5) * time)
    assert total.per_mac_j == pytest.approx(total.per_inference_j / (6 * 5 + 5 * 3 * 5))


def test_where_wires_would_carry_too_much_the_rows_get_less_voltage(tmp_path: Path, rng: np.random.Generator) -> None:
    """No more and no less than the limit, the same for tiles that share drivers, and the energy follows."""
    technology = small("sg13g2", 4, 3)
    limit = technology.wires.metal2_current_limit.model_copy(update={"value": 0.05})
    narrow = technology.model_copy(
        update={"wires": technology.wires.model_copy(update={"metal2_current_limit": limit})}
    )
    layout, _ = placed(tmp_path, rng, narrow)
    meter = Metered.of(layout, {"fc1": (1,), "fc2": (1,)})
    volts = meter.volts()
    assert max(load.share for load in meter.sections(volts)["wire_loads"]) == pytest.approx(1.0)
    assert 0 < min(volts.values()) < 0.15
    for place in layout.tiles:
        beside = [t.name for t in layout.netlist.tiles if (t.node, t.rows) == (place.tile.node, place.tile.rows)]
        assert len({volts[name] for name in beside}) == 1
    full = dict.fromkeys(volts, 0.2)
    for low, high in zip(meter.energies(volts), meter.energies(full), strict=True):
        assert low.resistive_j == pytest.approx(high.resistive_j * (volts[low.name] / 0.2) ** 2)
        assert low.converters_j == high.converters_j


def test_a_tile_that_was_not_calibrated_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    layout, _ = placed(tmp_path, rng, small("generic", 4, 3))
    bare = replace(layout.tiles[0].tile, mean_square=None)
    with pytest.raises(PassError, match="calibrate"):
        Metered.of(layout, {"fc1": (1,)}).devices(bare)


def test_area_by_hand() -> None:
    array, around = tile_area(small("sg13g2", 64, 60), Provision(10, 10))
    width = (120 - 1) * 0.9 + 0.5 + 2 * 0.25
    height = 63 * 11.04 + 10 + 2 * (0.43 + 0.20)
    assert array == pytest.approx(width * height * 1e-12)
    assert around == pytest.approx((64 * 2800 + 60 * 1500) * 1e-12 + 8 * 0.098e-6)  # 7.5 converters do not exist
    _, finer = tile_area(small("sg13g2", 64, 60), Provision(10, 12))
    assert finer - around == pytest.approx(8 * 0.098e-6)  # two more bits double it
    _, beside = tile_area(small("sg13g2", 64, 60), Provision(10, 10), 4)
    assert around - beside == pytest.approx(64 * 1400e-12 * 3 / 4)  # one converter for four tiles, and four buffers


@given(
    places=st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.integers(0, 3), st.integers(0, 3)), min_size=1
    )
)
def test_each_row_that_is_driven_has_one_converter(places: list[tuple[str, int, int, int]]) -> None:
    """Of one contraction, set and block of rows, over all blocks of columns and copies: the parts make up a whole."""
    tiles = [
        NetlistTile(f"t{i}", name, range(8 * row, 8 * row + 8), range(4 * column, 4 * column + 4), lane=lane, lanes=3)
        for i, (name, lane, row, column) in enumerate(places)
    ]
    beside = shared_inputs(tiles)
    converters = sum(1 / beside[tile.name] for tile in tiles)
    assert converters == pytest.approx(len({(name, lane, row) for name, lane, row, _ in places}))


def test_query_key_and_value_are_converted_once(tmp_path: Path, rng: np.random.Generator) -> None:
    """Three projections of a sequence of five share the converters of their eight rows; each has its own columns."""
    names = ("query", "key", "value")
    path = saved(
        model(
            [node("MatMul", f"x w{name}", name, name=name) for name in names],
            {"x": [None, 5, 8]},
            list(names),
            {f"w{name}": rng.standard_normal((8, 6)).astype(np.float32) for name in names},
        ),
        tmp_path,
    )
    bundle = compile(path, tmp_path / "chip")
    made, technology = bundle.manifest, bundle.manifest.technology
    assert made.tiles == 3
    assert made.energy.converters_j == pytest.approx(5 * (8 * 6e-15 * 1024 + 3 * 6 * 48e-15 * 1024))
    apart, together = (tile_area(technology, Provision(10, 10), beside)[1] for beside in (1, 3))
    assert made.area.periphery_mm2 == pytest.approx(3e6 * together)
    assert apart - together == pytest.approx(2 / 3 * technology.tile.rows.value * 1400e-12)
    planned = plan(path)
    assert planned.periphery_mm2 == pytest.approx(made.area.periphery_mm2)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    sample = SAMPLES / "digits_cnn"
    calibration = sample / "calibration.npz"
    return compile(sample / "model.onnx", tmp_path_factory.mktemp("energy") / "chip", calibration=calibration)


def test_a_convolution_is_read_once_per_window(bundle: Bundle) -> None:
    tiles = read_details(bundle.manifest.path_of(bundle.path, "tiles"), TileEnergy)
    assert tiles[0].vectors == 64  # 8 x 8 windows of a padded 3 x 3 convolution
    assert tiles[-1].vectors == 1
    again = read_manifest(bundle.path)
    assert again.energy == bundle.manifest.energy
    for part in tiles[0].parts():
        assert getattr(again.energy, part) == pytest.approx(sum(getattr(tile, part) for tile in tiles))
    area = again.area
    assert area.array_mm2 + area.streets_mm2 == pytest.approx(again.chip.width_um * again.chip.height_um / 1e6)
    assert {load.wire for load in again.wire_loads} == {"metal1", "metal2", "via1", "contact", "strip"}
    assert all(load.average_a < min(load.full_scale_a, load.limit_a) for load in again.wire_loads)


def test_each_layer_says_how_often_it_is_used_and_which_is_slowest(bundle: Bundle) -> None:
    """8 x 8 windows, two layers of 4 x 4, and one of the whole image: uses times the time of one make the latency."""
    manifest = read_manifest(bundle.path)
    layers = {layer.node: layer for layer in manifest.layers}
    assert {node: layer.uses for node, layer in layers.items()} == {
        "conv/Conv": 64,
        "depthwise/Conv": 16,
        "pointwise/Conv": 16,
        "output/Gemm": 1,
    }
    for layer in layers.values():
        assert layer.read_s == pytest.approx(read_time(manifest.technology, 10))
        assert layer.latency_s == pytest.approx(layer.uses * layer.read_s)
    assert manifest.energy.latency_s == pytest.approx(sum(layer.latency_s for layer in layers.values()))
    facts = layer_facts(manifest.layers)
    assert facts[0] == ("  slowest layers", "55.1 µs, 66%: 64 uses × 861 ns of conv/Conv")
    assert len(facts) == 4
    many = [*manifest.layers] * 3
    assert layer_facts(many)[-1] == ("", "85.2 µs, 34%: 9 more")  # 99 uses of 291
    assert layer_facts([layers["output/Gemm"]]) == []  # nothing is used again
    page = html.unescape(bundle.report().read_text())
    (row,) = [line for line in page.splitlines() if line.startswith("<tr class=slowest>")]
    assert "conv/Conv" in row
    assert '<td class="number">64</td><td class="number">861 ns</td><td class="number">55.1 µs</td>' in row


def test_a_plan_foresees_the_compile(bundle: Bundle) -> None:
    foreseen, made = plan(SAMPLES / "digits_cnn" / "model.onnx"), bundle.manifest
    for one, other in zip(foreseen.to_json()["layers"], made.layers, strict=True):
        assert one == pytest.approx(other.model_dump())
    assert foreseen.latency_s == pytest.approx(made.energy.latency_s)
    assert foreseen.periphery_mm2 == pytest.approx(made.area.periphery_mm2)
    assert foreseen.energy_j == pytest.approx(made.energy.per_inference_j, rel=0.5)
    full = plan(parameters=4096)
    assert plan(parameters=4096e6).energy_j == pytest.approx(1e6 * full.energy_j)
    assert full.latency_s is None


def test_the_report_gives_each_assumption_its_source(bundle: Bundle) -> None:
    page = html.unescape(bundle.report().read_text())
    for key, value in bundle.manifest.technology.periphery:
        assert f"<code>periphery.{key}</code>" in page
        assert value.source in page
    assert "Energy of an inference, 4 of 4 contractions" in page


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 J"),
        (9.996e-7, "1 µJ"),
        (1.234e-12, "1.23 pJ"),
        (1e-22, "0.0001 aJ"),
        (45.6, "45.6 J"),
        (2e15, "2e+03 TJ"),
    ],
)
def test_metric_prefixes(value: float, text: str) -> None:
    assert metric(value, "J") == text
