"""debias: what a coarse grid adds to each output on average is taken off by the host, with the bias."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from pfmc.errors import CapacityError, PassError
from pfmc.ir.graph import MatrixVector
from pfmc.netlist.netlist import Netlist, Tile
from pfmc.passmanager import Context, Pass
from pfmc.primitives.crossbar import CrossbarTile
from pfmc.technology.kinds import crossbars


@dataclass(frozen=True)
class Debias(Pass[Netlist, Netlist]):
    """Add to each bias what the weights as drawn lack of the weights as wanted, at the mean of the inputs.

    Inputs of one sign let rounding errors of a column add up to a shift of its output (M. Nagel et al., Data-Free
    Quantization, arXiv:1906.04721, section 4.2). The mean is that of the calibration data. Contractions that share
    tiles are left alone: their inputs have other means.

    It is for coarse grids, and no part of a pipeline: with hundreds of lengths, two slices, or inputs of both signs
    there is next to nothing to take off, and each block is programmed once more. What converters add has no mean.
    """

    name: ClassVar[str] = "debias"
    takes: ClassVar[type[Netlist]] = Netlist
    gives: ClassVar[type[Netlist]] = Netlist
    after: ClassVar[str] = "provide"

    def run(self, source: Netlist, context: Context) -> Netlist:
        """Programme each block, or its second slice where it has one, once."""
        primitive = CrossbarTile.of(crossbars(context.technology, "pass debias"))
        alone = {name for name, users in source.users().items() if len(users) == 1}
        nodes = {node.name: _debiased(primitive, node, found) for node, found in source.by_node() if node.name in alone}
        graph = replace(source.graph, nodes=tuple(nodes.get(node.name, node) for node in source.graph.nodes))
        return replace(source, graph=graph)


def _debiased(primitive: CrossbarTile, node: MatrixVector, tiles: list[Tile]) -> MatrixVector:
    """The contraction with other biases."""
    last = {
        (tile.rows.start, tile.columns.start): tile  # a second slice comes behind the copies
        for tile in tiles
        if tile.lane == 0 and (tile.copy == 0 or tile.remainder_of is not None)
    }
    lacking = np.zeros(node.matrix.columns)
    for tile in last.values():
        lacking[tile.columns.start : tile.columns.stop] += _lacking(primitive, node, tile)
    if node.arranged is not None:
        lacking = node.arranged.gains * lacking[node.arranged.columns]
    shifts = [lacking[span.start : span.stop] for span in node.spans]
    if not node.parts:
        return replace(node, bias=_sum(node, shifts[0]))
    parts = tuple(replace(part, bias=_sum(part, shift)) for part, shift in zip(node.parts, shifts, strict=True))
    return replace(node, parts=parts, bias=parts[0].bias)


def _sum(node: MatrixVector, shift: Float[np.ndarray, " columns"]) -> Float[np.ndarray, " columns"]:
    return shift if node.bias is None else np.asarray(node.bias, dtype=np.float64) + shift


def _lacking(primitive: CrossbarTile, node: MatrixVector, tile: Tile) -> Float[np.ndarray, " columns"]:
    """Of the outputs of a tile at its mean input.

    Raises:
        CapacityError: if it cannot be programmed.
        PassError: if it was not calibrated.
    """
    if tile.mean is None:
        raise PassError("the tile has no mean input", f"tile {tile.name}", "the pipeline needs the calibrate pass")
    block = node.matrix.block(tile.rows, tile.columns)
    try:
        if tile.remainder_of is not None:
            block = primitive.remainder(block, tile.remainder_of, compensate=tile.compensated)
        return np.asarray(tile.mean @ primitive.remainder(block, tile.scale, compensate=tile.compensated))
    except CapacityError as e:
        raise CapacityError(e.what, f"tile {tile.name} of node {tile.node}", e.fix) from None
