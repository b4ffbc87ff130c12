"""Small crossbar layouts for tests, placed as the compiler places them, with random devices instead of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from builders import context
from pfmc_passes.place import Place

from pfmc.bundle import TileRecord
from pfmc.ir.graph import Graph
from pfmc.layout.layout import Layout
from pfmc.netlist.netlist import Netlist, Tile
from pfmc.primitives.crossbar import CrossbarTile, Programmed
from pfmc.technology.loader import load
from pfmc.technology.schema import Technology


def small(name: str, rows: int, columns: int) -> Technology:
    """A built-in technology with another size of tile."""
    technology = load(name)
    size = technology.tile
    changed = {
        "rows": size.rows.model_copy(update={"value": float(rows)}),
        "columns": size.columns.model_copy(update={"value": float(columns)}),
    }
    return technology.model_copy(update={"tile": size.model_copy(update=changed)})


@dataclass(frozen=True)
class RandomProgramme:
    """Lengths anywhere in the cell's range, its ends among them; what was wanted lies a little beside them."""

    primitive: CrossbarTile
    seed: int

    def devices(self, tile: Tile) -> Programmed:
        """See :class:`pfmc.layout.layout.Programme`."""
        primitive = self.primitive
        rng = np.random.default_rng([self.seed, int(tile.name[1:])])
        block = len(tile.rows), len(tile.columns), 2
        low, high = primitive.length_min // primitive.step, primitive.length_max // primitive.step
        lengths = np.full((primitive.rows, primitive.columns, 2), primitive.length_max, dtype=np.int32)
        lengths[: block[0], : block[1]] = rng.integers(low, high + 1, block) * primitive.step
        lengths[0, 0] = primitive.length_min, primitive.length_max
        resistance = primitive.resistance(lengths)
        return Programmed(resistance + rng.uniform(-0.4, 0.4, resistance.shape), lengths)


def layout(technology: Technology, blocks: Sequence[tuple[int, int]], seed: int = 0) -> Layout:
    """A tile for each block of rows x columns, one below the other in one matrix."""
    starts = np.cumsum([0, *(rows for rows, _ in blocks)])
    tiles = tuple(
        Tile(f"t{i:05}", "fc", range(starts[i], starts[i] + rows), range(columns), scale=1.0)
        for i, (rows, columns) in enumerate(blocks)
    )
    netlist = Netlist(Graph("g", (), (), (), {}), tiles)
    placed = Place().run(netlist, replace(context(technology, {}), title="pfmc 0123456789abcdef"))
    return replace(placed, programme=RandomProgramme(CrossbarTile.of(technology), seed))


def records(chip: Layout) -> list[TileRecord]:
    """The bundle's records of the tiles."""
    ranges = {"input_low": -1.0, "input_high": 1.0, "output_low": -1.0, "output_high": 1.0}
    return [
        TileRecord(
            name=placed.tile.name,
            node=placed.tile.node,
            primitive="crossbar",
            row_start=placed.tile.rows.start,
            row_stop=placed.tile.rows.stop,
            column_start=placed.tile.columns.start,
            column_stop=placed.tile.columns.stop,
            x=placed.x,
            y=placed.y,
            scale_siemens=1.0,
            input_volts=0.2,
            input_bits=10,
            output_bits=10,
            copy_number=0,
            copies=1,
            **ranges,
        )
        for placed in chip.tiles
    ]
