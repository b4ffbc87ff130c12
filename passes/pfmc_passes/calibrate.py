"""calibrate: the ranges of the converters and the power of the inputs, from data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from pfmc.errors import PassError
from pfmc.ir.graph import MatrixVector
from pfmc.netlist.netlist import Netlist, Range, Tile
from pfmc.passmanager import Context, Pass


@dataclass(frozen=True)
class Calibrate(Pass[Netlist, Netlist]):
    """Set each tile's input and output range to what the calibration data reach, with some headroom.

    The mean square of each row's input, which says what power the tile takes, is noted beside them.

    Tiles that stand side by side see the same inputs and get the same input range: they share drivers.

    Attributes:
        headroom: factor on every range, at least 1: data that were not seen may go further.
        vectors: at most this many input vectors of a node are looked at per batch of data, evenly spaced.
    """

    headroom: float = 1.1
    vectors: int = 4096

    name: ClassVar[str] = "calibrate"
    takes: ClassVar[type[Netlist]] = Netlist
    gives: ClassVar[type[Netlist]] = Netlist

    def __post_init__(self) -> None:
        if self.headroom < 1 or self.vectors < 1:
            raise ValueError("headroom and vectors must be at least 1")

    def run(self, source: Netlist, context: Context) -> Netlist:
        """Run the data through the model once, and every tile's block over the vectors that reach it."""
        users = source.users()
        reached = {tile.name: _Extremes() for tile in source.tiles}
        squares = {node.name: np.zeros(node.matrix.rows) for node, _ in source.by_node()}
        seen = dict.fromkeys(squares, 0)
        values = sorted({user.input for some in users.values() for user in some})
        for batch in context.activations(values):
            for node, tiles in source.by_node():
                read = [user for user in users[node.name] if user.input in batch]
                if not read:  # it stands in a body, which was not run
                    continue
                vectors = np.concatenate([_thinned(_vectors(user, batch[user.input]), self.vectors) for user in read])
                squares[node.name] += np.square(vectors).sum(axis=0)
                seen[node.name] += len(vectors)
                for tile in tiles:
                    inputs = vectors[:, tile.rows.start : tile.rows.stop]
                    reached[tile.name].see(inputs, inputs @ node.matrix.block(tile.rows, tile.columns))
        means = {name: total / max(seen[name], 1) for name, total in squares.items()}
        ranged = (reached[tile.name].apply(tile, self.headroom) for tile in source.tiles)
        noted = (replace(tile, mean_square=means[tile.node][tile.rows.start : tile.rows.stop]) for tile in ranged)
        return replace(source, tiles=tuple(noted))

    def ensures(self, source: Netlist, result: Netlist) -> None:
        """Every tile has ranges that are numbers and not empty."""
        for tile in result.tiles:
            for kind, found in (("input", tile.input_range), ("output", tile.output_range)):
                if found is None or not (np.isfinite(found.high) and found.high > 0):
                    raise PassError(
                        f"the {kind} range is {found}", f"tile {tile.name} of node {tile.node}", "check the data"
                    )


@dataclass
class _Extremes:
    """Smallest and largest input and output of one tile, so far."""

    inputs: tuple[float, float] = (0.0, 0.0)
    outputs: tuple[float, float] = (0.0, 0.0)

    def see(self, inputs: Float[np.ndarray, "vectors rows"], outputs: Float[np.ndarray, "vectors columns"]) -> None:
        self.inputs = _widened(self.inputs, inputs)
        self.outputs = _widened(self.outputs, outputs)

    def apply(self, tile: Tile, headroom: float) -> Tile:
        return replace(tile, input_range=_range(self.inputs, headroom), output_range=_range(self.outputs, headroom))


def _widened(reach: tuple[float, float], values: Float[np.ndarray, ...]) -> tuple[float, float]:
    if not values.size:
        return reach
    return min(reach[0], float(values.min())), max(reach[1], float(values.max()))


def _range(reach: tuple[float, float], headroom: float) -> Range:
    """A tile that saw only zeros still needs a range; any will do, and one unit is as good as another."""
    low, high = reach if reach != (0.0, 0.0) else (-1.0, 1.0)
    return Range.of(low * headroom, high * headroom)


def _vectors(node: MatrixVector, values: np.ndarray) -> Float[np.ndarray, "vectors rows"]:
    """The input vectors of a contraction, one per row."""
    vectors = values if node.windows is None else node.windows(values)
    return np.asarray(vectors.reshape(-1, node.matrix.rows), dtype=np.float64)


def _thinned(vectors: Float[np.ndarray, "vectors rows"], most: int) -> Float[np.ndarray, "fewer rows"]:
    return vectors[:: -(-len(vectors) // most) or 1]
