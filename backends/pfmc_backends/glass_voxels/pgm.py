"""Aerotech PGM (AeroBasic G-code): one move for each segment, its power on an analogue output.

Commands: Aerotech, A3200 help, G-codes and $AO. Lengths in mm, speed in mm/s, times in s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from pfmc.errors import printable
from pfmc_backends.glass_voxels.path import passes
from pfmc_backends.glass_voxels.program import centred, joined, powers, words
from pfmc_backends.glass_voxels.volume import WrittenVolume

FULL_SCALE: Final = 10.0  # volts that the modulator takes for full power
OUTPUT: Final = "$AO[0].X"
OFF: Final = f"{OUTPUT}=0\n"


def write_pgm(
    volume: WrittenVolume, path: Path, *, scan_pitch: float, speed: float, line_settling: float, full_power: float
) -> None:
    """Write ``path``: X and Y from the volume's axis, Z downwards from the surface.

    What it takes for granted stands at its head: power is proportional to the output's voltage, no voltage is no light,
    and the depths are those in the glass.

    Args:
        scan_pitch: between passes, along Z, metres.
        speed: of the focus, metres per second.
        line_settling: dwell at the beginning of each line, seconds.
        full_power: at 10 V, watts.

    Raises:
        UsageError: if a level needs more power, or passes ``scan_pitch`` apart do not fill a layer.
        OSError: if it cannot be written.
    """
    layers, rows, columns = volume.levels.shape
    mm = volume.voxel * 1e3
    x = words(f"X{value:.7f}" for value in centred(columns, mm))
    y = words([*(f" Y{value + mm / 2:.7f}\n" for value in centred(rows, mm)[:-1]), ""])
    volts = words(f"{OUTPUT}={FULL_SCALE * share:.5f}\n" for share in powers(volume, full_power))
    off = words(["", f"{OFF}G1 "])
    dwell = words(["", f"G4 P{line_settling:g}\n"])
    from_x = np.concatenate([x, np.zeros_like(x[:1])])
    drawn = passes(volume, scan_pitch)
    with path.open("wb") as file:
        file.write(
            f"' {printable(volume.name)}: {layers} layers of {rows} x {columns} voxels\n"
            f"' Power is proportional to {OUTPUT}: {FULL_SCALE:g} V are {full_power:g} W in the focus, 0 V are none.\n"
            "' The output is set where two moves meet: it must follow the motion, not the controller's look-ahead.\n"
            "' Z is the depth of the focus in the glass: scale Z where the objective moves less than its focus.\n"
            "' X = Y = 0 is the volume's axis, Z = 0 the surface, Z grows into the glass.\n"
            f"G71\nG76\nG90\nG108\nF{speed * 1e3:.6g}\n{OFF}".encode("ascii", "replace")
        )
        for depth, segments in drawn:
            file.write(f"{OFF}G1 Z{depth * 1e3:.7f}\n".encode())
            opens = segments.opens
            to_start = from_x[np.where(opens, segments.start, -1)], y[np.where(opens, segments.row, -1)]
            settle = dwell[segments.begins.astype(int)]
            file.write(
                joined(off[opens.astype(int)], *to_start, settle, volts[segments.level], "G1 ", x[segments.stop], "\n")
            )
        file.write(f"{OFF}END PROGRAM\n".encode())
