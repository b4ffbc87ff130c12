"""scale: how many siemens stand for one unit of weight, tile by tile."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from pfmc.errors import CapacityError, PassError
from pfmc.ir.graph import MatrixVector
from pfmc.netlist.netlist import Netlist, Tile, blocks_of
from pfmc.passmanager import Context, Pass
from pfmc.physics.network import wire_loading
from pfmc.primitives.crossbar import CrossbarTile
from pfmc.technology.kinds import crossbars


@dataclass(frozen=True)
class Scale(Pass[Netlist, Netlist]):
    """Give each tile the largest scale at which its weights still fit the cell's range.

    With the wires compensated it is up to 1 % less than that, so that it fits for certain without the tile's network
    being solved where its wires load it lightly: :func:`pfmc.physics.precompensation.feasible_scale`.

    Attributes:
        fill: share of that scale to use, in (0, 1]: less of it draws less current.
        compensate: let the conductances make up for the resistance of the wires.
        least: share of the scale with ideal wires, in [0, 1], that the wires must leave. The less they leave, the
            weaker the signal and the more an error of the wires' resistance counts: where 0.9 / 0.35 / 0.1 is left,
            one of 10 % makes the matrix 2 / 5 / 8 % wrong. Where they leave less, the contraction gets tiles of half
            the rows.
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
        """Look at each block once; tiles are numbered again where some were split.

        Raises:
            CapacityError: if the wires leave even a single row too small a scale.
        """
        primitive = CrossbarTile.of(crossbars(context.technology, "pass scale"))
        tiles = [tile for node, found in source.by_node() for tile in self._scaled(primitive, node, found)]
        return replace(source, tiles=tuple(replace(tile, name=f"t{i:05d}") for i, tile in enumerate(tiles)))

    def ensures(self, source: Netlist, result: Netlist) -> None:
        """Every tile has a scale that is a number."""
        for tile in result.tiles:
            if not (np.isfinite(tile.scale) and tile.scale > 0):
                raise PassError(f"the scale is {tile.scale}", f"tile {tile.name} of node {tile.node}")

    def _scaled(self, primitive: CrossbarTile, node: MatrixVector, tiles: list[Tile]) -> list[Tile]:
        """The tiles of a contraction with their scales; where the wires leave too little, tiles of half the rows."""
        scaled = []
        for tile, block in blocks_of(node, tiles):
            ideal = primitive.scale(float(np.abs(block).max()))
            try:
                scale = primitive.feasible_scale(block) if self.compensate else ideal
            except CapacityError:
                scale = 0.0
            if scale < self.least * ideal:
                return self._scaled(
                    primitive, node, _halved(node, tiles, self._too_little(primitive, tile, scale / ideal))
                )
            share = scale / ideal if block.any() else 1.0
            scaled.append(
                replace(tile, scale=self.fill * scale, scale_share=self.fill * share, compensated=self.compensate)
            )
        return scaled

    def _too_little(self, primitive: CrossbarTile, tile: Tile, share: float) -> CapacityError:
        x = wire_loading(primitive.conductance_max, primitive.wires, primitive.rows, 2 * primitive.columns)
        return CapacityError(
            f"the wires leave {share:.1%} of the scale, less than scale.least={self.least:g}, r·G_max·N = {x:.2g}",
            f"tile {tile.name} of node {tile.node}",
            "a smaller tile or wires of less resistance in the technology, or scale.compensate=no",
        )


def _halved(node: MatrixVector, tiles: list[Tile], otherwise: CapacityError) -> list[Tile]:
    """Tiles of half the rows, all of a height that they begin at multiples of; those that are all zero are left out."""
    height = max(len(tile.rows) for tile in tiles)
    if height == 1:
        raise otherwise
    pitch = math.gcd(*(tile.rows.start for tile in tiles)) or height + height % 2
    half = max(divisor for divisor in range(1, height) if pitch % divisor == 0)
    parts = [
        replace(tile, rows=range(start, min(start + half, tile.rows.stop)))
        for tile in tiles
        for start in range(tile.rows.start, tile.rows.stop, half)
    ]
    parts.sort(key=lambda tile: (tile.rows.start, tile.columns.start))
    return [tile for tile in parts if node.matrix.block(tile.rows, tile.columns).any()]
