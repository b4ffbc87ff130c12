"""The writer's limits, checked on what the files say: a rule is named by the technology's entry that sets it.

Voxels no narrower and no shorter than the writer's keep the aspect of its focus too. Of how many voxels a volume is,
and whether its levels are in its table, the reader looks after.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import KDTree

from pfmc.backend import Place, Progress, RuleCheck, Violated
from pfmc.bundle import TileRecord, read_manifest
from pfmc.primitives.volume import DiffractiveVolume
from pfmc.technology.glass import GlassTechnology, Writing
from pfmc_backends.glass_voxels.read import declared_shapes, open_volume
from pfmc_backends.glass_voxels.volume import WrittenVolume

INDEX, LEVELS, POWER = "writing.index_change", "writing.levels", "writing.power"
VOXEL, LAYER, PASSES = "writing.voxel", "writing.layer", "writing.scan_pitch"
TOP, BOTTOM = "writing.depth_min", "writing.depth_max"
APERTURE, PORTS = "tile.voxels_max", "light.port_pitch"
SPACING, FRAME, BEHIND = "block.volume_spacing", "block.frame_margin", "block.behind"
RULES: Final = (
    *(INDEX, LEVELS, POWER, VOXEL, LAYER, PASSES, TOP, BOTTOM, APERTURE, PORTS),
    *(SPACING, FRAME, BEHIND),
)
PLACES: Final = 5  # of each rule's violations that are told
SLACK: Final = 1e-6  # of a limit: numbers in files are decimal
ROUNDED: Final = 2e-3  # um: volumes stand at whole nanometres

Found = tuple[str, int, list[Place]]  # a rule, how often it is violated, and where first


def check_rules(
    folder: Path, technology: GlassTechnology, tiles: Sequence[TileRecord], progress: Progress
) -> RuleCheck:
    """Check the volumes in ``folder``, and where the table of tiles sets them in the block.

    Raises:
        ArtifactError: if a file is missing or cannot be understood.
    """
    shapes, manifest = declared_shapes(folder, technology), read_manifest(folder)
    counts, places = dict.fromkeys(RULES, 0), {rule: list[Place]() for rule in RULES}

    def note(found: Iterable[Found]) -> None:
        for rule, count, some in found:
            counts[rule] += count
            places[rule] += some[: PLACES - len(places[rule])]

    ends, sides = np.zeros(len(tiles)), np.zeros(len(tiles))
    for at, tile in enumerate(tiles):
        volume = open_volume(folder, tile.name, shapes)
        note(_Volume(volume, technology, tile).violations())
        ends[at], sides[at] = volume.depth + len(volume.levels) * volume.layer, volume.across
        progress(1)
    block = manifest.chip.width_um, manifest.chip.height_um, manifest.glass.thickness_um if manifest.glass else 0.0
    note(_in_block(tiles, 1e6 * sides, 1e6 * ends, block, technology))
    violated = (Violated(rule, counts[rule], tuple(places[rule])) for rule in RULES if counts[rule])
    return RuleCheck(len(RULES), len(tiles), tuple(violated))


@dataclass(frozen=True, eq=False)
class _Volume:
    """A volume as the file has it, and whose limits it must keep."""

    volume: WrittenVolume
    technology: GlassTechnology
    tile: TileRecord

    def violations(self) -> Iterator[Found]:
        """Of the rules on a single volume."""
        yield from self._levels()
        yield from self._sizes()
        yield from self._depths()

    def _levels(self) -> Iterator[Found]:
        """Rules on what a level is; voxels are counted, so that a level that nothing is written with is none."""
        writing, change, power = self.technology.writing, self.volume.index_change, self.volume.power
        most, sign = writing.index_change.values[-1], math.copysign(1.0, writing.index_change.values[-1])
        step = abs(most) / (int(writing.levels.value) - 1)
        size = sign * change
        yield self._voxels(
            INDEX,
            (size < 0) | (size > abs(most) * (1 + SLACK)),
            [f"a change of {c:.4g}, 0 to {most:.4g} can be written" for c in change],
        )
        steps = np.diff(np.abs(change), prepend=-np.inf)
        yield self._voxels(
            LEVELS,
            steps < step * (1 - SLACK),
            [f"a step of {s:.4g} from the level below, {step:.4g} can be told apart" for s in steps],
        )
        left, calibrated = _left_by(power, writing)
        off = np.abs(left - change) > step / 2
        branch = f"beyond the {writing.power.values[-1]:g} {writing.power.unit} up to which the change grows"
        yield self._voxels(
            POWER,
            off | ~calibrated,
            [
                f"{1e3 * p:.4g} mW leave a change of {have:.4g}, not {want:.4g}"
                if known
                else f"{1e3 * p:.4g} mW, {branch}"
                for p, have, want, known in zip(power, left, change, calibrated, strict=True)
            ],
        )

    def _sizes(self) -> Iterator[Found]:
        """Rules on how large voxels and volume are."""
        volume, technology, tile = self.volume, self.technology, self.tile
        writing, primitive = technology.writing, DiffractiveVolume.of(technology)
        for rule, size, least in ((VOXEL, volume.voxel, writing.voxel.si), (LAYER, volume.layer, writing.layer.si)):
            yield self._whole(rule, size < least * (1 - SLACK), f"{_um(size)}, at least {_um(least)}")
        pitch = writing.scan_pitch.si
        uneven = abs(volume.layer / pitch - round(volume.layer / pitch)) > SLACK
        yield self._whole(PASSES, uneven, f"a layer of {_um(volume.layer)} in passes of {_um(pitch)}")
        across, widest = volume.across, technology.tile.voxels_max.value * writing.voxel.si
        yield self._whole(APERTURE, across > widest * (1 + SLACK), f"{_um(across)} across, at most {_um(widest)}")
        for count in (tile.row_stop - tile.row_start, tile.column_stop - tile.column_start):
            wide = 2 * (float(np.abs(primitive.ports(count)).max()) + primitive.port_waist)
            narrow = across < wide * (1 - SLACK)
            yield self._whole(PORTS, narrow, f"{_um(across)} across, {count} ports take {_um(wide)}")

    def _depths(self) -> Iterator[Found]:
        """Rules on the layers in which something is written."""
        volume, writing = self.volume, self.technology.writing
        layers = np.flatnonzero(volume.levels.any(axis=(1, 2)))
        top = volume.depth + layers * volume.layer
        bottom, least, most = top + volume.layer, writing.depth_min.si, writing.depth_max.si
        for rule, depth, beyond, limit in (
            (TOP, top, top < least * (1 - SLACK), f"at least {_um(least)}"),
            (BOTTOM, bottom, bottom > most * (1 + SLACK), f"at most {_um(most)}"),
        ):
            found = zip(depth[beyond].tolist(), layers[beyond].tolist(), strict=True)
            places = [self._place(f"{_um(d)} below the surface, {limit}", layer) for d, layer in found]
            yield rule, len(places), places

    def _place(self, found: str, layer: int | None = None, y: float = 0.0, x: float = 0.0) -> Place:
        """Somewhere in the volume; y and x from its axis, metres."""
        at = (self.tile.x * 1e-3 + x * 1e6, self.tile.y * 1e-3 + y * 1e6)
        return Place(round(at[0], 4), round(at[1], 4), self.tile.name, layer, found)

    def _whole(self, rule: str, wrong: bool, found: str) -> Found:
        """A rule on the volume as a whole."""
        return rule, int(wrong), [self._place(found)] if wrong else []

    def _voxels(self, rule: str, wrong: Bool[np.ndarray, " levels"], found: Sequence[str]) -> Found:
        """A rule on the levels: the voxels that break it."""
        broken = wrong[self.volume.levels] if wrong.any() else np.zeros((0, 0, 0), bool)
        middle = (np.array(self.volume.levels.shape[1:]) - 1) / 2
        places = [
            self._place(found[int(self.volume.levels[z, y, x])], z, *(((y, x) - middle) * self.volume.voxel).tolist())
            for z, y, x in np.argwhere(broken)[:PLACES].tolist()
        ]
        return rule, int(broken.sum()), places


def _um(length: float) -> str:
    return f"{1e6 * length:.4g} um"


def _left_by(
    power: Float[np.ndarray, " levels"], writing: Writing
) -> tuple[Float[np.ndarray, " levels"], Bool[np.ndarray, " levels"]]:
    """Index change that each power leaves by the technology's table, and whether the table goes so far."""
    table, change = writing.power.si("power"), writing.index_change.si("count")
    return np.asarray(np.interp(power, table, change)), np.asarray(power <= table[-1] * (1 + SLACK))


