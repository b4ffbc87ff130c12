"""Orders of a sparse matrix's rows and columns in which fewer tiles hold all that is not zero."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from scipy.sparse import block_array, csr_array
from scipy.sparse.csgraph import connected_components, reverse_cuthill_mckee

from pfmc_passes.blocks import Block, cost


@dataclass(frozen=True, eq=False)
class Packing:
    """Rows and columns in the order that tiles have them, and where tiles cut them.

    Attributes:
        rows: of the matrix; between groups the first is repeated, so that each begins where a tile may. No block has
            those.
        columns: of the matrix; those that are all zero are left out.
    """

    rows: Int[np.ndarray, " rows"]
    columns: Int[np.ndarray, " columns"]
    blocks: tuple[Block, ...]


@dataclass(frozen=True, eq=False)
class _Group:
    """Rows and columns, in order, that share no weight with any other group's."""

    rows: Int[np.ndarray, " _"]
    columns: Int[np.ndarray, " _"]


def packed(weights: csr_array, height: int, width: int) -> Packing | None:
    """The order with the fewest tiles of those that are tried; None: nothing is connected to anything.

    Connected components one behind the other; the same, each with its own tiles or, if they are small, several on one
    tile, the highest first where it fits; and the order that keeps weights near a diagonal (E. Cuthill and J. McKee,
    Proc. 24th Nat. Conf. ACM, 1969, reversed).

    Args:
        weights: what is not zero.
        height, width: of a tile.
    """
    components = list(_components(weights))
    if not components:
        return None
    ways = [_joined(components)], _on_tiles(components, height, width), [_near_a_diagonal(weights)]
    return min((_cut(weights, groups, height, width) for groups in ways), key=lambda found: cost(found.blocks))


def _components(weights: csr_array) -> Iterator[_Group]:
    """Those with more than one row or column, by their first row."""
    count, labels = connected_components(_bipartite(weights), directed=False)
    rows, columns = (_by_label(part, count) for part in np.split(labels, [_height(weights)]))
    found = [_Group(*pair) for pair in zip(rows, columns, strict=True) if len(pair[0]) and len(pair[1])]
    yield from sorted(found, key=lambda group: int(group.rows[0]))


def _by_label(labels: Int[np.ndarray, " n"], count: int) -> list[Int[np.ndarray, " _"]]:
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.cumsum(np.bincount(labels, minlength=count))[:-1])


def _height(weights: csr_array) -> int:
    return len(weights.indptr) - 1


def _bipartite(weights: csr_array) -> csr_array:
    """Rows and columns as nodes, an edge for each weight."""
    return csr_array(block_array([[None, weights], [weights.T, None]]))


def _joined(groups: Sequence[_Group]) -> _Group:
    return _Group(*(np.concatenate([getattr(group, name) for group in groups]) for name in ("rows", "columns")))


def _on_tiles(components: Sequence[_Group], height: int, width: int) -> list[_Group]:
    """Small components together where they fit, first-fit decreasing; large ones by themselves."""
    sizes = np.array([(len(group.rows), len(group.columns)) for group in components])
    small = np.all(sizes <= (height, width), axis=1)
    tiles: list[list[_Group]] = [[] for _ in components]
    used = np.zeros_like(sizes)
    for i in np.argsort(-sizes[:, 0], kind="stable"):
        if small[i]:
            tile = int(np.argmax(np.all(used + sizes[i] <= (height, width), axis=1)))
            used[tile] += sizes[i]
            tiles[tile].append(components[i])
    large = [group for group, fits in zip(components, small, strict=True) if not fits]
    return [*large, *(_joined(tile) for tile in tiles if tile)]


def _near_a_diagonal(weights: csr_array) -> _Group:
    order = reverse_cuthill_mckee(_bipartite(weights), symmetric_mode=True)
    height = _height(weights)
    rows, columns = order[order < height], order[order >= height] - height
    sizes = [np.diff(each.indptr) for each in (weights, csr_array(weights.T))]
    return _Group(rows[sizes[0][rows] > 0], columns[sizes[1][columns] > 0])


def _cut(weights: csr_array, groups: Sequence[_Group], height: int, width: int) -> Packing:
    """Tiles of each group, those left out that hold nothing."""
    rows: list[Int[np.ndarray, " _"]] = []
    found: list[Block] = []
    row = column = 0
    for group in groups:
        height_of, width_of = len(group.rows), len(group.columns)
        part = weights[group.rows][:, group.columns].tocoo()
        for i, j in sorted(set(zip((part.row // height).tolist(), (part.col // width).tolist(), strict=True))):
            top, left = row + i * height, column + j * width
            block = range(top, min(top + height, row + height_of)), range(left, min(left + width, column + width_of))
            found.append(block)
        padding = -height_of % height
        rows.append(np.concatenate([group.rows, np.repeat(group.rows[:1], padding)]))
        row, column = row + height_of + padding, column + width_of
    last = max(block[0].stop for block in found)
    columns = np.concatenate([group.columns for group in groups])
    return Packing(np.concatenate(rows)[:last], columns, tuple(found))
