"""A layout as volumes: one OME-Zarr folder for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pfmc.backend import Emission, Progress
from pfmc.layout.glass import GlassLayout
from pfmc.primitives.volume import Written
from pfmc.technology.glass import GlassTechnology
from pfmc_backends.glass_voxels import store
from pfmc_backends.glass_voxels.schedule import write_time
from pfmc_backends.glass_voxels.volume import WrittenVolume

FOLDER = "volumes"


def emit(layout: GlassLayout, folder: Path, progress: Progress) -> Emission:
    """Write all volumes below ``folder``.

    Raises:
        OSError: if a file cannot be written.
    """
    files: list[str] = []
    seconds: list[float] = []
    voxels = 0
    for placed, written in layout.written():
        volume = _volume(placed.tile.name, written, layout.technology)
        target = path_of(folder, volume.name)
        target.parent.mkdir(exist_ok=True)
        store.write(volume, target)
        files += (path.relative_to(folder).as_posix() for path in _files(target))
        seconds.append(_seconds(volume, layout.technology))
        voxels += volume.levels.size
        progress(1)
    return Emission(tuple((path, "volume") for path in files), voxels, 0, tuple(seconds))


def path_of(folder: Path, tile: str) -> Path:
    """Where a tile's volume lies in a bundle."""
    return folder / FOLDER / f"{tile}.zarr"


def _seconds(volume: WrittenVolume, technology: GlassTechnology) -> float:
    """What the writer needs for a volume."""
    writing = technology.writing
    return write_time(
        volume,
        scan_pitch=writing.scan_pitch.si,
        speed=writing.speed.si,
        line_settling=writing.line_settling.si,
        layer_move=writing.layer_move.si,
    ).seconds


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.rglob("*") if path.is_file())


def _volume(name: str, written: Written, technology: GlassTechnology) -> WrittenVolume:
    writing = technology.writing
    return WrittenVolume(
        name=name,
        levels=written.levels,
        index_change=writing.level_changes(),
        power=writing.level_powers(),
        index=technology.light.index.si,
        voxel=writing.voxel.si,
        layer=writing.layer.si,
        depth=writing.depth_min.si,
    )
