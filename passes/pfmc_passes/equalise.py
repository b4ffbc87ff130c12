"""equalise: inputs that are always small get a larger share of their converters' codes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final

import numpy as np
from jaxtyping import Float, Int

from pfmc.ir.graph import MatrixVector
from pfmc.netlist.netlist import Netlist, Provision, Range, Tile, blocks_of
from pfmc.passmanager import Context, Pass
from pfmc.physics.ranges import candidates, promising, squared_errors, widest_of_the_best
from pfmc.primitives.crossbar import CrossbarTile
from pfmc.primitives.variation import conductance_mismatch
from pfmc.technology.kinds import crossbars
from pfmc_passes.inputs import input_vectors, thinned

STRENGTHS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
FARTHEST: Final = 16  # binary places: an input that needs more of them is not there


@dataclass(frozen=True)
class Equalise(Pass[Netlist, Netlist]):
    """Divide each row's input by a power of two in front of its converter, and multiply the row's weights by it.

    The product is the same, a shift costs the host nothing, and rows that reach far no longer make the steps of the
    others coarse: transformers have inputs a hundred times as large as the rest. But the weights then differ more, and
    the mismatch of devices, which is relative to a tile's largest, counts more. So the rows are evened out by
    (reach / median reach)^strength (G. Xiao et al., SmoothQuant, arXiv:2211.10438; there the weights' rounding is on
    the other side), and each contraction gets the strength with the least predicted error: that of the rounded inputs,
    on vectors of the data, and that of mismatch.

    Attributes:
        strongest: largest strength that is tried, from 0 (nothing is evened out) to 1 (every row reaches as far).
        vectors: how many of each contraction are looked at.
    """

    strongest: float = 1.0
    vectors: int = 64

    name: ClassVar[str] = "equalise"
    takes: ClassVar[type[Netlist]] = Netlist
    gives: ClassVar[type[Netlist]] = Netlist

    def __post_init__(self) -> None:
        if not 0 <= self.strongest <= 1 or self.vectors < 1:
            raise ValueError("strongest must be from 0 to 1, vectors at least 1")

    def run(self, source: Netlist, context: Context) -> Netlist:
        """Run the data once, and look at each block once."""
        if self.strongest == 0:
            return source
        technology = crossbars(context.technology, "pass equalise")
        judge = _Judge(
            Provision.standard(technology).input_bits, CrossbarTile.of(technology), conductance_mismatch(technology)
        )
        strengths = [strength for strength in STRENGTHS if strength <= self.strongest]
        seen = self._seen(source, context)
        shifts = {
            node.name: judge.best(node, tiles, seen[node.name], strengths)
            for node, tiles in source.by_node()
            if node.name in seen
        }
        nodes = tuple(
            _shifted(node, shifts.get(node.shares or node.name)) if isinstance(node, MatrixVector) else node
            for node in source.graph.nodes
        )
        return replace(source, graph=replace(source.graph, nodes=nodes))

    def _seen(self, source: Netlist, context: Context) -> dict[str, _Seen]:
        """Of the contractions that are reached."""
        seen: dict[str, _Seen] = {}
        for node, _, vectors in input_vectors(source, context, 16 * self.vectors):
            if len(vectors):
                seen.setdefault(node.name, _Seen(np.zeros(node.matrix.rows))).add(vectors, self.vectors)
        return seen


@dataclass
class _Seen:
    """How far each row reaches, and some of the vectors, as many of each batch."""

    reach: Float[np.ndarray, " rows"]
    vectors: Float[np.ndarray, "vectors rows"] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    batches: int = 0

    def add(self, vectors: Float[np.ndarray, "vectors rows"], most: int) -> None:
        self.reach = np.maximum(self.reach, np.abs(vectors).max(axis=0))
        self.batches += 1
        some = thinned(vectors, -(-most // self.batches))
        self.vectors = np.concatenate([thinned(self.vectors, most - len(some)), some]) if self.vectors.size else some


@dataclass(frozen=True)
class _Judge:
    """What converters and devices make of a contraction.

    Attributes:
        mismatch: relative standard deviation of a device's conductance.
    """

    bits: int
    primitive: CrossbarTile
    mismatch: float

    def best(
        self, node: MatrixVector, tiles: list[Tile], seen: _Seen, strengths: list[float]
    ) -> Int[np.ndarray, " rows"]:
        """Shifts of the rows with the least predicted error; the weaker of two that are as good."""
        tried = np.array([_shifts(node, seen.reach, strength) for strength in strengths])
        errors = np.zeros(len(tried))
        power = np.square(seen.vectors, dtype=np.float64).sum(axis=0)
        products: dict[range, Float[np.ndarray, "rows_of_tile rows_of_tile"]] = {}
        for tile, block in blocks_of(node, tiles):
            factors = np.ldexp(1.0, tried[:, tile.rows.start : tile.rows.stop])
            errors += (
                power[tile.rows.start : tile.rows.stop] / np.square(factors) * self._mismatch(block, factors)
            ).sum(axis=1)
            products[tile.rows] = products.get(tile.rows, 0.0) + block @ block.T
        for rows, product in products.items():
            for i, shift in enumerate(tried[:, rows.start : rows.stop]):
                added = np.ldexp(self._rounding(np.ldexp(seen.vectors[:, rows.start : rows.stop], -shift)), shift)
                errors[i] += (added @ product * added).sum()
        return np.asarray(tried[int(np.argmin(errors))])

    def _rounding(
        self, vectors: Float[np.ndarray, "vectors rows_of_tile"]
    ) -> Float[np.ndarray, "vectors rows_of_tile"]:
        """What converters with the best of ranges add."""
        reach = float(np.abs(vectors).max())
        if not (reach > 0 and math.isfinite(reach)):
            return np.zeros_like(vectors)
        low, high = Range.of(float(vectors.min()), reach).codes(self.bits)
        limits = candidates(reach)
        limits = limits[: promising(limits, reach, high, vectors.size)]
        step = limits[widest_of_the_best(squared_errors(vectors.reshape(-1), limits, (low, high)))] / high
        return np.asarray(np.clip(np.rint(vectors / step), low, high) * step - vectors, dtype=np.float32)

    def _mismatch(
        self, block: Float[np.ndarray, "rows columns"], factors: Float[np.ndarray, "tried rows"]
    ) -> Float[np.ndarray, "tried rows"]:
        """Variance that each row's devices add to the outputs, all together, per square of its input.

        A weight w times the row's factor is a pair of conductances, one of them the least, g, the other
        g + scale · |w| · factor. ``factors``: of each row, tried one after another.
        """
        sizes = np.abs(block)
        span = self.primitive.scale(1.0)
        largest = (factors * sizes.max(axis=1)).max(axis=1, keepdims=True)
        least = self.primitive.conductance_min * largest / span
        ends = 2 * block.shape[1] * np.square(least) + 2 * least * factors * sizes.sum(axis=1)
        return np.asarray(self.mismatch**2 * (ends + np.square(factors) * np.square(block).sum(axis=1)))


def _shifts(node: MatrixVector, reach: Float[np.ndarray, " rows"], strength: float) -> Int[np.ndarray, " rows"]:
    """Binary exponents of (reach / median)^strength; the taps of a window's channel have one. Rows without input: 0."""
    taps = 1 if node.windows is None else math.prod(node.windows.kernel)
    channel = (np.arange(node.entries) if node.arranged is None else node.arranged.rows) // taps
    channels = np.zeros(node.entries // taps)
    np.maximum.at(channels, channel, reach)
    used = (channels > 0) & np.isfinite(channels)
    exponents = np.zeros(len(channels), dtype=np.int32)
    if used.any():
        relative = channels[used] / np.median(channels[used])
        exponents[used] = np.clip(np.rint(strength * np.log2(relative)), -FARTHEST, FARTHEST)
    return exponents[channel]


def _shifted(node: MatrixVector, shift: Int[np.ndarray, " rows"] | None) -> MatrixVector:
    if shift is None or not shift.any():
        return node
    return replace(node, matrix=node.matrix.rows_times(np.ldexp(1.0, shift)), input_shift=shift)
