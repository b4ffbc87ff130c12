"""scale: how many siemens stand for one unit of weight, tile by tile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from pfmc.errors import PassError
from pfmc.netlist.netlist import Netlist
from pfmc.passmanager import Context, Pass
from pfmc.primitives.crossbar import CrossbarTile


@dataclass(frozen=True)
class Scale(Pass[Netlist, Netlist]):
    """Give each tile the largest scale at which its largest weight still fits the cell's range.

    Attributes:
        fill: share of the range to use, in (0, 1]: less of it draws less current.
    """

    fill: float = 1.0

    name: ClassVar[str] = "scale"
    takes: ClassVar[type[Netlist]] = Netlist
    gives: ClassVar[type[Netlist]] = Netlist

    def __post_init__(self) -> None:
        if not 0 < self.fill <= 1:
            raise ValueError("fill must be above 0 and at most 1")

    def run(self, source: Netlist, context: Context) -> Netlist:
        """Look at each block once."""
        primitive = CrossbarTile.of(context.technology)
        tiles = (
            replace(tile, scale=self.fill * primitive.scale(float(np.abs(block).max())))
            for tile, block in source.blocks()
        )
        return replace(source, tiles=tuple(tiles))

    def ensures(self, source: Netlist, result: Netlist) -> None:
        """Every tile has a scale that is a number."""
        for tile in result.tiles:
            if not (np.isfinite(tile.scale) and tile.scale > 0):
                raise PassError(f"the scale is {tile.scale}", f"tile {tile.name} of node {tile.node}")
