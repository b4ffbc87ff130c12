"""calibrate: the ranges of the converters and the power of the inputs, from data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from pfmc.errors import PassError
from pfmc.ir.graph import MatrixVector
from pfmc.netlist.netlist import Netlist, Provision, Range, Tile, blocks_of
from pfmc.passmanager import Context, Pass
from pfmc.physics.ranges import CANDIDATES, beyond, candidates, promising, squared_errors, widest_of_the_best
from pfmc_passes.inputs import input_vectors


class Rule(StrEnum):
    """How far a converter reaches: to the largest value, to a percentile, or as far as its mean square error asks."""

    LARGEST = "largest"
    PERCENTILE = "percentile"
    MSE = "mse"


@dataclass(frozen=True)
class Calibrate(Pass[Netlist, Netlist]):
    """Set the range of each tile's converters from what they see of the calibration data.

    The mean of each row's input, and its mean square, which says what power the tile takes, are noted beside them.

    Tiles that stand side by side see the same inputs and get the same input range: they share drivers. The data are run
    twice, for the largest values and for what each range would cost, so that no value need be kept.

    Attributes:
        range: the rule; "mse" is for the technology's bits, "percentile" and "mse" cut off rare large values.
        percentile: share of the values, in per cent, that lie within the range, by that rule.
        headroom: factor on the largest value, at least 1: data that were not seen may go further.
        vectors: at most this many input vectors of a node are looked at per batch of data. A network that takes the
            maximum over 2044 windows of each file (magika 1.0.3) lives by rare ones: of 131 000, 4096 were too few.
    """

    range: Rule = Rule.MSE
    percentile: float = 99.99
    headroom: float = 1.1
    vectors: int = 16384

    name: ClassVar[str] = "calibrate"
    takes: ClassVar[type[Netlist]] = Netlist
    gives: ClassVar[type[Netlist]] = Netlist

    def __post_init__(self) -> None:
        if self.headroom < 1 or self.vectors < 1:
            raise ValueError("headroom and vectors must be at least 1")
        if not 0 < self.percentile <= 100:
            raise ValueError("percentile must be above 0 and at most 100")

    def run(self, source: Netlist, context: Context) -> Netlist:
        """Run the data through the model, and every tile's block over the vectors that reach it."""
        bits = Provision.standard(context.technology)
        rows = {(tile.node, tile.rows.start): _Converters(bits.input_bits) for tile in source.tiles}
        columns = {tile.name: _Converters(bits.output_bits) for tile in source.tiles}
        sums = {node.name: np.zeros((2, node.matrix.rows)) for node, _ in source.by_node()}  # of inputs, and squares
        seen = dict.fromkeys(sums, 0)
        for node, tiles, vectors in input_vectors(source, context, self.vectors):
            sums[node.name][0] += vectors.sum(axis=0, dtype=np.float64)
            sums[node.name][1] += np.square(vectors, dtype=np.float64).sum(axis=0)
            seen[node.name] += len(vectors)
            for start, inputs in _by_rows(tiles, vectors):
                rows[node.name, start].reach_for(inputs)
            for tile, outputs in _by_tile(node, tiles, vectors):
                columns[tile.name].reach_for(outputs)
        again = () if self.range == Rule.LARGEST else input_vectors(source, context, self.vectors)
        for node, tiles, vectors in again:
            for start, inputs in _by_rows(tiles, vectors):
                rows[node.name, start].weigh(inputs, self.range, self.headroom)
            for tile, outputs in _by_tile(node, tiles, vectors):
                columns[tile.name].weigh(outputs, self.range, self.headroom)
        shifts = {node.name: node.input_shift for node, _ in source.by_node()}
        means = {name: total / max(seen[name], 1) for name, total in sums.items()}
        tiles_ranged = (
            replace(
                tile,
                input_range=self._chosen(rows[tile.node, tile.rows.start]),
                output_range=self._chosen(columns[tile.name]),
                mean=means[tile.node][0, tile.rows.start : tile.rows.stop],
                mean_square=means[tile.node][1, tile.rows.start : tile.rows.stop],
                input_shift=_part(shifts[tile.node], tile.rows),
            )
            for tile in source.tiles
        )
        return replace(source, tiles=tuple(tiles_ranged))

    def ensures(self, source: Netlist, result: Netlist) -> None:
        """Every tile has ranges that are numbers and not empty."""
        for tile in result.tiles:
            for kind, found in (("input", tile.input_range), ("output", tile.output_range)):
                if found is None or not (np.isfinite(found.high) and found.high > 0):
                    raise PassError(
                        f"the {kind} range is {found}", f"tile {tile.name} of node {tile.node}", "check the data"
                    )

    def _chosen(self, converters: _Converters) -> Range:
        """The range by the rule. Converters that saw only zeros need one too; one unit is as good as another."""
        if converters.reach == 0:
            return Range.of(-self.headroom, self.headroom)
        if self.range == Rule.LARGEST or not np.isfinite(converters.reach):
            return converters.up_to(self.headroom * converters.reach)
        if self.range == Rule.MSE:
            return converters.up_to(converters.limits[widest_of_the_best(converters.squares[: len(converters.limits)])])
        within = 1.0 - converters.beyond / converters.seen >= self.percentile / 100
        return converters.up_to(converters.limits[within][-1])


