"""What reaches the tiles of each contraction when the calibration data are run through the model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from pfmc.ir.graph import MatrixVector
from pfmc.netlist.netlist import Netlist, Tile
from pfmc.passmanager import Context

GOLDEN: Final = (math.sqrt(5) - 1) / 2  # its multiples, modulo 1, are spread evenly, and over any period's phases too


def input_vectors(
    source: Netlist, context: Context, most: int
) -> Iterator[tuple[MatrixVector, list[Tile], Float[np.ndarray, "vectors rows"]]]:
    """Of each contraction, batch by batch: at most so many vectors a batch, as the converters at its rows see them.

    Those that hold a NaN, which nothing can be learned from, are left out. A contraction that shares another's tiles is
    seen with it; one in a body that is not run is not seen.
    """
    users = source.users()
    values = sorted({user.observed for some in users.values() for user in some})
    for batch in context.activations(values):
        for node, tiles in source.by_node():
            read = [user for user in users[node.name] if user.observed in batch]
            if read:
                seen = np.concatenate([_vectors(user, batch[user.observed], most) for user in read])
                sound = ~np.isnan(seen).any(axis=1)
                whole = seen if sound.all() else seen[sound]
                yield node, tiles, whole if node.input_shift is None else np.ldexp(whole, -node.input_shift)


def thinned(vectors: Float[np.ndarray, "vectors rows"], most: int) -> Float[np.ndarray, "fewer rows"]:
    """At most so many of them; see :func:`spread`."""
    return np.asarray(vectors[spread(len(vectors), most)])


def spread(count: int, most: int) -> Int[np.ndarray, " chosen"]:
    """At most so many numbers below ``count``, from all over, but at no fixed distance: it can be an image's width."""
    everyone = np.arange(count)
    if count <= most:
        return everyone
    return np.sort(np.argpartition(everyone * GOLDEN % 1.0, most)[:most])


def _vectors(node: MatrixVector, values: np.ndarray, most: int) -> Float[np.ndarray, "vectors rows"]:
    """At most so many input vectors of a contraction as its rows take them, one per row."""
    if node.through is not None:
        matrix = node.through.matrix
        left = matrix.block(range(matrix.rows), range(matrix.columns)).astype(np.float32)
        found = _vectors(node.through, values, most) @ left
    elif node.windows is not None:
        found = node.windows.some(values, spread(node.windows.count(values), most))
    else:
        vectors = values.reshape(-1, node.entries)
        found = vectors[spread(len(vectors), most)]
    found = np.asarray(found, dtype=np.float32)
    return found if node.arranged is None else node.arranged.taken(found)
