"""Where tiles cut a matrix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pfmc.ir.beside import AnyMatrix, pieces, spans
from pfmc.passmanager import Context

Block = tuple[range, range]


def tile_size(context: Context) -> tuple[int, int]:
    """Rows and columns of the technology's tiles."""
    tile = context.technology.tile
    return int(tile.rows.value), int(tile.columns.value)


def blocks(matrix: AnyMatrix, rows: int, columns: int) -> Iterator[Block]:
    """Blocks of at most so many rows and columns that are not all zero, row by row.

    Matrices that stand side by side have blocks of their own: each its scale, and converters for its outputs.
    """
    every = [
        (range(row, min(row + rows, matrix.rows)), range(column, min(column + columns, span.stop)))
        for row in range(0, matrix.rows, rows)
        for span in spans(matrix)
        for column in range(span.start, span.stop, columns)
    ]
    for block, values in zip(every, pieces(matrix, every), strict=True):
        if values.any():
            yield block


def cost(some: Iterable[Block]) -> tuple[int, int]:
    """How many tiles blocks take, and how many weights."""
    sizes = [len(rows) * len(columns) for rows, columns in some]
    return len(sizes), sum(sizes)
