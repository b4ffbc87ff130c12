"""stack: volumes beside each other in a block of glass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from pfmc.errors import ArtifactError, PassError
from pfmc.layout.glass import GlassLayout
from pfmc.layout.layout import PlacedTile, tiles_across
from pfmc.netlist.netlist import Netlist, Tile
from pfmc.passmanager import Context, Pass
from pfmc.primitives.volume import DiffractiveVolume, Written
from pfmc.primitives.volume_store import VolumeStore
from pfmc.technology.kinds import glass


@dataclass(frozen=True, eq=False)
class _Constructed:
    """The voxels that were constructed for a netlist's blocks."""

    netlist: Netlist
    store: VolumeStore

    def written(self, tile: Tile) -> Written:
        """See :class:`pfmc.layout.glass.Voxels`."""
        found = self.store.read(self.netlist.block(tile), tile.robust)
        if found is None:
            raise ArtifactError("its voxels are gone", f"tile {tile.name}", "compile again with --resume")
        return found


@dataclass(frozen=True)
class Stack(Pass[Netlist, GlassLayout]):
    """Set the volumes in rows in a block that is about ``aspect`` times as wide as high; light crosses it once."""

    aspect: float = 1.0

    name: ClassVar[str] = "stack"
    takes: ClassVar[type[Netlist]] = Netlist
    gives: ClassVar[type[GlassLayout]] = GlassLayout

    def __post_init__(self) -> None:
        if self.aspect <= 0:
            raise ValueError("aspect must be above 0")

    def requires(self, source: Netlist) -> None:
        """Every tile has its gain."""
        for tile in source.tiles:
            if math.isnan(tile.scale):
                raise PassError("the tile has no gain", f"tile {tile.name}", "run construct before stack")

    def run(self, source: Netlist, context: Context) -> GlassLayout:
        """Place in the order of the netlist: tiles of one contraction stand together."""
        technology = glass(context.technology, "pass stack")
        primitive = DiffractiveVolume.of(technology)
        voxels = _Constructed(source, VolumeStore.of(context.checkpoint, technology, context.seed))
        sizes = [voxels.written(tile).levels.shape for tile in source.tiles]
        nanometre, block, writing = 1e9, technology.block, technology.writing
        side = max(across for _, across, _ in sizes) * primitive.voxel
        pitch = round((side + block.volume_spacing.si) * nanometre)
        margin = round((block.frame_margin.si + side / 2) * nanometre)
        count = len(source.tiles)
        wide = tiles_across(count, self.aspect, pitch, pitch)
        high = -(-count // wide)
        deepest = writing.depth_min.si + max(layers for layers, _, _ in sizes) * primitive.layer
        return GlassLayout(
            technology=technology,
            netlist=source,
            tiles=tuple(
                PlacedTile(tile, margin + (i % wide) * pitch, margin + (i // wide) * pitch)
                for i, tile in enumerate(source.tiles)
            ),
            voxels=voxels,
            width=2 * margin + (wide - 1) * pitch,
            height=2 * margin + (high - 1) * pitch,
            thickness=round((deepest + block.behind.si) * nanometre),
            title=context.title,
        )

    def ensures(self, source: Netlist, result: GlassLayout) -> None:
        """Every tile has a place."""
        if [placed.tile for placed in result.tiles] != list(source.tiles):
            raise PassError("the layout does not hold the netlist's tiles", f"pass {self.name}")
