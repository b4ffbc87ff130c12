"""Nanoscribe GWL: lines of two points, each with its laser power in per cent.

Language: Nanoscribe's DeScribe and NanoWrite, general writing language. Lengths in um, speed in um/s.
"""

from __future__ import annotations

from pathlib import Path

from pfmc.errors import printable
from pfmc_backends.glass_voxels.path import passes
from pfmc_backends.glass_voxels.program import centred, joined, powers, words
from pfmc_backends.glass_voxels.volume import WrittenVolume


def write_gwl(volume: WrittenVolume, path: Path, *, scan_pitch: float, speed: float, full_power: float) -> None:
    """Write ``path``: x and y from the volume's axis, z the height above the substrate.

    The substrate carries the last layer, that the light leaves by; what is written first stands on it.

    Args:
        scan_pitch: between passes, along z, metres.
        speed: of the focus, metres per second.
        full_power: at a laser power of 100 %, watts.

    Raises:
        UsageError: if a level needs more power, or passes ``scan_pitch`` apart do not fill a layer.
        OSError: if it cannot be written.
    """
    layers, rows, columns = volume.levels.shape
    bottom = volume.depth + layers * volume.layer
    um = volume.voxel * 1e6
    x = words(f"{value:.4f} " for value in centred(columns, um))
    y = words(f"{value + um / 2:.4f} " for value in centred(rows, um)[:-1])
    power = words(f"{100 * share:.4f}\n" for share in powers(volume, full_power))
    drawn = passes(volume, scan_pitch)
    with path.open("wb") as file:
        file.write(
            f"% {printable(volume.name)}: {layers} layers of {rows} x {columns} voxels\n"
            f"% 100 % are {full_power:g} W; z = 0 is the substrate\n"
            "GalvoScanMode\nContinuousMode\nConnectPointsOn\nPowerScaling 1.0\n"
            f"ScanSpeed {speed * 1e6:.6g}\n".encode("ascii", "replace")
        )
        for depth, segments in drawn:
            z = f"{(bottom - depth) * 1e6:.4f} "
            middle, level = y[segments.row], power[segments.level]
            file.write(joined(x[segments.start], middle, z, level, x[segments.stop], middle, z, level, "Write\n"))
