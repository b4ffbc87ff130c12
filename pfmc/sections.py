"""Sections of a bundle's manifest and rows of its table of tiles, as data."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pfmc.ir.attention import Attention
from pfmc.netlist.netlist import Saving


class Part(BaseModel):
    """A section of the manifest; unknown keys are an error, so that a newer bundle is not half understood."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(Part):
    """A file of the bundle: path relative to the folder, with forward slashes."""

    path: str
    role: str
    bytes: int
    sha256: str


class ModelEntry(Part):
    """The original model: a copy lies in the bundle under ``path``."""

    path: str
    name: str
    sha256: str


class Share(Part):
    """How much of the model's parameters or multiply-accumulates (per sample) became hardware."""

    total: int
    mapped: int


class PassEntry(Part):
    """A pass that was run, with its options."""

    name: str
    options: dict[str, Any]


class Calibration(Part):
    """Where the converters' ranges come from: "file" or "random".

    ``unreached`` names the contractions that these data never ran, in a branch that was not taken: the ranges of their
    converters are those of inputs and outputs of about one.
    """

    data: str
    samples: int
    seed: int
    unreached: tuple[str, ...] = ()


class AttentionEntry(Part):
    """An attention of the model; ``projections``: its contractions as the table of tiles has them, by what they make.

    Contractions of the same input stand side by side under one name.
    """

    name: str
    heads: int
    key_heads: int
    head_size: int
    flags: tuple[str, ...]
    projections: dict[str, str]

    @classmethod
    def of(cls, attention: Attention) -> AttentionEntry:
        """The entry of one of a Graph's."""
        return cls(
            name=attention.name,
            heads=attention.heads,
            key_heads=attention.key_heads,
            head_size=attention.head_size,
            flags=attention.flags,
            projections=attention.projections,
        )


class SavingEntry(Part):
    """What is not drawn because contractions were made smaller than the model has them; ``nodes``: as in the tiles.

    ``errors``: of matrices that were approximated, ‖drawn - model's‖ / ‖model's‖ by Frobenius' norm, by contraction.
    ``weights``: as tiles hold them, zeros too; on a crossbar two devices each. These and ``tiles`` are before copies.
    Parameters and multiply-accumulates are counted on the model itself.
    """

    nodes: tuple[str, ...]
    how: tuple[str, ...]
    weights: int
    tiles: int
    errors: dict[str, float] = Field(default_factory=dict)

    @classmethod
    def of(cls, saving: Saving) -> SavingEntry:
        """The entry of one of a Netlist's."""
        return cls(
            nodes=saving.nodes,
            how=saving.how,
            weights=saving.weights,
            tiles=saving.tiles,
            errors=dict(saving.errors),
        )


class ChipSize(Part):
    """The chip's frame."""

    width_um: float
    height_um: float


class Joules(Part):
    """What takes energy, in an inference."""

    resistive_j: float  # heat in strips and wires
    output_stages_j: float  # lost between the supply and the small voltages on the rows
    drivers_j: float
    amplifiers_j: float
    converters_j: float

    @classmethod
    def parts(cls) -> tuple[str, ...]:
        """Names of what adds up to the whole."""
        return tuple(Joules.model_fields)


class TileEnergy(Joules):
    """The same of one tile: more columns of tiles.parquet. ``vectors``: matrix-vector products in an inference."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    node: str
    vectors: int


class Energy(Joules):
    """The same of the chip, on the calibration data.

    In ``latency_s`` the host takes no time; ``read_time_s`` is that of the slowest contraction.
    """

    per_inference_j: float
    per_mac_j: float
    latency_s: float
    read_time_s: float


class Layer(Part):
    """How often the tiles of a contraction are used in an inference: ``uses``, once for each window or token.

    ``side_by_side``: sets of tiles, each of which takes its part of the uses; ``turns``: of all sets together.
    ``read_s``: of one use; ``latency_s``: of all of them, turn after turn.
    """

    node: str
    uses: int
    side_by_side: int
    turns: int
    read_s: float
    latency_s: float


class OpticalJoules(Part):
    """What takes energy in glass, in an inference: light as drawn from the wall, and what stands around the block."""

    signal_j: float
    local_oscillators_j: float
    receivers_j: float
    converters_j: float

    @classmethod
    def parts(cls) -> tuple[str, ...]:
        """Names of what adds up to the whole."""
        return tuple(OpticalJoules.model_fields)


class VolumeDetails(OpticalJoules):
    """More columns of tiles.parquet for a volume: its performance as designed, what it is made of, what it takes.

    ``features_ratio``: voxels over inputs · outputs (Kulce, Mengu, Rivenson and Ozcan, Light Sci. Appl. 10, 196, 2021:
    a complex matrix needs at least 1 with amplitude and phase free, about 2 with the phase alone).
    ``signal_to_noise``: of an output at full scale over the receivers' noise, as a ratio of amplitudes.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    node: str
    vectors: int
    layers: int
    voxels: int
    error: float
    efficiency: float
    crosstalk: float
    features_ratio: float
    signal_to_noise: float
    write_s: float


