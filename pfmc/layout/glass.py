"""Volumes placed in a block of glass, and where their voxels come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from pfmc.layout.layout import Layout, PlacedTile
from pfmc.netlist.netlist import Netlist, Tile
from pfmc.primitives.volume import Written
from pfmc.technology.glass import GlassTechnology


class Voxels(Protocol):
    """Where the voxels of a tile come from."""

    def written(self, tile: Tile) -> Written:
        """The levels of a tile's voxels, and what they were found to do."""
        ...


@dataclass(frozen=True, eq=False)
class GlassLayout:
    """A block of glass; light crosses it along z.

    Attributes:
        tiles: x and y of each are those of its volume's axis, in nanometres from the block's corner.
        width, height, thickness: of the block, nanometres.
        title: names the model by its hash.
    """

    technology: GlassTechnology
    netlist: Netlist
    tiles: tuple[PlacedTile, ...]
    voxels: Voxels
    width: int
    height: int
    thickness: int
    title: str

    def written(self) -> Iterator[tuple[PlacedTile, Written]]:
        """Every tile with its voxels, one at a time."""
        for placed in self.tiles:
            yield placed, self.voxels.written(placed.tile)


AnyLayout = Layout | GlassLayout
