"""condense: rows and columns that are all zero are not drawn, and columns that are multiples of each other once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final

import numpy as np
from jaxtyping import Bool, Float, Int

from pfmc.errors import PassError
from pfmc.ir.arrangement import Arrangement
from pfmc.ir.beside import Beside, parts_of
from pfmc.ir.derived import Dense, Picked
from pfmc.ir.graph import Graph, MatrixVector, Node
from pfmc.ir.weights import PART, Matrix
from pfmc.passmanager import Context, Pass
from pfmc_passes.blocks import blocks, cost, tile_size

ROUNDING: Final = 2.0**-22  # of a column's largest weight: what float32 leaves of the same column at another scale


@dataclass(frozen=True)
class Condense(Pass[Graph, Graph]):
    """Draw what of a matrix is different; the host leaves inputs out, and takes outputs from the same column.

    A column that is g times another, but for float32's rounding, is that one's output times g: the larger one is drawn,
    so that its error does not grow. One that is all zero gives zero. A row that is all zero needs no input. Matrices
    that stand side by side keep the rows that one of them needs. Only where that saves devices and costs no tile.
    """

    name: ClassVar[str] = "condense"
    takes: ClassVar[type[Graph]] = Graph
    gives: ClassVar[type[Graph]] = Graph
    after: ClassVar[str] = "merge"

    def run(self, source: Graph, context: Context) -> Graph:
        """Look at each matrix once, and again at columns that could be multiples."""
        sizes = tile_size(context)
        return replace(source, nodes=tuple(_condensed(node, *sizes) for node in source.nodes))

    def ensures(self, source: Graph, result: Graph) -> None:
        """Every contraction makes as many outputs as before."""
        for before, after in zip(source.matrices(), result.matrices(), strict=True):
            if (before.entries, before.spans) != (after.entries, after.spans):
                raise PassError("its inputs or outputs are others", f"node {before.name}", f"pass {self.name}")


def _condensed(node: Node, height: int, width: int) -> Node:
    if not isinstance(node, MatrixVector) or node.arranged is not None:
        return node
    parts = [part for part in parts_of(node.matrix) if not isinstance(part, Picked)]
    found = [_Columns.of(part) for part in parts]
    rows = np.flatnonzero(np.any([columns.rows for columns in found], axis=0))
    kept = [columns.kept for columns in found]
    if not len(rows) or (len(rows), sum(map(len, kept))) == (node.matrix.rows, node.matrix.columns):
        return node  # all zero, or nothing to leave out
    picked = tuple(Picked(part, rows, columns) for part, columns in zip(parts, kept, strict=True))
    matrix = Beside(picked) if isinstance(node.matrix, Beside) else picked[0]
    before, after = (cost(blocks(each, height, width)) for each in (node.matrix, matrix))
    if after[0] > before[0] or after[1] >= before[1]:
        return node  # its blocks on a diagonal do not end where tiles do any more
    starts = np.cumsum([0, *map(len, kept[:-1])])
    places = np.concatenate([start + each.places for start, each in zip(starts, found, strict=True)])
    gains = np.concatenate([each.gains for each in found])
    arranged = Arrangement(node.matrix.rows, rows, np.where(gains == 0, 0, places), gains)
    return replace(
        node,
        matrix=matrix,
        arranged=arranged,
        made_of=node.made_of if node.parts or node.made_of else (node,),
        notes=(*node.notes, *_notes(arranged, [each.source for each in found])),
    )


def _notes(arranged: Arrangement, sources: Sequence[Int[np.ndarray, " _"]]) -> Iterator[str]:
    """What is left out, in words."""
    empty = arranged.inputs - len(arranged.rows)
    if empty:
        yield f"{empty} row{'s' * (empty > 1)} of zeros"
    zero = int((arranged.gains == 0).sum())
    if zero:
        yield f"{zero} column{'s' * (zero > 1)} of zeros"
    multiples = sum(int((source != np.arange(len(source))).sum()) for source in sources) - zero
    if multiples:
        yield f"{multiples} column{'s' * (multiples > 1)} as multiples of others"


@dataclass(frozen=True, eq=False)
class _Columns:
    """What is needed of a matrix.

    Attributes:
        rows: whether each is not all zero.
        source: of each column, which one it is a multiple of, itself perhaps; -1: it is all zero.
        gains: by what factor; 0: it is all zero.
    """

    rows: Bool[np.ndarray, " rows"]
    source: Int[np.ndarray, " columns"]
    gains: Float[np.ndarray, " columns"]

    @classmethod
    def of(cls, matrix: Matrix | Dense) -> _Columns:
        used, sums = _looked_at(matrix)
        largest, *prints = sums
        source = np.where(largest > 0, np.arange(matrix.columns), -1)
        gains = (largest > 0).astype(float)
        for alike in _alike(largest, prints):
            values = matrix.at(np.flatnonzero(used), alike)
            for i, (of, gain) in enumerate(_multiples(values)):
                source[alike[i]], gains[alike[i]] = alike[of], gain
        return cls(used, source, gains)

    @property
    def kept(self) -> Int[np.ndarray, " kept"]:
        """The columns to draw."""
        return np.flatnonzero(self.source == np.arange(len(self.source)))

    @property
    def places(self) -> Int[np.ndarray, " columns"]:
        """Which of the kept ones each column is read from."""
        return np.searchsorted(self.kept, self.source)


def _looked_at(matrix: Matrix | Dense) -> tuple[Bool[np.ndarray, " rows"], Float[np.ndarray, "4 columns"]]:
    """Which rows hold anything; of each column the largest size, the sum of sizes, and two sums with other factors."""
    used = np.zeros(matrix.rows, dtype=bool)
    sums = np.zeros((4, matrix.columns))
    angle = np.arange(matrix.rows)[:, None] * np.array([1.0, np.sqrt(2.0)]) + 1.0  # no two rows have the same factors
    for row in range(0, matrix.rows, PART):
        rows = range(row, min(row + PART, matrix.rows))
        for column in range(0, matrix.columns, PART):
            columns = slice(column, min(column + PART, matrix.columns))
            part = matrix.block(rows, range(columns.start, columns.stop))
            size = np.abs(part)
            used[row : rows.stop] |= size.any(axis=1)
            sums[0, columns] = np.maximum(sums[0, columns], size.max(axis=0))
            sums[1, columns] += size.sum(axis=0)
            sums[2:, columns] += np.cos(angle[row : rows.stop]).T @ part
    return used, sums


def _alike(
    largest: Float[np.ndarray, " columns"], prints: Sequence[Float[np.ndarray, " columns"]]
) -> Iterator[Int[np.ndarray, " some"]]:
    """Groups of columns that could be multiples of each other: what was summed of them is, but for rounding."""
    some = np.flatnonzero(largest > 0)
    scaled = np.abs(prints) / np.where(largest > 0, largest, 1.0)
    error = ROUNDING * scaled[0] * 2  # of a sum, no more than that of all its terms
    groups = [some]
    for values in scaled:
        groups = [part for group in groups for part in _split(group, values, error)]
    yield from groups


def _split(
    group: Int[np.ndarray, " n"], values: Float[np.ndarray, " columns"], error: Float[np.ndarray, " columns"]
) -> Iterator[Int[np.ndarray, " some"]]:
    """A group cut where values lie farther apart than errors reach; those of one column are none."""
    order = group[np.argsort(values[group], kind="stable")]
    reach = error[order]
    cuts = np.flatnonzero(np.diff(values[order]) > reach[1:] + reach[:-1]) + 1
    yield from (np.sort(part) for part in np.split(order, cuts) if len(part) > 1)


def _multiples(values: Float[np.ndarray, "rows some"]) -> list[tuple[int, float]]:
    """Of each column, which one it is a multiple of, and by what factor: of the largest of its kind, the first."""
    largest = np.abs(values).max(axis=0)
    found: list[tuple[int, float]] = [(i, 1.0) for i in range(len(largest))]
    first: list[int] = []
    for i in np.argsort(-largest, kind="stable").tolist():
        for other in first:
            gain = float(values[:, other] @ values[:, i] / (values[:, other] @ values[:, other]))
            if np.abs(values[:, i] - gain * values[:, other]).max() <= ROUNDING * largest[i]:
                found[i] = other, gain
                break
        else:
            first.append(i)
    return found
