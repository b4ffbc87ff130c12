"""Resistive crossbars as GDSII masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Int

from pfmc.backend import Backend, Emission, Progress, RuleCheck, TileAsBuilt
from pfmc.bundle import TileRecord
from pfmc.layout.layout import Layout
from pfmc.technology.schema import Technology
from pfmc_backends.crossbar_gdsii import connectivity, emit, export, read, rules


class CrossbarGdsii:
    """Emits a layout as GDSII and reads its tiles back; see :class:`pfmc.backend.Backend`."""

    name: str = "crossbar-gdsii"
    target: str = "crossbar"
    summary: str = "GDSII masks of resistor crossbars, one strip of poly per device"
    default_technology: str = "sg13g2"
    pipeline: tuple[str, ...] = (
        "normalise",
        "fold",
        "absorb",
        "collapse",
        "merge",
        "condense",
        "tile",
        "equalise",
        "scale",
        "calibrate",
        "unroll",
        "provide",
        "place",
    )
    formats: Mapping[str, str] = export.FORMATS

    def emit(self, layout: Layout, folder: Path, progress: Progress) -> Emission:
        """Write masks and the table of devices."""
        return emit.emit(layout, folder, progress)

    def read(
        self, folder: Path, technology: Technology, tiles: Sequence[TileRecord], progress: Progress
    ) -> Iterator[TileAsBuilt]:
        """Recover tiles from the masks."""
        return read.read_tiles(folder, technology, tiles, progress)

    def shapes(
        self, folder: Path, technology: Technology, tile: TileRecord, window: tuple[int, int, int, int]
    ) -> dict[str, Int[np.ndarray, "n 4"]]:
        """Rectangles of a tile, from the masks."""
        return read.tile_shapes(folder, technology, tile, window)

    def check_rules(
        self, folder: Path, technology: Technology, tiles: Sequence[TileRecord], progress: Progress
    ) -> RuleCheck:
        """Check the masks against the technology's design rules, with KLayout's geometry."""
        return rules.check_rules(folder, technology, tiles, progress)

    def check_connectivity(
        self, folder: Path, technology: Technology, tiles: Sequence[TileRecord], progress: Progress
    ) -> tuple[str, ...]:
        """Compare what KLayout extracts from the masks with the table of tiles."""
        return connectivity.check_connectivity(folder, technology, tiles, progress)

    def export(
        self,
        folder: Path,
        technology: Technology,
        tiles: Sequence[TileRecord],
        format: str,
        path: Path,
        *,
        tile: str | None = None,
        devices: Path | None = None,
    ) -> None:
        """Write one of ``formats``."""
        export.export(folder, technology, tiles, format, path, tile=tile, devices=devices)


BACKEND: Final[Backend] = CrossbarGdsii()