def _in_block(
    tiles: Sequence[TileRecord],
    sides: Float[np.ndarray, " tiles"],
    ends: Float[np.ndarray, " tiles"],
    block: tuple[float, float, float],
    technology: GlassTechnology,
) -> Iterator[Found]:
    """Rules on how volumes stand in the block; lengths in um, ``ends`` from the surface to a volume's last face."""
    at = np.array([(tile.x, tile.y) for tile in tiles]) * 1e-3
    spots: list[list[float]] = at.round(4).tolist()

    def places(rule: str, which: Sequence[int], room: Sequence[float], limit: float) -> Found:
        some = [
            Place(spots[i][0], spots[i][1], tiles[i].name, None, f"{gap:.4g} um, at least {limit:.4g} um")
            for i, gap in zip(which, room, strict=True)
        ]
        return rule, len(some), some

    spacing = technology.block.volume_spacing.si * 1e6
    pairs = KDTree(at).query_pairs(float(sides.max()) + spacing, p=math.inf, output_type="ndarray")
    apart = np.abs(at[pairs[:, 0]] - at[pairs[:, 1]]) - (sides[pairs[:, 0]] + sides[pairs[:, 1]])[:, None] / 2
    gaps = np.hypot(*np.maximum(apart, 0.0).T)
    close = gaps < spacing - ROUNDED
    yield places(SPACING, pairs[close, 1].tolist(), gaps[close].tolist(), spacing)
    margin = technology.block.frame_margin.si * 1e6
    room = np.minimum(at, block[:2] - at).min(axis=1) - sides / 2
    near = room < margin - ROUNDED
    yield places(FRAME, np.flatnonzero(near).tolist(), room[near].tolist(), margin)
    behind, left = technology.block.behind.si * 1e6, block[2] - ends
    deep = left < behind - ROUNDED
    yield places(BEHIND, np.flatnonzero(deep).tolist(), left[deep].tolist(), behind)
