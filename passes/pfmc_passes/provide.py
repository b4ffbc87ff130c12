"""provide: the converters of each contraction, and how often its tiles are built."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pfmc.errors import PassError
from pfmc.netlist.netlist import Netlist, Provision
from pfmc.passmanager import Context, Pass
from pfmc.primitives.crossbar import CrossbarTile
from pfmc.slices import provided
from pfmc.technology.schema import Technology


@dataclass(frozen=True)
class Provide(Pass[Netlist, Netlist]):
    """Give each contraction converters and copies: the technology's, or what an accuracy that was asked for needs.

    Attributes:
        copies: of every tile, where nothing else was chosen.
        slices: of significance; 2: another tile holds what the grid of lengths leaves of each block.
    """

    copies: int = 1
    slices: int = 1

    name: ClassVar[str] = "provide"
    takes: ClassVar[type[Netlist]] = Netlist
    gives: ClassVar[type[Netlist]] = Netlist

    def __post_init__(self) -> None:
        if self.copies < 1:
            raise ValueError("copies must be at least 1")
        if self.slices not in {1, 2}:
            raise ValueError("slices must be 1 or 2")

    def run(self, source: Netlist, context: Context) -> Netlist:
        """Copies of a tile and its second slice follow it; tiles are numbered again."""
        technology = context.technology
        primitive = CrossbarTile.of(technology) if isinstance(technology, Technology) else None
        default = replace(Provision.standard(technology), copies=self.copies, slices=self.slices)
        chosen = context.provisions(source)
        tiles = (
            one
            for tile, block in source.blocks()
            for one in provided(tile, block, chosen.get(tile.node, default), primitive)
        )
        return replace(source, tiles=tuple(replace(tile, name=f"t{i:05d}") for i, tile in enumerate(tiles)))

    def ensures(self, source: Netlist, result: Netlist) -> None:
        """Every tile knows its converters."""
        for tile in result.tiles:
            if tile.provision is None or min(tile.provision.input_bits, tile.provision.output_bits) < 2:
                raise PassError(f"its converters are {tile.provision}", f"tile {tile.name} of node {tile.node}")