@dataclass
class _Converters:
    """What the converters at a tile's rows or columns see, and what each range that they could have would cost."""

    bits: int
    low: float = 0.0
    high: float = 0.0
    seen: int = 0
    limits: Float[np.ndarray, " candidates"] = field(default_factory=lambda: np.zeros(0))
    squares: Float[np.ndarray, " candidates"] = field(default_factory=lambda: np.zeros(CANDIDATES))
    beyond: Int[np.ndarray, " candidates"] = field(default_factory=lambda: np.zeros(CANDIDATES, dtype=int))

    @property
    def reach(self) -> float:
        return max(-self.low, self.high)

    def reach_for(self, values: Float[np.ndarray, ...]) -> None:
        if values.size:
            self.seen += values.size
            self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    def weigh(self, values: Float[np.ndarray, ...], rule: Rule, headroom: float) -> None:
        """Only once it is known how far they reach, and how many there are."""
        if self.reach == 0 or not np.isfinite(self.reach):
            return
        flat, codes = values.reshape(-1), self.up_to(1.0).codes(self.bits)
        self.limits = candidates(headroom * self.reach)
        if rule == Rule.PERCENTILE:
            self.beyond += beyond(flat, self.limits)
        else:
            self.limits = self.limits[: promising(self.limits, self.reach, codes[1], self.seen)]
            self.squares[: len(self.limits)] += squared_errors(flat, self.limits, codes)

    def up_to(self, limit: float) -> Range:
        high = float(limit)
        return Range(-high if self.low < 0 else 0.0, high)


def _by_rows(
    tiles: Sequence[Tile], vectors: Float[np.ndarray, "vectors rows"]
) -> Iterator[tuple[int, Float[np.ndarray, "vectors rows_of_tile"]]]:
    """The inputs of tiles that stand side by side, by their first row."""
    for start, stop in {tile.rows.start: tile.rows.stop for tile in tiles}.items():
        yield start, vectors[:, start:stop]


def _by_tile(
    node: MatrixVector, tiles: Sequence[Tile], vectors: Float[np.ndarray, "vectors rows"]
) -> Iterator[tuple[Tile, Float[np.ndarray, "vectors columns_of_tile"]]]:
    """Every tile's partial sums."""
    for tile, block in blocks_of(node, tiles):
        yield tile, vectors[:, tile.rows.start : tile.rows.stop] @ block.astype(vectors.dtype)


def _part(shift: Int[np.ndarray, " rows"] | None, rows: range) -> Int[np.ndarray, " rows_of_tile"] | None:
    return None if shift is None else shift[rows.start : rows.stop]
