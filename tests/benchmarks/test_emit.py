"""How fast masks are drawn, and in how much memory; gdstk draws the same references in the same run."""

from __future__ import annotations

from pathlib import Path

from measuring import measured, shown

START = """
import json, resource, sys, time
from dataclasses import dataclass, replace
from pathlib import Path
import gdstk
import numpy as np
sys.path.insert(0, sys.argv[1])
from crossbars import RandomProgramme, layout
from pfmc.ir.graph import Graph, MatrixVector
from pfmc.ir.weights import Matrix, Weight
from pfmc.layout.layout import WeightProgramme
from pfmc.netlist.netlist import Netlist, Tile
from pfmc.primitives.crossbar import CrossbarTile
from pfmc.technology.loader import load
from pfmc_backends.crossbar_gdsii import BACKEND
folder, blocks = Path(sys.argv[2]), int(sys.argv[3])
folder.mkdir()
technology = load("sg13g2")
primitive = CrossbarTile.of(technology)
chip = layout(technology, [(64, 64)] * blocks)

@dataclass(frozen=True)
class Known:
    drawn: list
    def devices(self, tile):
        return self.drawn[int(tile.name[1:]) % len(self.drawn)]

known = Known([RandomProgramme(primitive, 0).devices(placed.tile) for placed in chip.tiles[:16]])
"""

EMIT = """
chip = replace(chip, programme=known)
start = time.perf_counter()
BACKEND.emit(chip, folder, lambda done: None)
seconds = time.perf_counter() - start
"""

COMPILE = """
side = round((blocks * 4096) ** 0.5)
weights = np.lib.format.open_memmap(folder / "w.npy", "w+", "float32", (side, side))
rng = np.random.default_rng(0)
for row in range(0, side, 64):
    weights[row:row + 64] = rng.standard_normal((min(64, side - row), side)).clip(-4, 4)
offset = weights.offset
del weights
weight = Weight("w", (side, side), "float32", folder / "w.npy", offset)
matrix = Matrix(weight, transposed=False)
node = MatrixVector("fc", "x", "y", weight, None, ("fc",), matrix=matrix)
across = range(0, side, 64)
cuts = [(range(r, r + 64), range(c, c + 64)) for r in across for c in across]
scale = primitive.scale(4.0)
tiles = tuple(
    replace(placed, tile=Tile(placed.tile.name, "fc", *cut, scale=scale))
    for placed, cut in zip(chip.tiles, cuts, strict=True)
)
netlist = Netlist(Graph("g", ("x",), ("y",), (node,), {}), tuple(placed.tile for placed in tiles))
chip = replace(chip, tiles=tiles, netlist=netlist, programme=WeightProgramme(netlist, primitive))
start = time.perf_counter()
BACKEND.emit(chip, folder, lambda done: None)
seconds = time.perf_counter() - start
"""

GDSTK = """
values = {length: gdstk.Cell(f"r{length:05}") for length in range(0, 10001, 5)}
strips = [(0.9 * x, 11.04 * y) for y in range(64) for x in range(128)]
start = time.perf_counter()
library = gdstk.Library()
for placed in chip.tiles:
    tile = library.new_cell(placed.tile.name)
    lengths = known.devices(placed.tile).lengths.reshape(-1).tolist()
    tile.add(*(gdstk.Reference(values[length], strip) for length, strip in zip(lengths, strips)))
library.write_gds(folder / "peer.gds")
seconds = time.perf_counter() - start
"""


def test_emission_beside_gdstk(tmp_path: Path) -> None:
    """A million weights: masks and device table by pfmc, the references alone by gdstk."""
    ours = measured(START + EMIT, tmp_path / "ours", 256)
    peer = measured(START + GDSTK, tmp_path / "peer", 256)
    print()
    shown("pfmc, masks and device table, 1 M weights", ours)
    shown("gdstk, references only, 1 M weights", peer)
    assert ours["weights_per_second"] > max(1e6, peer["weights_per_second"])
    assert ours["peak_mib"] < peer["peak_mib"]


def test_a_layer_of_4096_by_4096(tmp_path: Path) -> None:
    """From weights in a file to masks: a million weights per second on one core, in less than a gibibyte."""
    result = measured(START + COMPILE, tmp_path / "layer", 4096)
    print()
    shown("pfmc, weights to masks and device table, 4096 x 4096", result)
    assert result["weights_per_second"] > 1e6
    assert result["peak_mib"] < 1024
