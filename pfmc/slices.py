"""Tiles that share a block: copies of it, and a second slice of significance that holds what the grid left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from pfmc.errors import CapacityError, PassError
from pfmc.netlist.netlist import Provision, Range, Tile
from pfmc.primitives.crossbar import CrossbarTile


def provided(
    tile: Tile, block: Float[np.ndarray, "rows columns"], provision: Provision, primitive: CrossbarTile | None
) -> Iterator[Tile]:
    """The copies of a scaled tile, and the second slice if there is to be one and the grid leaves anything.

    Args:
        block: what the tile realises.
        primitive: programmes it; needed for a second slice only.

    Raises:
        CapacityError: if the wires leave the second slice nothing.
        PassError: if a second slice is asked for and the technology has no crossbars.
    """
    for copy in range(provision.copies):
        yield replace(tile, provision=provision, copy=copy)
    if provision.slices == 1:
        return
    if primitive is None:
        raise PassError("only crossbars have slices", f"tile {tile.name}", "provide.slices=1")
    second = second_slice(tile, block, primitive)
    if second is not None:
        yield replace(second, provision=provision, copy=provision.copies)


def second_slice(tile: Tile, block: Float[np.ndarray, "rows columns"], primitive: CrossbarTile) -> Tile | None:
    """The tile that holds what the grid leaves of a block; see :func:`slice_of`."""
    return slice_of(tile, primitive.remainder(block, tile.scale, compensate=tile.compensated), primitive)


def slice_of(tile: Tile, left: Float[np.ndarray, "rows columns"], primitive: CrossbarTile) -> Tile | None:
    """The tile that holds what the grid left of another's block, at the largest scale that fits; None: nothing is left.

    Its converters at the columns span what the largest inputs of one sign, or of both, can add up to.

    Raises:
        CapacityError: if the wires leave it nothing.
    """
    if tile.input_range is None:
        raise PassError("the tile has no input range", f"tile {tile.name}", "the pipeline needs the calibrate pass")
    if not left.any():
        return None
    ideal = primitive.scale(float(np.abs(left).max()))
    try:
        scale = primitive.feasible_scale(left) if tile.compensated else ideal
    except CapacityError as e:
        raise CapacityError(e.what, f"second slice of tile {tile.name} of node {tile.node}", e.fix) from None
    reach = tile.input_range.high * float(np.abs(left).sum(axis=0).max())
    return replace(
        tile, scale=scale, scale_share=scale / ideal, output_range=Range(-reach, reach), remainder_of=tile.scale
    )
