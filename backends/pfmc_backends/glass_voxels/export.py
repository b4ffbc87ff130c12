"""What ``pfmc export`` writes of a block of glass: one volume in the format of the next tool in the chain."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pfmc.bundle import TileRecord
from pfmc.errors import ArtifactError, UsageError
from pfmc.technology.glass import GlassTechnology
from pfmc_backends.glass_voxels import store
from pfmc_backends.glass_voxels.read import open_volume

MODEL: Final = "as_fabricated.onnx"
FORMATS: Final = {
    "onnx": "the as-fabricated model, for any ONNX Runtime",
    "ome-zarr": "one volume as OME-Zarr 0.5",
}


def export(
    folder: Path,
    technology: GlassTechnology,
    tiles: Sequence[TileRecord],
    format: str,
    path: Path,
    *,
    tile: str | None = None,
) -> None:
    """Write ``path``; of the volume ``tile``, or of the only one.

    Raises:
        UsageError: if it is not said which volume, or the format cannot hold it.
        ArtifactError: if a file is missing or cannot be understood.
    """
    if format == "onnx":
        if not (folder / MODEL).is_file():
            raise ArtifactError("the bundle has no as-fabricated model", str(folder / MODEL), "compile the model again")
        shutil.copyfile(folder / MODEL, path)
        return
    if tile is None and len(tiles) > 1:
        raise UsageError("it holds one volume", f"format {format}", f"say which: --tile {tiles[0].name}")
    volume = open_volume(folder, technology, tile or tiles[0].name)
    if path.exists():
        raise UsageError("it is there already", str(path), "name another, or remove it")
    store.write(volume, path)
