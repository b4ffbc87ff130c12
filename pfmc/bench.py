"""Chips that are made before anything is drawn, to measure what an accuracy asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from pfmc.backend import TileAsBuilt
from pfmc.bundle import TileRecord
from pfmc.check.compare import Comparison
from pfmc.check.monte_carlo import Fabrication
from pfmc.data import Dataset
from pfmc.frontend.runtime import Runtime
from pfmc.netlist.netlist import Netlist, Provision, Tile
from pfmc.observer import Observer
from pfmc.physics.variation import EFFECTS, Variation
from pfmc.primitives.crossbar import CrossbarTile
from pfmc.slices import slice_of
from pfmc.technology.schema import Technology

CHIPS: Final = 8  # that a provision is judged on
CHIPS_ALONE: Final = 2  # that one contraction's share is measured on
SAMPLES: Final = 1024  # of the calibration data
FINE_BITS: Final = 20  # of converters that add nothing


@dataclass(frozen=True)
class Requirement:
    """What a user asks for, of the worst output: a largest relative error, a least agreement, or both."""

    relative_error: float | None = None
    agreement: float | None = None

    @classmethod
    def of(cls, relative_error: float | None, agreement: float | None) -> Requirement | None:
        """None if nothing is asked for."""
        return None if relative_error is None and agreement is None else cls(relative_error, agreement)

    def met(self, measured: Measured) -> bool:
        """Whether a measurement is good enough."""
        error = self.relative_error is None or measured.relative_error <= self.relative_error
        return error and (self.agreement is None or measured.agreement >= self.agreement)

    def __str__(self) -> str:
        error = [] if self.relative_error is None else [f"relative error ≤ {self.relative_error:g}"]
        return ", ".join(error + ([] if self.agreement is None else [f"agreement ≥ {self.agreement:g}"]))


@dataclass(frozen=True)
class Measured:
    """Of the worst output: the mean over some made chips, or that of the chip as drawn, whichever is worse.

    Worse by one standard error, for other chips than these will be made: the agreement's is of samples too.
    """

    relative_error: float
    agreement: float


@dataclass(frozen=True)
class Share:
    """Mean square of the relative error that one contraction adds.

    Attributes:
        devices: what differs from device to device, with one copy.
        inputs, outputs: of its converters, with the technology's bits.
        rounding: what the grid of lengths leaves, with one slice.
        feeds: what differs from input converter to input converter, which copies share.
    """

    devices: float
    inputs: float
    outputs: float
    rounding: float = 0.0
    feeds: float = 0.0


@dataclass(frozen=True, eq=False)
class Built:
    """A tile as it would be made, and the second slice of its block."""

    tile: Tile
    drawn: TileAsBuilt
    second: Built | None = None


@dataclass(frozen=True, eq=False)
class Bench:
    """Makes chips of a netlist before anything is drawn.

    Attributes:
        host: the host model.
        reference: outputs of the original model on the dataset.
        built: a tile for each block.
    """

    technology: Technology
    netlist: Netlist
    host: Path
    dataset: Dataset
    reference: Mapping[str, np.ndarray]
    built: Sequence[Built]
    seed: int

    @classmethod
    def of(
        cls,
        technology: Technology,
        netlist: Netlist,
        host: Path,
        dataset: Dataset,
        original: Runtime,
        seed: int,
    ) -> Bench:
        """Programmes every tile and its second slice once; the whole netlist is in memory."""
        primitive = CrossbarTile.of(technology)
        built = [_built(technology, primitive, tile, block) for tile, block in netlist.blocks()]
        few = dataset.take(SAMPLES)
        return cls(technology, netlist, host, few, original.run(few), built, seed)

    def fabrication(self, provisions: Mapping[str, Provision]) -> Fabrication:
        """Chips with these provisions, each to be trimmed by its own measurement."""
        volts = self.technology.converters.input_voltage.si
        records, built = [], []
        for one in self.built:
            provision = provisions[one.tile.node]
            together = [one] * provision.copies + ([one.second] if provision.slices > 1 and one.second else [])
            for copy, part in enumerate(together):
                provided = replace(part.tile, name=f"{part.tile.name}-{copy}", provision=provision, copy=copy)
                records.append(TileRecord.of(provided, "", 0, 0, volts))
                built.append(part.drawn)
        return Fabrication.of(self.technology, self.host, records, built, self.dataset, seed=self.seed, trim=True)

    def measured(self, provisions: Mapping[str, Provision]) -> Measured:
        """Of whole chips as they are made."""
        fabrication = self.fabrication(provisions)
        made = [
            fabrication.compared(number, fabrication.variation, self.dataset, self.reference) for number in range(CHIPS)
        ]
        drawn = replace(fabrication, trim=None).compared(0, fabrication.maker.still, self.dataset, self.reference)
        errors, agreements = [_largest_error(chip) for chip in made], [_least_agreement(chip) for chip in made]
        samples = self.dataset.samples
        return Measured(
            max(float(np.mean(errors)) + standard_error(errors), _largest_error(drawn)),
            min(least(agreements, samples), least([_least_agreement(drawn)], samples)),
        )

    def shares(self, observer: Observer) -> tuple[float, dict[str, Share]]:
        """What every contraction adds, and the mean square that remains where none adds anything."""
        usual = Provision.standard(self.technology)
        nodes = [node.name for node, _ in self.netlist.by_node()]
        fine = dict.fromkeys(nodes, Provision(FINE_BITS, FINE_BITS, slices=2))
        progress = observer.stage("measuring each contraction", 5 * len(nodes))
        base = self.fabrication(fine)
        floor = self._square(base, 0, base.maker.still)
        gains = {name: getattr(base.variation, name) for name in EFFECTS["converters"]}
        converters = replace(base.maker.still, **gains)  # a trim takes those of the outputs away

        def added(fabrication: Fabrication, node: str | None = None, variation: Variation | None = None) -> float:
            progress(1)
            chips = range(CHIPS_ALONE if node else 1)
            squares = [self._square(fabrication, k, variation or fabrication.maker.still, node) for k in chips]
            return max(0.0, float(np.mean(squares)) - floor)

        shares = {}
        for node in nodes:
            inputs = self.fabrication({**fine, node: replace(fine[node], input_bits=usual.input_bits)})
            outputs = self.fabrication({**fine, node: replace(fine[node], output_bits=usual.output_bits)})
            rounding = self.fabrication({**fine, node: replace(fine[node], slices=1)})
            feeds = added(base, node, converters)
            devices = max(0.0, added(base, node, base.variation) - feeds)
            shares[node] = Share(devices, added(inputs), added(outputs), added(rounding), feeds)
        return floor, shares

    def _square(self, fabrication: Fabrication, chip: int, variation: Variation, node: str | None = None) -> float:
        """Square of the relative error of a chip of which contraction ``node`` varies so, the others are as drawn."""
        comparison = fabrication.compared(chip, variation, self.dataset, self.reference, node)
        return float(np.square(_largest_error(comparison)))


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of numbers, one per chip; zero for one chip, and where one of them is not finite."""
    known = len(values) > 1 and np.isfinite(values).all()
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if known else 0.0


