"""A stack of 16-bit images as ImageJ's TIFF: one image a layer, a voxel's value is its level."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pfmc_backends.glass_voxels.optional import library
from pfmc_backends.glass_voxels.volume import WrittenVolume


def write_tiff(volume: WrittenVolume, path: Path) -> None:
    """Write ``path``: pixels per um in the resolution tags, the distance of layers in ImageJ's ``spacing``.

    What a level is stands in ImageJ's ``Info``, as JSON: index changes, powers in watts, index, depth in metres.

    Raises:
        UsageError: if tifffile is not installed.
        OSError: if it cannot be written.
    """
    table = {
        "name": volume.name,
        "index": volume.index,
        "depth_m": volume.depth,
        "index_change": volume.index_change.tolist(),
        "power_w": volume.power.tolist(),
    }
    top = float(len(volume.power) - 1)
    library("tifffile").imwrite(
        path,
        volume.levels.astype(np.uint16),
        imagej=True,
        resolution=(1e-6 / volume.voxel, 1e-6 / volume.voxel),
        metadata={
            "axes": "ZYX",
            "spacing": volume.layer * 1e6,
            "unit": "um",
            "min": 0.0,
            "max": top,
            "Info": json.dumps(table),
        },
    )
