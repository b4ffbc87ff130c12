"""Sets of a contraction's tiles that take the vectors of a call in turn: what is different in its function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pfmc.bundle import TileRecord
from pfmc.errors import VerifyError

OPERATOR_IN_LANES: Final = "MatrixVectorInLanes"
LANES_ATTRIBUTES: Final = (
    "rows",
    "columns",
    "padding",
    "lanes",
    "blocks",
    "by_lane",
    "copies",
    "all",
    "summed",
    "ones",
)

# Shapes: L = number of lanes, J = vectors of each. Vector i goes to lane i mod L as its number i div L: once vectors of
# zeros have filled their number up to L · J, splitting (L · J, rows) into (J, L · R, T) deals them. All is
# (L · copies · R, J, ·) between the converters, and a lane has its blocks behind each other.
DEALT: Final = """
    padding = Constant <value_ints: ints = @padding> ()
    lanes = Constant <value_ints: ints = @lanes> ()
    shape_of_vectors = Shape (vectors)
    dealt = Slice (shape_of_vectors, first, second)
    nothing_but = Neg (dealt)
    lacking = Mod (nothing_but, lanes)
    lacking_vectors = Concat <axis = 0> (first, first, lacking, first)
    all_padding = Add (padding, lacking_vectors)
    padded = Pad (vectors, all_padding)
"""
COPIES_IN_LANES: Final = """
    by_lane_shape = Constant <value_ints: ints = @by_lane> ()
    by_lane = Reshape (by_block, by_lane_shape)
    copies = Constant <value_ints: ints = @copies> ()
    copied = Tile (by_lane, copies)
    all = Constant <value_ints: ints = @all> ()
    for_copies = Reshape (copied, all)
"""
IN_TURN: Final = """
    shape_of_lanes = Concat <axis = 0> (lanes, last, width)
    sum_in_lanes = Reshape (sum_in_a_row, shape_of_lanes)
    {trimmed}
    in_turn = Transpose <perm = [1, 0, 2]> (lane_sums)
    all_sums = Reshape (in_turn, by_vector)
    sum = Slice (all_sums, first, dealt)
"""
UNTRIMMED: Final = "lane_sums = Identity (sum_in_lanes)"
TRIMMED: Final = "lane_sums = Add (sum_in_lanes, units_offset)"


def lanes_attributes(lanes: int, copies: int, split: int, height: int) -> dict[str, list[int]]:
    """Attributes of the call beside the padding of rows.

    Args:
        split: row blocks that one vector is split into.
        height: of each.
    """
    return {
        "lanes": [lanes],
        "blocks": [-1, lanes * split, height],
        "by_lane": [lanes, split, -1],
        "copies": [1, copies, 1],
        "all": [lanes * copies * split, -1, height],
        "summed": [lanes, copies * split, -1],
        "ones": [1, copies * split],
    }


def lane_count(name: str, tiles: Sequence[TileRecord]) -> int:
    """How many sets of tiles a contraction has.

    Raises:
        VerifyError: if that is not the same for all tiles, or the sets do not hold the same blocks.
    """
    lanes = min(max(tiles[0].lanes, 1), len(tiles))
    held: dict[int, set[tuple[int, int, int]]] = {lane: set() for lane in range(lanes)}
    for tile in tiles:
        if tile.lanes != lanes or tile.lane not in held:
            raise VerifyError("its set of tiles cannot be", f"tile {tile.name} of node {name}")
        held[tile.lane].add((tile.row_start, tile.column_start, tile.copy_number))
    if any(blocks != held[0] for blocks in held.values()):
        raise VerifyError("its sets of tiles do not hold the same blocks", f"node {name}")
    return lanes
