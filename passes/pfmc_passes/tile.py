"""tile: cut every matrix into blocks of the technology's tile, each matrix once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pfmc.errors import PassError, UsageError
from pfmc.ir.graph import Graph, MatrixVector, Node
from pfmc.netlist.netlist import Netlist
from pfmc.netlist.netlist import Tile as NetlistTile
from pfmc.passmanager import Context, Pass
from pfmc_passes.blocks import tile_size
from pfmc_passes.cut import Cut
from pfmc_passes.savings import savings


@dataclass(frozen=True)
class Tile(Pass[Graph, Netlist]):
    """One tile per block of the matrix; a block that is all zero costs none.

    Contractions by the same matrix share its tiles: one after the other, as every contraction waits for its input.
    Rows and columns of a matrix that is mostly zeros are put in another order if that empties tiles; see
    :mod:`pfmc_passes.packing`. Matrices that stand side by side keep the order that they share.

    Attributes:
        rows: of the matrix per tile, at most the technology's; 0: the technology's.
        columns: likewise.
        share: whether contractions by the same matrix share tiles, and so the ranges of converters too.
    """

    rows: int = 0
    columns: int = 0
    share: bool = True

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
        most = tile_size(context)
        rows, columns = self.rows or most[0], self.columns or most[1]
        if rows > most[0] or columns > most[1]:
            size = f"{most[0]} x {most[1]}"
            raise UsageError(f"a tile of {context.technology.name} has {size} weights", "tile.rows, tile.columns")
        shared = _shared(source) if self.share else source
        cuts: dict[str, Cut] = {}
        for node in shared.matrices():
            cuts[node.name] = cuts[node.shares] if node.shares else Cut.of(node, rows, columns)
        nodes = tuple(cuts[n.name].arranged(n) if isinstance(n, MatrixVector) else n for n in shared.nodes)
        graph = replace(shared, nodes=nodes)
        owners = [node for node in graph.matrices() if not node.shares]
        blocks = ((node.name, block) for node in owners for block in cuts[node.name].blocks)
        tiles = tuple(NetlistTile(f"t{i:05d}", node, *block) for i, (node, block) in enumerate(blocks))
        return Netlist(graph, tiles, savings(owners, tiles, rows, columns))

    def ensures(self, source: Graph, result: Netlist) -> None:
        """Something is left to build."""
        if not result.tiles:
            raise PassError("every weight of the model is zero", "pass tile", "nothing would be built")


def _shared(graph: Graph) -> Graph:
    """Each contraction by a matrix that another one before it has says so."""
    first: dict[object, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, MatrixVector):
            owner = first.setdefault(node.matrix.identity, node.name)
            nodes.append(replace(node, shares="" if owner == node.name else owner))
        else:
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes))
