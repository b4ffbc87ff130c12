"""Weights as references: where the numbers lie, read when they are needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import ml_dtypes
import numpy as np
from jaxtyping import Float

from pfmc.errors import printable


@dataclass(frozen=True)
class Weight:
    """A tensor in a file. Two references with the same name are the same tensor of the model.

    Attributes:
        name: the tensor's name in the model.
        shape: its shape.
        dtype: a numpy or ml_dtypes name ("float32", "bfloat16").
        path: the file that holds it, row-major and little-endian.
        offset: bytes from the start of that file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    path: Path = field(repr=False)
    offset: int = field(repr=False)

    def map(self) -> np.ndarray:
        """The tensor, mapped read-only: nothing is read before it is used."""
        dtype = np.dtype(getattr(ml_dtypes, self.dtype, self.dtype))
        return np.memmap(self.path, dtype=dtype, mode="r", offset=self.offset, shape=self.shape)

    def __str__(self) -> str:
        return f'"{printable(self.name)}" {self.dtype}[{"x".join(map(str, self.shape))}]'


@dataclass(frozen=True, eq=False)
class Matrix:
    """A weight seen as a matrix of ``rows`` (inputs) × ``columns`` (outputs); blocks of it are read on demand.

    Attributes:
        weight: the tensor; its first axis is the outputs if ``transposed``, else it is the inputs, and the other axes
            are taken together.
        transposed: whether the weight is stored outputs first.
        groups: the matrix is block-diagonal with this many blocks (a grouped convolution); only with ``transposed``.
        gain: factor per column, or None: a scale folded into the weights.
    """

    weight: Weight
    transposed: bool
    groups: int = 1
    gain: Float[np.ndarray, " columns"] | None = None

    @property
    def rows(self) -> int:
        """Number of inputs."""
        if self.transposed:
            return int(np.prod(self.weight.shape[1:], dtype=np.int64)) * self.groups
        return self.weight.shape[0]

    @property
    def columns(self) -> int:
        """Number of outputs."""
        return self.weight.shape[0] if self.transposed else int(np.prod(self.weight.shape[1:], dtype=np.int64))

    def block(self, rows: range, columns: range) -> Float[np.ndarray, "rows columns"]:
        """Part of the matrix as float64; ``rows`` and ``columns`` are contiguous."""
        stored = self.weight.map().reshape(self.weight.shape[0], -1)
        if not self.transposed:
            part = np.asarray(stored[rows.start : rows.stop, columns.start : columns.stop], dtype=np.float64)
        elif self.groups == 1:
            part = np.asarray(stored[columns.start : columns.stop, rows.start : rows.stop], dtype=np.float64).T
        else:
            part = self._grouped_block(stored, rows, columns)
        if self.gain is not None:
            part = part * self.gain[columns.start : columns.stop]
        return part

    def _grouped_block(self, stored: np.ndarray, rows: range, columns: range) -> Float[np.ndarray, "rows columns"]:
        rows_per_group, columns_per_group = self.rows // self.groups, self.columns // self.groups
        row = np.arange(rows.start, rows.stop)
        part = np.zeros((len(rows), len(columns)))
        for group in range(columns.start // columns_per_group, (columns.stop - 1) // columns_per_group + 1):
            inside = row // rows_per_group == group
            first = max(columns.start, group * columns_per_group)
            last = min(columns.stop, (group + 1) * columns_per_group)
            values = stored[first:last, row[inside] - group * rows_per_group]
            part[inside, first - columns.start : last - columns.start] = np.asarray(values, dtype=np.float64).T
        return part

    def __str__(self) -> str:
        parts = [f"{self.rows}x{self.columns} of {self.weight}"]
        if self.transposed:
            parts.append("transposed")
        if self.groups > 1:
            parts.append(f"groups={self.groups}")
        if self.gain is not None:
            parts.append("gain")
        return " ".join(parts)
