"""What tiles of resistors compute as they were built."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float

from pfmc.backend import TileAsBuilt
from pfmc.bundle import TileRecord
from pfmc.errors import VerifyError
from pfmc.physics.crossbar import IDEAL, effective_matrix

TOGETHER: Final = 16  # tiles that are solved in one call: past that nothing is won, and memory grows


def effective_matrices(
    tiles: Iterable[tuple[TileRecord, TileAsBuilt]], *, ideal_wires: bool
) -> Iterator[tuple[TileRecord, Float[np.ndarray, "rows columns"]]]:
    """What each tile computes, siemens; tiles with the same wires are solved together.

    Args:
        ideal_wires: leave the resistance of the wires out.

    Raises:
        VerifyError: if the devices are fewer than the tile's, or a resistance is not a positive number.
    """
    waiting: list[tuple[TileRecord, TileAsBuilt]] = []
    for tile, built in tiles:
        rows, columns = tile.row_stop - tile.row_start, tile.column_stop - tile.column_start
        if built.resistance.shape[0] < rows or built.resistance.shape[1] < columns:
            raise VerifyError(f"{built.resistance.shape} devices hold no {rows} x {columns}", f"tile {tile.name}")
        if not np.all(built.resistance > 0):
            raise VerifyError("a resistance is not a positive number", f"tile {tile.name}")
        if waiting and (len(waiting) == TOGETHER or not _alike(waiting[-1][1], built)):
            yield from _solved(waiting, ideal_wires)
            waiting = []
        waiting.append((tile, built))
    yield from _solved(waiting, ideal_wires)


def _alike(a: TileAsBuilt, b: TileAsBuilt) -> bool:
    return a.wires is b.wires and a.resistance.shape == b.resistance.shape


def _solved(
    tiles: Sequence[tuple[TileRecord, TileAsBuilt]], ideal_wires: bool
) -> Iterator[tuple[TileRecord, Float[np.ndarray, "rows columns"]]]:
    if tiles:
        conductance = 1.0 / np.stack([built.resistance for _, built in tiles])
        siemens = effective_matrix(conductance, IDEAL if ideal_wires else tiles[0][1].wires)
        yield from zip((tile for tile, _ in tiles), siemens, strict=True)
