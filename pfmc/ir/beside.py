"""Matrices that stand side by side on the same rows."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from pfmc.ir.derived import Dense, Picked
from pfmc.ir.weights import PART, Matrix

Single: TypeAlias = Matrix | Dense | Picked


@dataclass(frozen=True, eq=False)
class Beside:
    """[A | B | …]: one matrix whose columns are those of several with as many rows, behind each other."""

    parts: tuple[Single, ...]

    @property
    def rows(self) -> int:
        """Number of inputs."""
        return self.parts[0].rows

    @property
    def columns(self) -> int:
        """Number of outputs."""
        return sum(part.columns for part in self.parts)

    @property
    def identity(self) -> Hashable:
        """What two matrices have in common if they are the same."""
        return tuple(part.identity for part in self.parts)

    def block(self, rows: range, columns: range) -> Float[np.ndarray, "rows columns"]:
        """Part of the matrix as float64; ``rows`` and ``columns`` are contiguous."""
        pieces = []
        for part, span in zip(self.parts, spans(self), strict=True):
            own = range(max(columns.start, span.start) - span.start, min(columns.stop, span.stop) - span.start)
            if own:
                pieces.append(part.block(rows, own))
        return np.concatenate(pieces, axis=1)

    def rows_times(self, gain: Float[np.ndarray, " rows"]) -> Beside:
        """Each row times a number."""
        return Beside(tuple(part.rows_times(gain) for part in self.parts))

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns} = [{' | '.join(str(part) for part in self.parts)}]"


AnyMatrix: TypeAlias = Single | Beside


def parts_of(matrix: AnyMatrix) -> tuple[Single, ...]:
    """The matrices that stand side by side; a matrix by itself is the only one."""
    return matrix.parts if isinstance(matrix, Beside) else (matrix,)


def spans(matrix: AnyMatrix) -> tuple[range, ...]:
    """Which columns each of its parts has."""
    ends = np.cumsum([part.columns for part in parts_of(matrix)]).tolist()
    return tuple(range(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True))


def pieces(matrix: AnyMatrix, blocks: Sequence[tuple[range, range]]) -> Iterator[Float[np.ndarray, "_ _"]]:
    """Parts of a matrix, one after another, as :meth:`Matrix.block` gives each.

    Those on the same rows that follow on each other are read together, up to PART columns: to open a file and to find
    its pages takes longer than to read a block.
    """
    rows, left, right = range(0), 0, 0
    strip = np.empty((0, 0))
    for i, (block_rows, columns) in enumerate(blocks):
        if block_rows != rows or not left <= columns.start <= columns.stop <= right:
            rows, left, right = block_rows, columns.start, columns.stop
            for j in range(i + 1, len(blocks)):
                following = blocks[j][1]
                if blocks[j][0] != rows or not left <= following.start <= right or following.stop > left + PART:
                    break
                right = max(right, following.stop)
            strip = matrix.block(rows, range(left, right))
        yield np.ascontiguousarray(strip[:, columns.start - left : columns.stop - left])
