"""Tiles, their scales and ranges, and where their partial sums go."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int

from pfmc.errors import PassError
from pfmc.ir.beside import pieces
from pfmc.ir.graph import Graph, MatrixVector
from pfmc.technology.kinds import AnyTechnology


@dataclass(frozen=True)
class Range:
    """What a converter must span. ``low`` is zero (unsigned codes) or ``-high`` (signed): zero is always a code."""

    low: float
    high: float

    @classmethod
    def of(cls, low: float, high: float) -> Range:
        """The smallest such range that contains both numbers."""
        reach = max(abs(low), abs(high))
        return cls(0.0 if low >= 0 else -reach, reach)

    @property
    def signed(self) -> bool:
        """Whether negative values occur."""
        return self.low < 0

    def codes(self, bits: int) -> tuple[int, int]:
        """Lowest and highest code of a converter with this many bits: symmetric about zero where signed."""
        highest = 2 ** (bits - 1) - 1 if self.signed else 2**bits - 1
        return (-highest if self.signed else 0), highest


@dataclass(frozen=True)
class Provision:
    """What a contraction gets: bits of the converters at its rows and columns, and how many tiles share each block.

    Copies see the same inputs, and their results are averaged: what differs from device to device averages out. A
    second slice of significance holds, at a larger scale, what the grid of lengths leaves of the block in the copies,
    which are all drawn alike; its result is added.
    """

    input_bits: int
    output_bits: int
    copies: int = 1
    slices: int = 1

    @property
    def tiles(self) -> int:
        """For each block: the copies, and one tile for the second slice."""
        return self.copies + self.slices - 1

    @classmethod
    def standard(cls, technology: AnyTechnology) -> Provision:
        """The technology's converters, and no copies."""
        converters = technology.converters
        return cls(int(converters.input_bits.value), int(converters.output_bits.value))


Feed: TypeAlias = tuple[str, int, int]


def feed(node: str, lane: int, row: int) -> Feed:
    """What tiles that share the input converters at their rows have in common.

    Those of one contraction that begin at the same row do, and so do their copies and second slices: they see the same
    voltages. We assume that one converter serves them all, with a buffer at every row of every tile: tiles are drawn
    with pins of their own. Another set of tiles (see :mod:`pfmc.uses`) sees other vectors.
    """
    return node, lane, row


@dataclass(frozen=True)
class Tile:
    """One block of one matrix on one tile; what it computes is added to the node's output on the host.

    Attributes:
        name: "t00000", unique in the netlist.
        node: name of the contraction.
        rows, columns: which part of the matrix.
        input_range: of the input vector's entries that this tile sees, in the model's units, less the shifts.
        input_shift: of each row, binary exponents; see :class:`pfmc.ir.graph.MatrixVector`. None: there are none.
        output_range: of the tile's partial sums, in the model's units.
        mean, mean_square: of each row's input, in those units and their square.
        scale: siemens per unit of weight.
        scale_share: how much of the scale that ideal wires would allow.
        provision: of its contraction.
        copy: number of this copy; the second slice comes after the copies.
        lane: which of the contraction's sets of tiles this is in; input vector i of a call goes to set i mod ``lanes``.
        lanes: how many sets there are.
        robust: steps by which its volume was moved to where the writer's errors disturb it less.
        remainder_of: siemens per unit of weight of the tiles whose rounding this one makes up for; None: it holds the
            block itself.
        compensated: whether scale · weights is the effective matrix, wires included, or the difference of conductances.
    """

    name: str
    node: str
    rows: range
    columns: range
    input_range: Range | None = None
    output_range: Range | None = None
    input_shift: Int[np.ndarray, " rows"] | None = field(default=None, compare=False, repr=False)
    mean: Float[np.ndarray, " rows"] | None = field(default=None, compare=False, repr=False)
    mean_square: Float[np.ndarray, " rows"] | None = field(default=None, compare=False, repr=False)
    scale: float = math.nan
    scale_share: float = 1.0
    compensated: bool = False
    provision: Provision | None = None
    copy: int = 0
    lane: int = 0
    lanes: int = 1
    robust: int = 0
    remainder_of: float | None = None

    @property
    def feed(self) -> Feed:
        """Which input converters it has."""
        return feed(self.node, self.lane, self.rows.start)


@dataclass(frozen=True)
class Saving:
    """What is not drawn because contractions were made smaller than the model has them.

    Attributes:
        nodes: their names.
        how: in words.
        weights: fewer, counted as tiles hold them, zeros too.
        tiles: fewer, as they are cut, before copies.
        errors: of matrices that were approximated, relative, by the name of the contraction.
    """

    nodes: tuple[str, ...]
    how: tuple[str, ...]
    weights: int
    tiles: int
    errors: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, eq=False)
