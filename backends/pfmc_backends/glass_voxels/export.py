"""What ``pfmc export`` writes of a block of glass: one volume in the format of the next tool in the chain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pfmc.bundle import TileRecord, new_file
from pfmc.errors import UsageError
from pfmc.primitives.volume import DiffractiveVolume
from pfmc.technology.glass import GlassTechnology
from pfmc_backends.glass_voxels import store
from pfmc_backends.glass_voxels.gwl import write_gwl
from pfmc_backends.glass_voxels.meep import write_meep
from pfmc_backends.glass_voxels.pgm import write_pgm
from pfmc_backends.glass_voxels.read import declared_shapes, open_volume
from pfmc_backends.glass_voxels.stl import write_stl
from pfmc_backends.glass_voxels.tiff import write_tiff
from pfmc_backends.glass_voxels.volume import WrittenVolume
from pfmc_backends.glass_voxels.vti import write_vti

FORMATS: Final = {
    "ome-zarr": "one volume as OME-Zarr 0.5, for napari",
    "tiff": "one volume as a 16-bit TIFF stack, for Fiji",
    "vti": "one volume as VTK image data, for ParaView",
    "meep": "one volume's permittivity as written, blur included, in HDF5: for Meep",
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
    """Write ``path`` whole or not at all; of the volume ``tile``, or of the only one.

    Raises:
        UsageError: if it is not said which volume, the format cannot hold it, or ``path`` is a folder already.
        ArtifactError: if a file is missing or cannot be understood.
        OSError: if ``path`` cannot be written.
    """
    if tile is None and len(tiles) > 1:
        raise UsageError("it holds one volume", f"format {format}", f"say which: --tile {tiles[0].name}")
    if path.is_dir():
        raise UsageError("it is a folder already", str(path), "name another, or remove it")
    volume = open_volume(folder, tile or tiles[0].name, declared_shapes(folder, technology))
    with new_file(path) as partial:
        _write(volume, technology, format, partial)


def _write(volume: WrittenVolume, technology: GlassTechnology, format: str, path: Path) -> None:
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
            layers, across, _ = volume.levels.shape
            write_meep(volume, path, DiffractiveVolume.of(technology).volume(layers, across))
        case "stl":
            write_stl(volume, path)
        case "gwl":
            write_gwl(volume, path, **focus)
        case _:
            write_pgm(volume, path, line_settling=writing.line_settling.si, **focus)
