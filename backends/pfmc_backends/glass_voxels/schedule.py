"""How long a writer needs for a volume."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pfmc_backends.glass_voxels.path import passes_per_layer, segments_of
from pfmc_backends.glass_voxels.volume import WrittenVolume


@dataclass(frozen=True)
class WriteTime:
    """What writing a volume takes, and what that is made of.

    Attributes:
        voxels: that are written: all but those at level 0.
        segments, lines, passes: of the path; a layer is crossed by one pass or more.
        writing_s: with the light on.
        moving_s: with the light off, along lines and from one to the next.
        settling_s: at the beginning of lines.
        layers_s: between passes at different depths.
    """

    voxels: int
    segments: int
    lines: int
    passes: int
    writing_s: float
    moving_s: float
    settling_s: float
    layers_s: float

    @property
    def seconds(self) -> float:
        """For the whole volume."""
        return self.writing_s + self.moving_s + self.settling_s + self.layers_s


def write_time(
    volume: WrittenVolume, *, scan_pitch: float, speed: float, line_settling: float, layer_move: float
) -> WriteTime:
    """Time along the path that the exports write; what switches the light is taken to need none.

    Args:
        scan_pitch: between passes, along the light, metres.
        speed: of the focus, writing or not, metres per second.
        line_settling: at the beginning of each line, seconds.
        layer_move: to the depth of each pass, seconds.

    Raises:
        UsageError: if passes ``scan_pitch`` apart do not fill a layer.
    """
    count = passes_per_layer(volume, scan_pitch)
    segments = lines = passes = on = 0
    off = 0.0
    for levels in volume.levels:
        layer = segments_of(levels)
        if len(layer.row):
            segments += count * len(layer.row)
            lines += count * int(np.count_nonzero(layer.begins))
            passes += count
            on += count * int(np.abs(layer.stop - layer.start).sum())
            off += count * float(np.hypot(layer.start[1:] - layer.stop[:-1], np.diff(layer.row)).sum())
    return WriteTime(
        voxels=int(np.count_nonzero(volume.levels)),
        segments=segments,
        lines=lines,
        passes=passes,
        writing_s=on * volume.voxel / speed,
        moving_s=off * volume.voxel / speed,
        settling_s=lines * line_settling,
        layers_s=passes * layer_move,
    )