def least(agreements: Sequence[float], samples: int) -> float:
    """Mean of the chips' agreements less one standard error: of other chips, and of other samples of the same kind."""
    mean = float(np.mean(agreements))
    return mean - float(np.hypot(np.sqrt(mean * (1 - mean) / samples), standard_error(agreements)))


def _largest_error(comparison: Comparison) -> float:
    errors = [output.relative_error for output in comparison.outputs.values()]
    return max(np.inf if error is None else error for error in errors)


def _least_agreement(comparison: Comparison) -> float:
    return min(output.agreement for output in comparison.outputs.values())


def _built(
    technology: Technology, primitive: CrossbarTile, tile: Tile, block: Float[np.ndarray, "rows columns"]
) -> Built:
    def drawn(tile: Tile, lengths: Int[np.ndarray, "rows columns 2"]) -> TileAsBuilt:
        width = np.full(lengths.shape, technology.cell.strip_width.si)
        unit, resistance = technology.grid.database_unit.si, primitive.resistance(lengths)
        wires = primitive.network(lengths).wires
        return TileAsBuilt(tile.name, resistance, wires, lengths.size, length=lengths * unit, width=width)

    (m, n), lengths = block.shape, primitive.program(block, tile.scale, compensate=tile.compensated).lengths
    left = primitive.left(block, tile.scale, lengths[:m, :n])
    second = slice_of(tile, left, primitive)
    if second is None:
        return Built(tile, drawn(tile, lengths))
    fine = primitive.program(left, second.scale, compensate=second.compensated).lengths
    return Built(tile, drawn(tile, lengths), Built(second, drawn(second, fine)))
