"""Weights as references: where the numbers lie, read when they are needed."""

from __future__ import annotations

import math
import mmap
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import ml_dtypes
import numpy as np
from jaxtyping import Float, Int

from pfmc.errors import printable

PART: Final = 1024  # rows and columns of a matrix looked at at a time
_PACKED_BITS: Final = {
    "int2": 2,
    "uint2": 2,
    "int4": 4,
    "uint4": 4,
    "float4_e2m1fn": 4,
}  # lowest bits first, as in ONNX


@dataclass(frozen=True)
class Quantisation:
    """What the stored numbers q of a weight mean: (q - zero point) · scale, as ONNX's DequantizeLinear has it.

    Attributes:
        scale: one number, one per position of the axis, or one per block of it.
        zero_point: likewise, or the one number that it is everywhere.
        extent: of the axis, as stored.
        inner: numbers stored from one position of the axis to the next.
        block: positions of the axis that share a scale, where there is one scale per block; else 0.
    """

    scale: Weight
    zero_point: Weight | float
    extent: int
    inner: int
    block: int

    def applied(self, stored: Float[np.ndarray, " n"], places: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The numbers that those stored at ``places`` stand for."""
        where = self._position(places)
        zero = self.zero_point.take(where) if isinstance(self.zero_point, Weight) else self.zero_point
        return np.asarray((stored - zero) * self.scale.take(where))

    def _position(self, places: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Where in the flattened scales that of each stored number is."""
        if math.prod(self.scale.shape) == 1:
            return np.zeros_like(places)
        lines = places // self.inner
        outer = lines // self.extent
        along = lines - outer * self.extent
        if not self.block:
            return np.asarray(along)
        blocks = -(-self.extent // self.block)
        return np.asarray((outer * blocks + along // self.block) * self.inner + places - lines * self.inner)


@dataclass(frozen=True)
class Weight:
    """A tensor in a file. Two references with the same name are the same tensor of the model.

    Attributes:
        name: the tensor's name in the model.
        shape: its shape.
        dtype: a numpy or ml_dtypes name ("float32", "bfloat16"); what the numbers are made into, if they are stored in
            another type.
        path: the file that holds it, row-major and little-endian.
        offset: bytes from the start of that file.
        axes: extent, and step in the file in numbers, of every axis of the tensor before it was last reshaped, slowest
            first; empty where the file has it row-major. A transposed weight is the stored one with its axes in
            another order.
        stored: the type in the file ("int8", "uint4", "float8_e4m3fn") if it is another one.
        quantisation: what the stored numbers mean, or None: themselves.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    path: Path = field(repr=False)
    offset: int = field(repr=False)
    axes: tuple[tuple[int, int], ...] = field(default=(), repr=False)
    stored: str = ""
    quantisation: Quantisation | None = None

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    def map(self) -> np.ndarray:
        """A tensor that is stored as it is, mapped read-only: nothing is read before it is used."""
        return self._mapped(np.dtype(getattr(ml_dtypes, self.dtype, self.dtype)), self.size).reshape(self.shape)

    def take(self, index: Int[np.ndarray, ...]) -> Float[np.ndarray, ...]:
        """The numbers at these places of the flattened tensor, as float64; only those are read."""
        places = self._places(index.reshape(-1))
        reach = 1 + sum((extent - 1) * step for extent, step in self.axes) if self.axes else self.size
        stored = self._read(places, reach)
        values = stored if self.quantisation is None else self.quantisation.applied(stored, places)
        return values.reshape(index.shape)

    def transposed(self, order: Sequence[int]) -> Weight | None:
        """The same numbers with the axes in another order; None if a reshape has joined what cannot be told apart."""
        axes = _split(self.axes or ((self.size, 1),), self.shape)
        if axes is None:
            return None
        moved = tuple(axis for i in order for axis in axes[i])
        return replace(self, shape=tuple(self.shape[i] for i in order), axes=moved)

    def reshaped(self, shape: Sequence[int]) -> Weight:
        """The same numbers in another shape of the same size."""
        return replace(self, shape=tuple(shape))

    def _places(self, index: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Where in the file, in numbers, each place of the flattened tensor is."""
        if not self.axes:
            return index
        places = np.zeros_like(index)
        for extent, step in reversed(self.axes):
            whole = index // extent  # NumPy divides by one number fast, unlike its remainders
            places += (index - whole * extent) * step
            index = whole
        return places

    def _read(self, places: Int[np.ndarray, " n"], reach: int) -> Float[np.ndarray, " n"]:
        dtype = np.dtype(getattr(ml_dtypes, self.stored or self.dtype, self.stored or self.dtype))
        bits = _PACKED_BITS.get(dtype.name)
        if bits is None:
            return np.asarray(self._mapped(dtype, reach)[places], dtype=np.float64)
        per_byte = 8 // bits
        stored = self._mapped(np.dtype(np.uint8), -(-reach // per_byte))[places // per_byte]
        codes = (stored >> (places % per_byte * bits).astype(np.uint8)) & np.uint8(2**bits - 1)
        return np.asarray(codes.view(dtype), dtype=np.float64)

    def _mapped(self, dtype: np.dtype, count: int) -> np.ndarray:
        """Numbers as they are stored; np.memmap does the same in ten times the time."""
        with self.path.open("rb") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype, count, self.offset)

    def __str__(self) -> str:
        stored = f"{self.stored} as " if self.stored else ""
        return f'"{printable(self.name)}" {stored}{self.dtype}[{"x".join(map(str, self.shape))}]'


def _split(axes: Sequence[tuple[int, int]], shape: Sequence[int]) -> list[list[tuple[int, int]]] | None:
    """Which axes in the file each axis of ``shape`` consists of; one of the file may be split, none joined."""
    waiting = list(axes)
    found: list[list[tuple[int, int]]] = []
    for wanted in shape:
        parts: list[tuple[int, int]] = []
        missing = wanted
        while missing > 1:
            extent, step = waiting.pop(0)
            if extent <= missing and missing % extent == 0:
                parts.append((extent, step))
                missing //= extent
            elif extent % missing == 0:
                parts.append((missing, step * (extent // missing)))
                waiting.insert(0, (extent // missing, step))
                missing = 1
            else:
                return None
        found.append(parts)
    return found


@dataclass(frozen=True, eq=False)
class Matrix:
    """A weight seen as a matrix of ``rows`` (inputs) × ``columns`` (outputs); blocks of it are read on demand.

    Attributes:
        weight: the tensor; its first axis is the outputs if ``transposed``, else it is the inputs, and the other axes
            are taken together.
        transposed: whether the weight is stored outputs first.
        groups: the matrix is block-diagonal with this many blocks (a grouped convolution); only with ``transposed``.
        gain: factor per column, or None: a scale folded into the weights.
        row_gain: factor per row, likewise.
    """

    weight: Weight
    transposed: bool
    groups: int = 1
    gain: Float[np.ndarray, " columns"] | None = None
    row_gain: Float[np.ndarray, " rows"] | None = None

    @property
    def identity(self) -> Hashable:
        """What two matrices have in common if they are the same."""
        gains = (None if gain is None else gain.tobytes() for gain in (self.gain, self.row_gain))
        return self.weight, self.transposed, self.groups, *gains

    @property
    def rows(self) -> int:
        """Number of inputs."""
        if self.transposed:
            return math.prod(self.weight.shape[1:]) * self.groups
        return self.weight.shape[0]

    @property
    def columns(self) -> int:
        """Number of outputs."""
        return self.weight.shape[0] if self.transposed else math.prod(self.weight.shape[1:])

    def block(self, rows: range, columns: range) -> Float[np.ndarray, "rows columns"]:
        """Part of the matrix as float64; ``rows`` and ``columns`` are contiguous."""
        return self.at(np.arange(rows.start, rows.stop), np.arange(columns.start, columns.stop))

    def at(
        self, row: Int[np.ndarray, " rows"], column: Int[np.ndarray, " columns"]
    ) -> Float[np.ndarray, "rows columns"]:
        """These rows and columns of the matrix, in this order, as float64."""
        if self.groups > 1:
            part = self._grouped_block(row, column)
        elif self.transposed:
            part = self.weight.take(column[:, None] * self.rows + row).T
        else:
            part = self.weight.take(row[:, None] * self.columns + column)
        if self.gain is not None:
            part = part * self.gain[column]
        if self.row_gain is not None:
            part = part * self.row_gain[row, None]
        return part

    def through(self, vector: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " columns"]:
        """The product of a vector and the matrix, part by part."""
        product = np.zeros(self.columns)
        for row in range(0, self.rows, PART):
            for column in range(0, self.columns, PART):
                rows, columns = range(row, min(row + PART, self.rows)), range(column, min(column + PART, self.columns))
                product[column : columns.stop] += vector[row : rows.stop] @ self.block(rows, columns)
        return product

    def rows_times(self, gain: Float[np.ndarray, " rows"]) -> Matrix:
        """Each row times a number."""
        return replace(self, row_gain=gain if self.row_gain is None else self.row_gain * gain)

    def _grouped_block(
        self, row: Int[np.ndarray, " rows"], column: Int[np.ndarray, " columns"]
    ) -> Float[np.ndarray, "rows columns"]:
        rows_per_group, columns_per_group = self.rows // self.groups, self.columns // self.groups
        offset = row[:, None] - column // columns_per_group * rows_per_group  # in the group that the column belongs to
        inside = (offset >= 0) & (offset < rows_per_group)
        part = np.zeros((len(row), len(column)))
        part[inside] = self.weight.take((column * rows_per_group + offset)[inside])
        return part

    def __str__(self) -> str:
        parts = [f"{self.rows}x{self.columns} of {self.weight}"]
        if self.transposed:
            parts.append("transposed")
        if self.groups > 1:
            parts.append(f"groups={self.groups}")
        if self.gain is not None:
            parts.append("gain")
        if self.row_gain is not None:
            parts.append("row gain")
        return " ".join(parts)
