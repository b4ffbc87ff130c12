"""Matrices that are made of others."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from pfmc.ir.weights import Matrix


@dataclass(frozen=True, eq=False)
class Dense:
    """A matrix that was computed and lies in no file, but in memory.

    Attributes:
        how: it was made, as it is printed.
    """

    values: Float[np.ndarray, "rows columns"]
    how: str

    @property
    def rows(self) -> int:
        """Number of inputs."""
        return len(self.values)

    @property
    def columns(self) -> int:
        """Number of outputs."""
        return int(self.values.shape[1])

    @cached_property
    def identity(self) -> Hashable:
        """What two matrices have in common if they are the same."""
        return self.values.shape, hashlib.sha256(self.values.tobytes()).hexdigest()

    def block(self, rows: range, columns: range) -> Float[np.ndarray, "rows columns"]:
        """Part of the matrix; ``rows`` and ``columns`` are contiguous."""
        return self.values[rows.start : rows.stop, columns.start : columns.stop]

    def at(
        self, row: Int[np.ndarray, " rows"], column: Int[np.ndarray, " columns"]
    ) -> Float[np.ndarray, "rows columns"]:
        """These rows and columns of the matrix, in this order."""
        return np.asarray(self.values[np.ix_(row, column)])

    def rows_times(self, gain: Float[np.ndarray, " rows"]) -> Dense:
        """Each row times a number."""
        return replace(self, values=self.values * gain[:, None])

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns} = {self.how}"


@dataclass(frozen=True, eq=False)
class Picked:
    """Some rows and columns of a matrix, in an order of their own; a row may occur again where no tile has it."""

    base: Matrix | Dense
    row: Int[np.ndarray, " rows"]
    column: Int[np.ndarray, " columns"]

    @classmethod
    def of(
        cls, matrix: Matrix | Dense | Picked, row: Int[np.ndarray, " rows"], column: Int[np.ndarray, " columns"]
    ) -> Picked:
        """Of a matrix that may be picked itself."""
        if isinstance(matrix, Picked):
            return cls(matrix.base, matrix.row[row], matrix.column[column])
        return cls(matrix, row, column)

    @property
    def rows(self) -> int:
        """Number of inputs."""
        return len(self.row)

    @property
    def columns(self) -> int:
        """Number of outputs."""
        return len(self.column)

    @property
    def identity(self) -> Hashable:
        """What two matrices have in common if they are the same."""
        return self.base.identity, self.row.tobytes(), self.column.tobytes()

    def block(self, rows: range, columns: range) -> Float[np.ndarray, "rows columns"]:
        """Part of the matrix as float64; ``rows`` and ``columns`` are contiguous."""
        return self.base.at(self.row[rows.start : rows.stop], self.column[columns.start : columns.stop])

    def at(
        self, row: Int[np.ndarray, " rows"], column: Int[np.ndarray, " columns"]
    ) -> Float[np.ndarray, "rows columns"]:
        """These rows and columns of the matrix, in this order."""
        return self.base.at(self.row[row], self.column[column])

    def rows_times(self, gain: Float[np.ndarray, " rows"]) -> Picked:
        """Each row times a number."""
        of_base = np.ones(self.base.rows)
        of_base[self.row] = gain
        return replace(self, base=self.base.rows_times(of_base))

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns} of {self.base}"
