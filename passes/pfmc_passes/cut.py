"""One contraction's matrix cut into tiles, in the order of rows and columns that takes the fewest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from scipy.sparse import csr_array

from pfmc.ir.arrangement import Arrangement
from pfmc.ir.beside import AnyMatrix, Beside, pieces
from pfmc.ir.derived import Picked
from pfmc.ir.graph import MatrixVector
from pfmc_passes.blocks import Block, blocks
from pfmc_passes.packing import Packing, packed

SPARSE: Final = 0.5  # share of weights that are not zero, above which no order is looked for
MOST_WEIGHTS: Final = 2**22  # that are not zero, likewise: a graph of them takes a second


@dataclass(frozen=True, eq=False)
class Cut:
    """Where tiles cut a matrix.

    Attributes:
        packing: the order of its rows and columns; None: their own.
    """

    blocks: tuple[Block, ...]
    packing: Packing | None = None

    @classmethod
    def of(cls, node: MatrixVector, rows: int, columns: int) -> Cut:
        """Into blocks of so many rows and columns; in another order only where that takes fewer."""
        found = tuple(blocks(node.matrix, rows, columns))
        if found and not node.parts:
            weights = _sparse(node.matrix, found, rows, columns)
            packing = None if weights is None else packed(weights, rows, columns)
            if packing is not None and len(packing.blocks) < len(found):
                return cls(packing.blocks, packing)
        return cls(found)

    def arranged(self, node: MatrixVector) -> MatrixVector:
        """The contraction with its matrix in that order."""
        packing, matrix = self.packing, node.matrix
        if packing is None or isinstance(matrix, Beside):
            return node
        old = node.arranged or Arrangement(
            matrix.rows, np.arange(matrix.rows), np.arange(matrix.columns), np.ones(matrix.columns)
        )
        place = np.full(matrix.columns, -1)
        place[packing.columns] = np.arange(len(packing.columns))
        places = place[old.columns]
        gains = np.where(places < 0, 0.0, old.gains)
        return replace(
            node,
            matrix=Picked.of(matrix, packing.rows, packing.columns),
            arranged=Arrangement(old.inputs, old.rows[packing.rows], np.maximum(places, 0), gains),
            made_of=node.made_of or (node,),
            notes=(*node.notes, "rows and columns in another order"),
        )


def _sparse(matrix: AnyMatrix, found: Sequence[Block], rows: int, columns: int) -> csr_array | None:
    """What is not zero, if it is little enough that fewer blocks could hold it."""
    count = sum(int(np.count_nonzero(values)) for values in pieces(matrix, found))
    least = max(-(-count // (rows * columns)), -(-matrix.rows // rows), -(-matrix.columns // columns))
    if len(found) == least or count > min(SPARSE * matrix.rows * matrix.columns, MOST_WEIGHTS):
        return None
    row, column = (np.empty(count, dtype=np.int32) for _ in range(2))
    end = 0
    for block, values in zip(found, pieces(matrix, found), strict=True):
        i, j = np.nonzero(values)
        start, end = end, end + len(i)
        row[start:end], column[start:end] = i + block[0].start, j + block[1].start
    return csr_array((np.ones(count, dtype=np.int8), (row, column)), shape=(matrix.rows, matrix.columns))
