"""Placed tiles and the programme that says how long each strip is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from pfmc.errors import CapacityError
from pfmc.netlist.netlist import Netlist, Tile
from pfmc.primitives.crossbar import CrossbarTile, Programmed
from pfmc.technology.schema import Technology


@dataclass(frozen=True)
class PlacedTile:
    """A tile and where its origin (that of its first strip) stands on the chip, in database units."""

    tile: Tile
    x: int
    y: int


class Programme(Protocol):
    """Where the devices of a tile come from: the weights, or a table of devices."""

    def devices(self, tile: Tile) -> Programmed:
        """Wanted resistance and length of every strip of a tile, unused positions included."""
        ...


@dataclass(frozen=True, eq=False)
class WeightProgramme:
    """Devices that realise the netlist's blocks at the tiles' scales; each tile is computed when it is asked for."""

    netlist: Netlist
    primitive: CrossbarTile

    def devices(self, tile: Tile) -> Programmed:
        """See :class:`Programme`."""
        try:
            block = self.netlist.block(tile)
            if tile.remainder_of is not None:
                block = self.primitive.remainder(block, tile.remainder_of, compensate=tile.compensated)
            return self.primitive.program(block, tile.scale, compensate=tile.compensated)
        except CapacityError as e:
            where = ", ".join(part for part in (f"tile {tile.name} of node {tile.node}", e.where) if part)
            raise CapacityError(e.what, where, e.fix) from None


@dataclass(frozen=True, eq=False)
class Layout:
    """A chip.

    Attributes:
        title: the text drawn on the chip: it names the model by its hash.
        width, height: of the chip's frame, database units; its lower left corner is the origin.
    """

    technology: Technology
    netlist: Netlist
    tiles: tuple[PlacedTile, ...]
    programme: Programme
    width: int
    height: int
    title: str

    def programmed(self) -> Iterator[tuple[PlacedTile, Programmed]]:
        """Every tile with its devices, one at a time."""
        for placed in self.tiles:
            yield placed, self.programme.devices(placed.tile)


def tiles_across(count: int, aspect: float, pitch_x: float, pitch_y: float) -> int:
    """Tiles in a row, of ``count`` at these pitches, for a chip about ``aspect`` times as wide as high."""
    return max(1, min(count, round(math.sqrt(aspect * count * pitch_y / pitch_x))))


def tile_extent(technology: Technology) -> tuple[int, int, int, int]:
    """Left and bottom edge of a tile relative to its origin, its width and height; database units.

    The blankets reach furthest: their margin beyond the outermost strips and heads.
    """
    grid, cell = technology.grid, technology.cell
    strips = 2 * int(technology.tile.columns.value)
    half = grid.units(cell.strip_width) // 2
    margin_x, margin_y = grid.units(cell.blanket_margin_x), grid.units(cell.blanket_margin_y)
    head = grid.units(cell.head_length)
    left, bottom = -half - margin_x, -head - margin_y
    right = (strips - 1) * grid.units(cell.strip_pitch) + half + margin_x
    rows = int(technology.tile.rows.value)
    top = (rows - 1) * grid.units(cell.row_pitch) + grid.units(cell.body_length) + head + margin_y
    return left, bottom, right - left, top - bottom
