"""unroll: the tiles of contractions that are used many times, as often as input vectors are to run side by side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pfmc.errors import PassError
from pfmc.netlist.netlist import Netlist
from pfmc.passmanager import Context, Pass
from pfmc.uses import lanes_of


@dataclass(frozen=True)
class Unroll(Pass[Netlist, Netlist]):
    """Build several sets of the tiles of a contraction that has many input vectors: windows, or entries of a sequence.

    The vectors are dealt to the sets in turn (A. Shafiee et al., ISAAC, ISCA 2016, replicate the weights of early
    layers so). A contraction gets no more sets than help: with 64 vectors, 40 sets take two turns as 32 do.

    Attributes:
        times: sets of tiles at most.
    """

    times: int = 1

    name: ClassVar[str] = "unroll"
    takes: ClassVar[type[Netlist]] = Netlist
    gives: ClassVar[type[Netlist]] = Netlist

    def __post_init__(self) -> None:
        if self.times < 1:
            raise ValueError("times must be at least 1")

    def run(self, source: Netlist, context: Context) -> Netlist:
        """Sets of a contraction follow each other; tiles are numbered again."""
        lanes = lanes_of(source, context.vectors(source), self.times)
        tiles = (
            replace(tile, lane=lane, lanes=lanes[node.name])
            for node, found in source.by_node()
            for lane in range(lanes[node.name])
            for tile in found
        )
        return replace(source, tiles=tuple(replace(tile, name=f"t{i:05d}") for i, tile in enumerate(tiles)))

    def ensures(self, source: Netlist, result: Netlist) -> None:
        """Every set holds what was there."""
        for (node, before), (_, after) in zip(source.by_node(), result.by_node(), strict=True):
            if len(after) != after[0].lanes * len(before):
                raise PassError(
                    f"{len(after)} tiles are no {after[0].lanes} sets of {len(before)}", f"node {node.name}"
                )
