from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from builders import context, perceptron, weight
from pfmc_passes.calibrate import Calibrate
from pfmc_passes.fold import Fold
from pfmc_passes.normalise import Normalise
from pfmc_passes.place import Place
from pfmc_passes.scale import Scale
from pfmc_passes.tile import Tile

from pfmc.errors import CapacityError, PassError, UsageError
from pfmc.ir.graph import Affine, Conv, Graph, HostNode, MatMul, MatrixVector
from pfmc.ir.text import render
from pfmc.ir.windows import Windows
from pfmc.layout.layout import WeightProgramme
from pfmc.netlist.netlist import Netlist, Range
from pfmc.netlist.netlist import render as render_netlist
from pfmc.passmanager import Context, Pass, run_pipeline, with_options
from pfmc.primitives.crossbar import CrossbarTile
from pfmc.technology.loader import load
from pfmc.technology.schema import Technology


@pytest.fixture
def technology() -> Technology:
    return load("generic")


def convolution(folder: Path, rng: np.random.Generator) -> Graph:
    values = rng.standard_normal((4, 2, 3, 3)).astype(np.float32)
    windows = Windows((3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    conv = Conv("conv", "x", "c", weight(folder, "conv.weight", values), None, ("conv",), windows=windows, groups=2)
    scale = Affine("norm", "c", "d", np.array([1.0, 2.0, 3.0, 4.0]), np.ones(4), 1)
    shift = Affine("shift", "d", "e", None, np.array([5.0]), -1)
    relu = HostNode("relu", "Relu", ("e",), ("y",))
    return Graph("convolution", ("x",), ("y",), (conv, scale, shift, relu), {"x": (None, 4, 5, 5)})


def run(graph: Graph, steps: list[Pass[Any, Any]], where: Context) -> Any:
    current: Any = graph
    for step in steps:
        step.requires(current)
        result = step.run(current, where)
        step.ensures(current, result)
        current = result
    return current


def test_normalise_and_fold_in_text(tmp_path: Path, rng: np.random.Generator, technology: Technology) -> None:
    where = context(technology, {})
    normal = run(convolution(tmp_path, rng), [Normalise()], where)
    assert render(normal) == (
        "graph @convolution (%x: ?x4x5x5)\n"
        '  %c = matrixvector @conv (%x) 36x4 of "conv.weight" float32[4x2x3x3] transposed groups=2 '
        "windows(kernel=3x3 strides=1x1 pads=1x1:1x1)\n"
        "  %d = affine @norm (%c) gain offset axis=1\n"
        "  %e = affine @shift (%d) offset axis=-1\n"
        "  %y = host.Relu @relu (%e)\n"
        "  return %y\n"
    )
    assert render(Fold().run(normal, where)) == (
        "graph @convolution (%x: ?x4x5x5)\n"
        '  %e = matrixvector @conv (%x) 36x4 of "conv.weight" float32[4x2x3x3] transposed groups=2 gain '
        "windows(kernel=3x3 strides=1x1 pads=1x1:1x1) bias replaces(conv, norm, shift)\n"
        "  %y = host.Relu @relu (%e)\n"
        "  return %y\n"
    )


def test_fold_keeps_the_arithmetic(tmp_path: Path, rng: np.random.Generator, technology: Technology) -> None:
    where = context(technology, {})
    normal: Graph = run(convolution(tmp_path, rng), [Normalise()], where)
    before = normal.matrices()[0]
    after = Fold().run(normal, where).matrices()[0]
    gain = np.array([1.0, 2.0, 3.0, 4.0])
    whole = range(36), range(4)
    np.testing.assert_allclose(after.matrix.block(*whole), before.matrix.block(*whole) * gain)
    np.testing.assert_allclose(after.bias, [6.0, 6.0, 6.0, 6.0])


@pytest.mark.parametrize("change", ["read twice", "graph output", "other axis"])
def test_fold_leaves_alone_what_it_must(
    tmp_path: Path, rng: np.random.Generator, technology: Technology, change: str
) -> None:
    graph = convolution(tmp_path, rng)
    if change == "read twice":
        graph = replace(graph, nodes=(*graph.nodes, HostNode("other", "Relu", ("c",), ("z",))))
    elif change == "graph output":
        graph = replace(graph, outputs=("y", "c"))
    else:
        nodes = list(graph.nodes)
        nodes[1] = replace(nodes[1], axis=-1)  # type: ignore[type-var]
        graph = replace(graph, nodes=tuple(nodes))
    folded = run(graph, [Normalise(), Fold()], context(technology, {}))
    assert folded.matrices()[0].replaces == ("conv",)


def small(tmp_path: Path, rng: np.random.Generator, technology: Technology) -> tuple[Netlist, Context, np.ndarray]:
    x = rng.random((50, 6)).astype(np.float32)
    graph = perceptron(tmp_path, rng)
    first = graph.contractions()[0].weight.map()
    where = context(technology, {"x": x, "h": x @ first})
    return run(graph, [Normalise(), Tile(rows=4, columns=3)], where), where, x


def test_tiles_in_text(tmp_path: Path, rng: np.random.Generator, technology: Technology) -> None:
    netlist, _, _ = small(tmp_path, rng, technology)
    assert render_netlist(netlist) == (
        "netlist @perceptron 6 tiles\n"
        '  @fc1 6x5 of "fc1.weight" float32[6x5]\n'
        "    t00000 [0:4, 0:3]\n    t00001 [0:4, 3:5]\n    t00002 [4:6, 0:3]\n    t00003 [4:6, 3:5]\n"
        '  @fc2 5x3 of "fc2.weight" float32[3x5] transposed gain\n'
        "    t00004 [0:4, 0:3]\n    t00005 [4:5, 0:3]\n"
    )


def test_a_block_of_zeros_costs_no_tile(tmp_path: Path, rng: np.random.Generator, technology: Technology) -> None:
    graph = perceptron(tmp_path, rng)
    values = np.array(graph.contractions()[0].weight.map())
    values[:4, :3] = 0
    first = replace(graph.contractions()[0], weight=weight(tmp_path, "sparse", values))
    graph = replace(graph, nodes=(first, graph.nodes[1]))
    netlist = run(graph, [Normalise(), Tile(rows=4, columns=3)], context(technology, {}))
    assert [(t.rows.start, t.columns.start) for t in netlist.tiles if t.node == "fc1"] == [(0, 3), (4, 0), (4, 3)]


def test_ranges_hold_the_data_and_rows_share_drivers(
    tmp_path: Path, rng: np.random.Generator, technology: Technology
) -> None:
    netlist, where, x = small(tmp_path, rng, technology)
    ranged = run(netlist, [Calibrate(headroom=1.0)], where)
    first, beside = ranged.tiles[0], ranged.tiles[1]
    sums = x[:, :4] @ netlist.block(first)
    assert first.input_range == beside.input_range == Range(0.0, float(x[:, :4].max()))
    assert first.output_range.high == pytest.approx(np.abs(sums).max())
    assert first.output_range.low == (0.0 if sums.min() >= 0 else -first.output_range.high)


def test_scale_uses_the_whole_range_and_place_keeps_tiles_apart(
    tmp_path: Path, rng: np.random.Generator, technology: Technology
) -> None:
    netlist, where, _ = small(tmp_path, rng, technology)
    layout = run(netlist, [Calibrate(), Scale(), Place()], where)
    shortest = technology.grid.units(technology.cell.length_min)
    for placed, devices in layout.programmed():
        assert shortest <= devices.lengths.min() <= shortest + 2 * technology.grid.step, placed.tile.name
    spots = [(p.x, p.y) for p in layout.tiles]
    pitch = technology.grid.units(technology.cell.strip_pitch) * 2 * int(technology.tile.columns.value)
    height = technology.grid.units(technology.cell.row_pitch) * int(technology.tile.rows.value)
    for i, (x0, y0) in enumerate(spots):
        assert 0 < x0 < layout.width - pitch
        assert 0 < y0 < layout.height - height
        assert all(abs(x0 - x1) > pitch or abs(y0 - y1) > height for x1, y1 in spots[:i])


def test_scale_says_whether_the_wires_are_compensated(
    tmp_path: Path, rng: np.random.Generator, technology: Technology
) -> None:
    netlist, where, _ = small(tmp_path, rng, technology)
    with_wires, without = (run(netlist, [Scale(compensate=choice)], where) for choice in (True, False))
    for tile, ideal in zip(with_wires.tiles, without.tiles, strict=True):
        largest = float(np.abs(netlist.block(tile)).max())
        assert ideal.scale == CrossbarTile.of(technology).scale(largest)
        assert 0.9 * ideal.scale < tile.scale < ideal.scale
    assert f"[0:4, 0:3] scale {with_wires.tiles[0].scale:.4g} S compensated\n" in render_netlist(with_wires)
    assert "compensated" not in render_netlist(without)


def test_scale_refuses_what_the_wires_leave_too_little_of(
    tmp_path: Path, rng: np.random.Generator, technology: Technology
) -> None:
    netlist, where, _ = small(tmp_path, rng, technology)
    with pytest.raises(CapacityError, match=r"the wires leave 9\d\.\d% .* tile t00000 of node fc1, a smaller tile"):
        run(netlist, [Scale(least=0.999)], where)


def test_where_the_wires_leave_too_little_tiles_have_fewer_rows(tmp_path: Path) -> None:
    """All weights alike are the heaviest load; the other contraction keeps its tiles."""
    technology = load("sg13g2/rppd")
    heavy, light = np.ones((130, 64), dtype=np.float32), np.eye(64, dtype=np.float32)
    nodes = (
        MatMul("heavy", "x", "h", weight(tmp_path, "heavy", heavy), None, ("heavy",)),
        MatMul("light", "h", "y", weight(tmp_path, "light", light), None, ("light",)),
    )
    graph = Graph("g", ("x",), ("y",), nodes, {"x": (None, 130), "h": (None, 64), "y": (None, 64)})
    netlist = run(graph, [Normalise(), Tile(), Scale()], context(technology, {}))
    rows = [(tile.name, tile.node, tile.rows) for tile in netlist.tiles]
    assert rows == [
        *((f"t0000{i}", "heavy", range(32 * i, min(32 * i + 32, 130))) for i in range(5)),
        ("t00005", "light", range(64)),
    ]
    assert all(0.1 <= tile.scale_share < 1 for tile in netlist.tiles)


def test_a_scale_beyond_the_range_names_the_tile(
    tmp_path: Path, rng: np.random.Generator, technology: Technology
) -> None:
    netlist, where, _ = small(tmp_path, rng, technology)
    scaled = run(netlist, [Scale()], where)
    for compensated in (True, False):
        tile = replace(scaled.tiles[0], scale=2 * scaled.tiles[0].scale, compensated=compensated)
        programme = WeightProgramme(scaled, CrossbarTile.of(technology))
        with pytest.raises(CapacityError, match=r"tile t00000 of node fc1, .*a scale of at most"):
            programme.devices(tile)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("size", "3", "options of tile: columns, rows"),
        ("rows", "many", "'many' is not a whole number"),
        ("rows", "-1", "negative"),
    ],
)
def test_a_wrong_option_is_named(option: str, value: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with_options(Tile, {option: value})


def test_a_tile_larger_than_the_technology_offers_is_refused(
    tmp_path: Path, rng: np.random.Generator, technology: Technology
) -> None:
    with pytest.raises(UsageError, match="64 x 64"):
        run(perceptron(tmp_path, rng), [Normalise(), Tile(rows=65)], context(technology, {}))


@dataclass(frozen=True)
class Forgetful(Pass[Graph, Graph]):
    """Loses a contraction, as a third party's pass might."""

    name: ClassVar[str] = "forgetful"
    takes: ClassVar[type[Graph]] = Graph
    gives: ClassVar[type[Graph]] = Graph

    def run(self, source: Graph, context: Context) -> Graph:
        return replace(source, nodes=source.nodes[::-1])


def test_the_manager_names_the_pass_that_breaks_its_promise(
    tmp_path: Path, rng: np.random.Generator, technology: Technology
) -> None:
    graph, where = perceptron(tmp_path, rng), context(technology, {})
    with pytest.raises(PassError, match="node fc2"):
        run_pipeline([Forgetful()], graph, where)
    with pytest.raises(PassError, match="pass scale"):
        run_pipeline([Normalise(), Scale()], graph, where)
    with pytest.raises(PassError, match="not in matrix form, pass tile"):
        run_pipeline([Tile()], graph, where)
    with pytest.raises(PassError, match="no scale"):
        run_pipeline([Normalise(), Tile(), Place()], graph, where)
    assert isinstance(Normalise().run(graph, where).nodes[0], MatrixVector)
