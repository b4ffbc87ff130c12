"""What the volumes of a block compute: light is sent through the voxels as they lie in the files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
from jaxtyping import Complex

from pfmc.backend import VolumeAsBuilt
from pfmc.bundle import TileRecord
from pfmc.errors import VerifyError
from pfmc.primitives.volume import DiffractiveVolume
from pfmc.technology.glass import GlassTechnology

THREADS = 2  # that propagate side by side; SciPy's transforms let others run


def transfer_matrices(
    volumes: Iterable[tuple[TileRecord, VolumeAsBuilt]], technology: GlassTechnology
) -> Iterator[tuple[TileRecord, Complex[np.ndarray, "rows columns"]]]:
    """Amplitude at each output of a volume per amplitude at each of its inputs, in the order given.

    Raises:
        VerifyError: if an index change is so large that the light cannot be computed, or is no number.
    """
    primitive = DiffractiveVolume.of(technology)

    def measured(pair: tuple[TileRecord, VolumeAsBuilt]) -> tuple[TileRecord, Complex[np.ndarray, "rows columns"]]:
        record, built = pair
        largest = float(np.abs(built.index_change).max())
        if not largest <= abs(primitive.change) * (1 + 1e-6):
            raise VerifyError(f"an index change of {largest:.3g} is beyond the technology's", f"tile {record.name}")
        rows, columns = record.row_stop - record.row_start, record.column_stop - record.column_start
        return record, primitive.transfer_of(built.index_change, rows, columns)

    waiting = iter(volumes)
    with ThreadPoolExecutor(THREADS) as pool:
        while together := list(islice(waiting, THREADS)):
            yield from pool.map(measured, together)