class Netlist:
    """The graph and its tiles, ordered by node, then set, row block, column block and copy.

    Attributes:
        savings: by what the tiles are fewer or smaller than the model's matrices would need.
    """

    graph: Graph
    tiles: tuple[Tile, ...]
    savings: tuple[Saving, ...] = ()

    def by_node(self) -> Iterator[tuple[MatrixVector, list[Tile]]]:
        """Each mapped contraction with its tiles."""
        nodes = {node.name: node for node in self.graph.matrices()}
        for name, tiles in groupby(self.tiles, key=lambda tile: tile.node):
            yield nodes[name], list(tiles)

    def users(self) -> dict[str, list[MatrixVector]]:
        """By the name of each contraction that has tiles: itself, and those that share them."""
        found: dict[str, list[MatrixVector]] = {node.name: [node] for node, _ in self.by_node()}
        for node in self.graph.matrices():
            if node.shares in found:
                found[node.shares].append(node)
        return found

    def mapped(self) -> set[str]:
        """Names of the contractions that are computed on tiles, their own or another's."""
        return {node.name for users in self.users().values() for node in users}

    def block(self, tile: Tile) -> Float[np.ndarray, "rows columns"]:
        """The part of the matrix that a tile must realise."""
        return self._matrix(tile.node).matrix.block(tile.rows, tile.columns)

    def blocks(self) -> Iterator[tuple[Tile, Float[np.ndarray, "rows columns"]]]:
        """Every tile with its block, one at a time."""
        for node, tiles in self.by_node():
            yield from blocks_of(node, tiles)

    def _matrix(self, name: str) -> MatrixVector:
        for node in self.graph.matrices():
            if node.name == name:
                return node
        raise PassError("a tile belongs to no contraction", f"node {name}")

    def verify(self) -> None:
        """Check that tiles have unique names, lie inside their matrices and do not overlap.

        Raises:
            PassError: naming the tile.
        """
        shapes = {node.name: (node.matrix.rows, node.matrix.columns) for node in self.graph.matrices()}
        seen: set[str] = set()
        starts: set[tuple[str, int, int, int, int]] = set()
        for tile in self.tiles:
            where = f"tile {tile.name}"
            if tile.name in seen:
                raise PassError("two tiles have the same name", where)
            if tile.node not in shapes:
                raise PassError(f"the tile belongs to no contraction ({tile.node})", where)
            rows, columns = shapes[tile.node]
            if not (
                0 <= tile.rows.start < tile.rows.stop <= rows and 0 <= tile.columns.start < tile.columns.stop <= columns
            ):
                raise PassError("the tile lies outside its matrix", where)
            start = tile.node, tile.rows.start, tile.columns.start, tile.lane, tile.copy
            if start in starts:
                raise PassError("two tiles begin at the same place of a matrix", where)
            starts.add(start)
            seen.add(tile.name)


def blocks_of(node: MatrixVector, tiles: Sequence[Tile]) -> Iterator[tuple[Tile, Float[np.ndarray, "rows columns"]]]:
    """Tiles of a contraction, each with its block, one at a time."""
    yield from zip(tiles, pieces(node.matrix, [(tile.rows, tile.columns) for tile in tiles]), strict=True)


def render(netlist: Netlist) -> str:
    """The textual form: a line per contraction and per tile."""
    lines = [f"netlist @{netlist.graph.name} {len(netlist.tiles)} tiles"]
    for node, tiles in netlist.by_node():
        lines.append(f"  @{node.name} {node.matrix}")
        lines += [f"    {_tile(tile)}" for tile in tiles]
    return "\n".join(lines) + "\n"


def _tile(tile: Tile) -> str:
    text = f"{tile.name} [{tile.rows.start}:{tile.rows.stop}, {tile.columns.start}:{tile.columns.stop}]"
    if tile.input_range is not None:
        text += f" input {tile.input_range.low:.4g}..{tile.input_range.high:.4g}"
    if tile.input_shift is not None:
        text += f" shifted {tile.input_shift.min()}..{tile.input_shift.max()}"
    if tile.output_range is not None:
        text += f" output {tile.output_range.low:.4g}..{tile.output_range.high:.4g}"
    if not math.isnan(tile.scale):
        text += f" scale {tile.scale:.4g} S"
    if tile.compensated:
        text += " compensated"
    if tile.robust:
        text += f" robust {tile.robust}"
    if tile.lanes > 1:
        text += f" set {tile.lane + 1}/{tile.lanes}"
    if tile.provision is not None:
        text += f" bits {tile.provision.input_bits}/{tile.provision.output_bits}"
        if tile.remainder_of is not None:
            text += " second slice"
        elif tile.provision.copies > 1:
            text += f" copy {tile.copy + 1}/{tile.provision.copies}"
    return text
