"""How often the tiles of a contraction are used in an inference, how many work side by side, and what that takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pfmc.netlist.netlist import Netlist
from pfmc.sections import Layer


def vectors_per_inference(netlist: Netlist, macs: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Matrix-vector products per sample of each contraction that is computed on the tiles of one, by the name of that.

    A vector meets each weight once.

    Args:
        macs: multiply-accumulates per sample, by contraction.
    """
    return {
        name: tuple(macs.get(user.origins[0].name, 0) // user.origins[0].weight.size for user in users)
        for name, users in netlist.users().items()
    }


def macs_on_tiles(netlist: Netlist, vectors: Mapping[str, Sequence[int]]) -> int:
    """Multiply-accumulates per inference that the tiles stand for, as the model has them: of each matrix once.

    Args:
        vectors: see :func:`vectors_per_inference`.
    """
    macs = {
        origin.name: sum(vectors[node.name]) * origin.weight.size
        for node, _ in netlist.by_node()
        for origin in node.origins
    }
    return sum(macs.values())


def turns(vectors: Sequence[int], lanes: int) -> int:
    """Of so many sets of tiles: contractions follow one another, and the vectors of each are dealt to the sets."""
    return sum(-(-count // lanes) for count in vectors)


def in_lane(vectors: Sequence[int], lane: int, lanes: int) -> int:
    """Vectors that one set of several gets: every so manieth."""
    return sum(len(range(lane, count, lanes)) for count in vectors)


def lanes_of(netlist: Netlist, vectors: Mapping[str, Sequence[int]], most: int) -> dict[str, int]:
    """How many sets of tiles each contraction gets: as few as take no more turns than ``most`` of them would.

    In the body of a Loop vectors come one by one, and more than one set would not help.
    """
    found = {}
    for name, users in netlist.users().items():
        counts = vectors.get(name, ())
        useful = 1 if any(user.body for user in users) else min(most, max(counts, default=1))
        least = turns(counts, max(useful, 1))
        found[name] = next(lanes for lanes in range(1, most + 1) if turns(counts, lanes) <= least)
    return found


def layers(
    vectors: Mapping[str, Sequence[int]], lanes: Mapping[str, int], read_s: Mapping[str, float]
) -> tuple[Layer, ...]:
    """What each contraction takes: the tiles of a set work at once, and so do the sets; their turns follow one another.

    Args:
        vectors: matrix-vector products per inference, see :func:`vectors_per_inference`.
        lanes: sets of tiles, by contraction.
        read_s: seconds of one product, likewise.
    """
    return tuple(
        Layer(
            node=node,
            uses=sum(vectors[node]),
            side_by_side=lanes[node],
            turns=turns(vectors[node], lanes[node]),
            read_s=seconds,
            latency_s=turns(vectors[node], lanes[node]) * seconds,
        )
        for node, seconds in read_s.items()
    )
