"""Blocks of glass as they are written, not as they are drawn, and read by receivers with errors and noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Complex, Float

from pfmc.backend import VolumeAsBuilt
from pfmc.bundle import TileRecord
from pfmc.check.functions import Crossbars
from pfmc.check.made import MadeCrossbars
from pfmc.glass_budget import receiver_noise
from pfmc.physics.writing import Draw, WritingErrors, as_written
from pfmc.primitives.volume import DiffractiveVolume
from pfmc.technology.glass import GlassTechnology


@dataclass(frozen=True)
class GlassVariation:
    """How blocks and what stands around them differ; standard deviations, see the technology's errors and optics.

    ``receiver_noise`` is that of a reading, as an amplitude of the field, √W.
    """

    layer_position: float = 0.0
    voxel_position: float = 0.0
    index_scale: float = 0.0
    index_drift: float = 0.0
    index_noise: float = 0.0
    oscillator_phase: float = 0.0
    receiver_noise: float = 0.0
    converter_gain: float = 0.0
    converter_offset: float = 0.0
    converter_noise: float = 0.0

    def writing(self) -> WritingErrors:
        """What the writer does wrong."""
        return WritingErrors(
            self.layer_position, self.voxel_position, self.index_scale, self.index_drift, self.index_noise
        )


EFFECTS: Final = {
    "position of layers": ("layer_position",),
    "position of voxels": ("voxel_position",),
    "scale of the index": ("index_scale",),
    "index of layers": ("index_drift",),
    "index of voxels": ("index_noise",),
    "phase of oscillators": ("oscillator_phase",),
    "converters": ("converter_gain", "converter_offset"),
    "noise": ("receiver_noise", "converter_noise"),
}


def glass_variation(technology: GlassTechnology) -> GlassVariation:
    """What a technology says."""
    errors, optics = technology.errors, technology.optics
    return GlassVariation(
        layer_position=errors.layer_position.si,
        voxel_position=errors.voxel_position.si,
        index_scale=errors.index_scale.si,
        index_drift=errors.index_drift.si,
        index_noise=errors.index_noise.si,
        oscillator_phase=optics.oscillator_phase.si,
        receiver_noise=receiver_noise(technology),
        converter_gain=optics.converter_gain.si,
        converter_offset=optics.converter_offset.value,
        converter_noise=optics.converter_noise.value,
    )


@dataclass(frozen=True, eq=False)
class GlassMaker:
    """Makes blocks: draws what differs, and sends light through every volume, as finely as a design does.

    Attributes:
        crossbars: of each contraction, converters only.
        records, volumes: of every tile, in the order of the table.
        drawn: transfer matrix of every tile, computed as those of written ones are.
        seed: block number k is always the same, whatever else is made.
    """

    technology: GlassTechnology
    crossbars: Mapping[str, Crossbars]
    records: Sequence[TileRecord]
    volumes: Sequence[VolumeAsBuilt]
    drawn: Sequence[Complex[np.ndarray, "rows columns"]]
    seed: int

    @property
    def effects(self) -> Mapping[str, tuple[str, ...]]:
        """See :class:`pfmc.check.made.Maker`."""
        return EFFECTS

    @classmethod
    def of(
        cls,
        technology: GlassTechnology,
        crossbars: Mapping[str, Crossbars],
        records: Sequence[TileRecord],
        volumes: Sequence[VolumeAsBuilt],
        *,
        seed: int,
    ) -> GlassMaker:
        """The maker of a block whose volumes the files have so."""
        maker = cls(technology, crossbars, records, volumes, (), seed)
        primitive = DiffractiveVolume.of(technology)
        drawn = [maker._written(primitive, part, maker.still, maker.generator(0, part)) for part in range(len(records))]
        return replace(maker, drawn=drawn)

    def generator(self, chip: int, part: int) -> np.random.Generator:
        """See :class:`pfmc.check.made.Maker`."""
        return np.random.default_rng([self.seed, chip, part + 2])

    @property
    def still(self) -> GlassVariation:
        """No difference."""
        return GlassVariation()

    def chip(self, number: int, variation: GlassVariation, node: str | None = None) -> dict[str, MadeCrossbars]:
        """What block ``number`` computes; see :class:`pfmc.check.made.Maker`."""
        parts = [part for part, record in enumerate(self.records) if node in (None, record.node)]
        names = sorted({self.records[part].node for part in parts})
        made = {name: MadeCrossbars.drawn(self.crossbars[name]) for name in names}
        primitive = DiffractiveVolume.of(self.technology)
        for part in parts:
            light = self._written(primitive, part, variation, self.generator(number, part))
            # What an error of the index does to all light alike, oscillators are set to, as a laboratory would.
            light = light * np.exp(-1j * np.angle(np.vdot(self.drawn[part], light)))
            rng = self.generator(number, part + len(self.records))
            self._place(made, self.records[part], light, variation, rng)
        return made

    def _written(
        self, primitive: DiffractiveVolume, part: int, variation: GlassVariation, rng: np.random.Generator
    ) -> Complex[np.ndarray, "rows columns"]:
        """Transfer matrix of a volume as it is written."""
        record, drawn = self.records[part], self.volumes[part].index_change
        layers, voxels, _ = drawn.shape
        design, draw = primitive.volume(layers, voxels), Draw.of(drawn.shape, rng)
        index, volume = as_written(drawn, design, primitive.change, variation.writing(), draw)
        rows, columns = record.row_stop - record.row_start, record.column_stop - record.column_start
        return primitive.light(index, volume, rows, columns)

    def _place(
        self,
        made: Mapping[str, MadeCrossbars],
        tile: TileRecord,
        light: Complex[np.ndarray, "rows columns"],
        variation: GlassVariation,
        rng: np.random.Generator,
    ) -> None:
        """Put a volume among its neighbours, with the errors of modulators and receivers."""
        crossbars, target = self.crossbars[tile.node], made[tile.node]
        rows, columns = light.shape
        at, across = crossbars.block_of(tile), slice(tile.column_start, tile.column_stop)
        row_gain, row_offset = rng.standard_normal((2, rows))
        column_gain, column_offset, phase = rng.standard_normal((3, columns))
        read: Float[np.ndarray, "rows columns"] = np.real(light * np.exp(-1j * variation.oscillator_phase * phase))
        used = 1e6 * read * (1.0 + variation.converter_gain * column_gain)
        amplitudes = variation.converter_offset * row_offset * float(crossbars.volts_per_code[at, 0, 0])
        step = crossbars.microamps_per_code[at, 0, across]
        target.microsiemens[at, :rows, across] = used * (1.0 + variation.converter_gain * row_gain[:, None])
        target.offset[at, 0, across] = amplitudes @ used + variation.converter_offset * column_offset * step
        target.noise[at, 0, across] = np.hypot(1e6 * variation.receiver_noise, variation.converter_noise * step)
