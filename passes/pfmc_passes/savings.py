"""What was saved: tiles as they are, against those that the model's own matrices would have needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import networkx as nx

from pfmc.ir.graph import MatrixVector
from pfmc.netlist.netlist import Saving, Tile
from pfmc_passes.blocks import Block, blocks, cost


def savings(nodes: Sequence[MatrixVector], tiles: Iterable[Tile], rows: int, columns: int) -> tuple[Saving, ...]:
    """An entry for each group of contractions with tiles that stand for the same ones of the model.

    Args:
        nodes: that have tiles of their own.
        rows, columns: of the model's matrices per tile.
    """
    drawn: dict[str, list[Block]] = {}
    for tile in tiles:
        drawn.setdefault(tile.node, []).append((tile.rows, tile.columns))
    standing = nx.Graph([(("drawn", node.name), ("model", o.name)) for node in nodes for o in node.origins])
    found = []
    for group in nx.connected_components(standing):
        together = [node for node in nodes if ("drawn", node.name) in group]
        if any(node.notes for node in together):
            found.append(_saving(together, [block for n in together for block in drawn.get(n.name, [])], rows, columns))
    return tuple(found)


def _saving(together: Sequence[MatrixVector], drawn: Sequence[Block], rows: int, columns: int) -> Saving:
    origins = {origin.name: origin for node in together for origin in node.origins}
    needed = [block for origin in origins.values() for block in blocks(origin.matrix, rows, columns)]
    how = dict.fromkeys(note for node in together for note in node.notes)
    names = tuple(node.name for node in together)
    errors = tuple((node.name, node.error) for node in together if node.error)
    (tiles, weights), (tiles_left, weights_left) = cost(needed), cost(drawn)
    return Saving(names, tuple(how), weights - weights_left, tiles - tiles_left, errors)
