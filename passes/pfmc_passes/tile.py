"""tile: cut every matrix into blocks of the technology's tile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from pfmc.errors import PassError, UsageError
from pfmc.ir.graph import Graph, MatrixVector
from pfmc.netlist.netlist import Netlist
from pfmc.netlist.netlist import Tile as NetlistTile
from pfmc.passmanager import Context, Pass


@dataclass(frozen=True)
class Tile(Pass[Graph, Netlist]):
    """One tile per block of the matrix; a block that is all zero costs none.

    Attributes:
        rows: of the matrix per tile, at most the technology's; 0: the technology's.
        columns: likewise.
    """

    rows: int = 0
    columns: int = 0

    name: ClassVar[str] = "tile"
    takes: ClassVar[type[Graph]] = Graph
    gives: ClassVar[type[Netlist]] = Netlist

    def __post_init__(self) -> None:
        if self.rows < 0 or self.columns < 0:
            raise ValueError("rows and columns cannot be negative")

    def requires(self, source: Graph) -> None:
        """Every contraction is in matrix form."""
        if len(source.matrices()) != len(source.contractions()):
            raise PassError("a contraction is not in matrix form", "pass tile", "run normalise first")

    def run(self, source: Graph, context: Context) -> Netlist:
        """Cut; tiles are numbered by node, then row block, then column block."""
        offered = context.technology.tile
        rows, columns = self.rows or int(offered.rows.value), self.columns or int(offered.columns.value)
        if rows > offered.rows.value or columns > offered.columns.value:
            size = f"{offered.rows.value:g} x {offered.columns.value:g}"
            raise UsageError(f"a tile of {context.technology.name} has {size} weights", "tile.rows, tile.columns")
        blocks = ((node.name, block) for node in source.matrices() for block in _blocks(node, rows, columns))
        return Netlist(source, tuple(NetlistTile(f"t{i:05d}", node, *block) for i, (node, block) in enumerate(blocks)))

    def ensures(self, source: Graph, result: Netlist) -> None:
        """Something is left to build."""
        if not result.tiles:
            raise PassError("every weight of the model is zero", "pass tile", "nothing would be built")


def _blocks(node: MatrixVector, rows: int, columns: int) -> Iterator[tuple[range, range]]:
    matrix = node.matrix
    for row in range(0, matrix.rows, rows):
        for column in range(0, matrix.columns, columns):
            block = range(row, min(row + rows, matrix.rows)), range(column, min(column + columns, matrix.columns))
            if matrix.block(*block).any():
                yield block
