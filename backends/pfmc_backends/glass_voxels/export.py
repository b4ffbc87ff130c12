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
from pfmc_backends.glass_voxels.gwl import write_gwl
from pfmc_backends.glass_voxels.meep import write_meep
from pfmc_backends.glass_voxels.pgm import write_pgm
from pfmc_backends.glass_voxels.read import open_volume
from pfmc_backends.glass_voxels.stl import write_stl
from pfmc_backends.glass_voxels.tiff import write_tiff
from pfmc_backends.glass_voxels.vti import write_vti

MODEL: Final = "as_fabricated.onnx"
FORMATS: Final = {
    "onnx": "the as-fabricated model, for any ONNX Runtime",
    "ome-zarr": "one volume as OME-Zarr 0.5, for napari",
    "tiff": "one volume as a 16-bit TIFF stack, for Fiji",
    "vti": "one volume as VTK image data, for ParaView",
    "meep": "one volume's permittivity in HDF5, for Meep",
    "stl": "boundary of what is written in one volume of two levels",
    "gwl": "path of the focus through one volume, for Nanoscribe",
    "pgm": "path of the focus through one volume as G-code, for Aerotech's controllers",
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
    writing = technology.writing
    focus = {
        "scan_pitch": writing.scan_pitch.si,
        "speed": writing.speed.si,
        "full_power": volume.power[-1].item(),
    }
    match format:
        case "ome-zarr":
            store.write(volume, path)
        case "tiff":
            write_tiff(volume, path)
        case "vti":
            write_vti(volume, path)
        case "meep":
            write_meep(volume, path)
        case "stl":
            write_stl(volume, path)
        case "gwl":
            write_gwl(volume, path, **focus)
        case _:
            write_pgm(volume, path, line_settling=writing.line_settling.si, **focus)
