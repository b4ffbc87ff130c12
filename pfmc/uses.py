"""How often the tiles of a contraction are used in an inference, and what that means for time."""

from __future__ import annotations

from collections.abc import Mapping

from pfmc.netlist.netlist import Netlist
from pfmc.sections import Layer


def vectors_per_inference(netlist: Netlist, macs: Mapping[str, int]) -> dict[str, int]:
    """Matrix-vector products per sample on the tiles of each contraction: a vector meets each weight once.

    Args:
        macs: multiply-accumulates per sample, by contraction.
    """
    return {
        name: sum(macs.get(user.origins[0].name, 0) // user.origins[0].weight.size for user in users)
        for name, users in netlist.users().items()
    }


def macs_on_tiles(netlist: Netlist, vectors: Mapping[str, int]) -> int:
    """Multiply-accumulates per inference that the tiles stand for, as the model has them: of each matrix once.

    Args:
        vectors: matrix-vector products per inference, by contraction.
    """
    macs = {
        origin.name: vectors[node.name] * origin.weight.size for node, _ in netlist.by_node() for origin in node.origins
    }
    return sum(macs.values())


def layers(vectors: Mapping[str, int], read_s: Mapping[str, float]) -> tuple[Layer, ...]:
    """What each contraction takes: its tiles work at once, its vectors follow one another.

    Args:
        vectors: matrix-vector products per inference, by contraction.
        read_s: seconds of one, likewise.
    """
    return tuple(
        Layer(node=node, uses=vectors[node], read_s=seconds, latency_s=vectors[node] * seconds)
        for node, seconds in read_s.items()
    )
