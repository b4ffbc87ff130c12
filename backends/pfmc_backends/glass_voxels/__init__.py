"""Diffractive volumes as voxels of refractive index."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Int

from pfmc.backend import Backend, Emission, Progress, RuleCheck, VolumeAsBuilt
from pfmc.bundle import TileRecord
from pfmc.errors import UsageError
from pfmc.layout.glass import GlassLayout
from pfmc.technology.glass import GlassTechnology
from pfmc_backends.glass_voxels import emit, export, read, rules


class GlassVoxels:
    """Emits a layout as OME-Zarr volumes and reads them back; see :class:`pfmc.backend.Backend`."""

    name: str = "glass-voxels"
    target: str = "glass"
    summary: str = "OME-Zarr volumes of refractive index, to be written into glass"
    default_technology: str = "fused-silica"
    pipeline: tuple[str, ...] = (
        "normalise",
        "fold",
        "absorb",
        "collapse",
        "merge",
        "condense",
        "tile",
        "construct",
        "calibrate",
        "unroll",
        "provide",
        "stack",
    )
    formats: Mapping[str, str] = export.FORMATS

    def emit(self, layout: GlassLayout, folder: Path, progress: Progress) -> Emission:
        """Write volumes."""
        return emit.emit(layout, folder, progress)

    def read(
        self, folder: Path, technology: GlassTechnology, tiles: Sequence[TileRecord], progress: Progress
    ) -> Iterator[VolumeAsBuilt]:
        """Recover volumes."""
        return read.read(folder, technology, tiles, progress)

    def shapes(
        self, folder: Path, technology: GlassTechnology, tile: TileRecord, window: tuple[int, int, int, int]
    ) -> dict[str, Int[np.ndarray, "n 4"]]:
        """There are none: a volume is no mask."""
        return {}

    def check_rules(
        self, folder: Path, technology: GlassTechnology, tiles: Sequence[TileRecord], progress: Progress
    ) -> RuleCheck:
        """The writer's limits."""
        return rules.check_rules(folder, technology, tiles, progress)

    def check_connectivity(
        self, folder: Path, technology: GlassTechnology, tiles: Sequence[TileRecord], progress: Progress
    ) -> tuple[str, ...]:
        """Nothing is connected in glass."""
        what = "light is guided by no wires: there are no connections to compare"
        raise UsageError(what, f"technology {technology.name}", "leave --lvs out")

    def export(
        self,
        folder: Path,
        technology: GlassTechnology,
        tiles: Sequence[TileRecord],
        format: str,
        path: Path,
        *,
        tile: str | None = None,
        devices: Path | None = None,
    ) -> None:
        """Write one of ``formats``, of one volume."""
        if devices is not None:
            raise UsageError("volumes are not drawn from a table", "--devices", "leave it out")
        export.export(folder, technology, tiles, format, path, tile=tile)


BACKEND: Final[Backend] = GlassVoxels()