class OpticalEnergy(OpticalJoules):
    """The same of the block, on the calibration data; ``light_per_mac_j`` is what shines in, not what the wall gives.

    In ``latency_s`` the host takes no time; ``read_time_s`` is that of one vector. ``needed_photons_per_mac``: with
    each tile's light as weak as its receivers allow, their noise then a step of its converters.

    ``post_matrix_j`` and ``post_matrix_macs`` come to it where the block is trimmed by a digital matrix behind each
    volume (``verify --post-matrix``); ``per_inference_j`` does not hold them.
    """

    per_inference_j: float
    per_mac_j: float
    light_per_mac_j: float
    photons_per_mac: float
    needed_photons_per_mac: float
    latency_s: float
    read_time_s: float
    post_matrix_macs: int = 0
    post_matrix_j: float = 0.0


class Glass(Part):
    """The block: what is written into it, how good it was designed, how long it takes to write.

    ``worst_error`` and ``mean_error`` are of tiles' matrices, ``least_signal_to_noise`` of their outputs at full scale.
    """

    thickness_um: float
    volume_mm3: float
    voxels: int
    weights_per_mm3: float
    worst_error: float
    mean_error: float
    mean_efficiency: float
    worst_crosstalk: float
    least_signal_to_noise: float
    write_s: float


class Area(Part):
    """Silicon: the tiles, what is left of the chip's frame, and what stands around tiles and is not drawn."""

    array_mm2: float
    streets_mm2: float
    periphery_mm2: float
    total_mm2: float


class WireLoad(Part):
    """The heaviest load of one kind of wire on the chip against the limit of electromigration, in amperes.

    ``average_a``: root mean square on the calibration data while the tile is read; ``full_scale_a``: all of the rows at
    full scale at once, in the same tile.
    """

    wire: str
    average_a: float
    full_scale_a: float
    limit_a: float

    @property
    def share(self) -> float:
        """How much of the limit is used."""
        return self.average_a / self.limit_a

    def scaled(self, factor: float) -> WireLoad:
        """The load at another voltage."""
        currents = {"average_a": factor * self.average_a, "full_scale_a": factor * self.full_scale_a}
        return self.model_copy(update=currents)


class Choice(Part):
    """One thing that a contraction got, what it costs beyond the least that is offered, and the error with that least.

    ``name``: "input_bits", "output_bits", "copies" or "slices".
    """

    name: str
    value: int
    area_mm2: float
    error_without: float


class SizingEntry(Part):
    """What one contraction got, what it costs, and what it adds to the relative error of the output by prediction.

    ``area_mm2``: of its tiles with their streets and what stands around them; ``least_area_mm2``: with the least of
    everything that is offered.
    """

    node: str
    choices: tuple[Choice, ...]
    area_mm2: float
    least_area_mm2: float
    relative_error: float


class SizingTrial(Part):
    """A size of tiles and a width of column wires, and the smallest chip with them that was found to hold.

    One for the whole chip: its tiles share their masks. ``area_mm2`` is None where nothing that is offered holds; error
    and agreement are then the best.
    """

    rows: int
    columns: int
    column_wire_um: float
    tiles: int
    area_mm2: float | None
    relative_error: float
    agreement: float


class Sizing(Part):
    """What was asked for, and what is reached on the calibration data.

    ``trials``: what was weighed for tiles and wires; the first is what was chosen.

    By ``chips`` chips as made and trimmed on average, or by the chip as drawn, whichever is worse; errors are more and
    agreements less by one standard error. Where the model is less sure than on these data, the agreement is smaller:
    samples that it was trained on say too much.
    """

    asked_relative_error: float | None
    asked_agreement: float | None
    relative_error: float
    agreement: float
    chips: int
    samples: int
    contractions: tuple[SizingEntry, ...]
    trials: tuple[SizingTrial, ...] = ()


class Compensation(Part):
    """What compensating the wires costs.

    ``loading``: r·G_max·N, the resistance of a whole wire of the tile against its strongest strip; ``least_share`` and
    ``mean_share``: how much of the scale that ideal wires would allow is left to tiles.
    """

    loading: float
    least_share: float
    mean_share: float
