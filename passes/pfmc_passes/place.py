"""place: tiles on a chip, in rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from pfmc.errors import PassError
from pfmc.layout.layout import Layout, PlacedTile, WeightProgramme, tile_extent, tiles_across
from pfmc.netlist.netlist import Netlist
from pfmc.passmanager import Context, Pass
from pfmc.primitives.crossbar import CrossbarTile
from pfmc.technology.kinds import crossbars


@dataclass(frozen=True)
class Place(Pass[Netlist, Layout]):
    """Set the tiles in rows, from the lower left, on a chip that is about ``aspect`` times as wide as high."""

    aspect: float = 1.0

    name: ClassVar[str] = "place"
    takes: ClassVar[type[Netlist]] = Netlist
    gives: ClassVar[type[Layout]] = Layout

    def __post_init__(self) -> None:
        if self.aspect <= 0:
            raise ValueError("aspect must be above 0")

    def requires(self, source: Netlist) -> None:
        """Every tile has its scale."""
        for tile in source.tiles:
            if math.isnan(tile.scale):
                raise PassError("the tile has no scale", f"tile {tile.name}", "run scale before place")

    def run(self, source: Netlist, context: Context) -> Layout:
        """Place in the order of the netlist: tiles of one node stand together."""
        technology = crossbars(context.technology, "pass place")
        grid, chip = technology.grid, technology.chip
        left, bottom, width, height = tile_extent(technology)
        pitch_x, pitch_y = width + grid.units(chip.tile_spacing), height + grid.units(chip.tile_spacing)
        count = len(source.tiles)
        across = tiles_across(count, self.aspect, pitch_x, pitch_y)
        up = -(-count // across)
        margin = grid.units(chip.frame_margin)
        placed = tuple(
            PlacedTile(tile, margin - left + (i % across) * pitch_x, margin - bottom + (i // across) * pitch_y)
            for i, tile in enumerate(source.tiles)
        )
        return Layout(
            technology=technology,
            netlist=source,
            tiles=placed,
            programme=WeightProgramme(source, CrossbarTile.of(technology)),
            width=2 * margin + across * pitch_x - (pitch_x - width),
            height=2 * margin + up * pitch_y - (pitch_y - height),
            title=context.title,
        )

    def ensures(self, source: Netlist, result: Layout) -> None:
        """Every tile has a place."""
        if [placed.tile for placed in result.tiles] != list(source.tiles):
            raise PassError("the layout does not hold the netlist's tiles", f"pass {self.name}")
