"""scale: how many siemens stand for one unit of weight, tile by tile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from pfmc.errors import CapacityError, PassError
from pfmc.netlist.netlist import Netlist, Tile
from pfmc.passmanager import Context, Pass
from pfmc.physics.network import wire_loading
from pfmc.primitives.crossbar import CrossbarTile


@dataclass(frozen=True)
class Scale(Pass[Netlist, Netlist]):
    """Give each tile the largest scale at which its weights still fit the cell's range.

    Attributes:
        fill: share of that scale to use, in (0, 1]: less of it draws less current.
        compensate: let the conductances make up for the resistance of the wires.
        least: share of the scale with ideal wires, in [0, 1], that the wires must leave. The less they leave, the
            weaker the signal and the more an error of the wires' resistance counts: where 0.9 / 0.35 / 0.1 is left,
            one of 10 % makes the matrix 2 / 5 / 8 % wrong.
    """

    fill: float = 1.0
    compensate: bool = True
    least: float = 0.1

    name: ClassVar[str] = "scale"
    takes: ClassVar[type[Netlist]] = Netlist
    gives: ClassVar[type[Netlist]] = Netlist

    def __post_init__(self) -> None:
        if not 0 < self.fill <= 1:
            raise ValueError("fill must be above 0 and at most 1")
        if not 0 <= self.least <= 1:
            raise ValueError("least must be from 0 to 1")

    def run(self, source: Netlist, context: Context) -> Netlist:
        """Look at each block once.

        Raises:
            CapacityError: if the wires leave a tile too small a scale.
        """
        primitive = CrossbarTile.of(context.technology)
        tiles = []
        for tile, block in source.blocks():
            scale = primitive.scale(float(np.abs(block).max()))
            if self.compensate:
                scale = self._compensated(primitive, tile, block, scale)
            tiles.append(replace(tile, scale=self.fill * scale, compensated=self.compensate))
        return replace(source, tiles=tuple(tiles))

    def ensures(self, source: Netlist, result: Netlist) -> None:
        """Every tile has a scale that is a number."""
        for tile in result.tiles:
            if not (np.isfinite(tile.scale) and tile.scale > 0):
                raise PassError(f"the scale is {tile.scale}", f"tile {tile.name} of node {tile.node}")

    def _compensated(self, primitive: CrossbarTile, tile: Tile, block: np.ndarray, ideal: float) -> float:
        """The largest scale with the wires compensated."""
        where = f"tile {tile.name} of node {tile.node}"
        fix = f"fewer rows in a tile (tile.rows={primitive.rows // 2}) or wires of less resistance"
        try:
            scale = primitive.feasible_scale(block)
        except CapacityError as e:
            raise CapacityError(e.what, where, fix) from None
        if block.any() and scale < self.least * ideal:
            x = wire_loading(primitive.conductance_max, primitive.wires, primitive.rows, 2 * primitive.columns)
            left = f"the wires leave {scale / ideal:.1%} of the scale, less than scale.least={self.least:g}"
            raise CapacityError(f"{left}, r·G_max·N = {x:.2g}", where, fix)
        return scale
