"""How good converters and how many copies each contraction needs for an accuracy that a user asks for.

What converters and the process add to the error of a model's output is measured contraction by contraction on the
calibration data, on chips as they are made and trimmed. Those errors are independent, so their squares add up; a
converter's falls by four with every bit, and that of devices with the number of copies. The cheapest provision by that
rule is then made and measured as a whole, and asked for more or less until it holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from pfmc.backend import TileAsBuilt
from pfmc.budget import tile_area
from pfmc.bundle import TileRecord
from pfmc.check.compare import Comparison
from pfmc.check.monte_carlo import Fabrication
from pfmc.data import Dataset
from pfmc.errors import CapacityError
from pfmc.frontend.runtime import Runtime
from pfmc.netlist.netlist import Netlist, Provision
from pfmc.observer import Observer
from pfmc.primitives.crossbar import CrossbarTile
from pfmc.sections import Sizing, SizingEntry
from pfmc.technology.schema import Offer, Technology

CHIPS: Final = 8  # that a provision is judged on; the mean of their errors is what counts
CHIPS_ALONE: Final = 2  # that one contraction's share is measured on
SAMPLES: Final = 1024  # of the calibration data
FINE_BITS: Final = 20  # of converters that add nothing
TRIALS: Final = 8  # provisions that are made as a whole
FIRST_ERROR: Final = 0.1  # relative error to try first where an agreement is asked for


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

    An agreement is less by one standard error, for other samples than these will be judged.
    """

    relative_error: float
    agreement: float


@dataclass(frozen=True)
class Share:
    """Mean square of the relative error that one contraction adds.

    Attributes:
        devices: with one copy.
        inputs, outputs: of its converters, with the technology's bits.
    """

    devices: float
    inputs: float
    outputs: float


@dataclass(frozen=True, eq=False)
class Bench:
    """Makes chips of a netlist before anything is drawn.

    Attributes:
        host: the host model.
        reference: outputs of the original model on the dataset.
    """

    technology: Technology
    netlist: Netlist
    host: Path
    dataset: Dataset
    reference: Mapping[str, np.ndarray]
    built: Sequence[TileAsBuilt]
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
        """Programmes every tile once; the whole netlist is in memory."""
        primitive, unit = CrossbarTile.of(technology), technology.grid.database_unit.si
        built = []
        for tile, block in netlist.blocks():
            lengths = primitive.program(block, tile.scale, compensate=tile.compensated).lengths
            width = np.full(lengths.shape, technology.cell.strip_width.si)
            resistance = primitive.resistance(lengths)
            built.append(
                TileAsBuilt(tile.name, resistance, primitive.wires, lengths.size, length=lengths * unit, width=width)
            )
        few = dataset.take(SAMPLES)
        return cls(technology, netlist, host, few, original.run(few), built, seed)

    def fabrication(self, provisions: Mapping[str, Provision]) -> Fabrication:
        """Chips with these provisions, each to be trimmed by its own measurement."""
        volts = self.technology.converters.input_voltage.si
        records, built = [], []
        for tile, one in zip(self.netlist.tiles, self.built, strict=True):
            for copy in range(provisions[tile.node].copies):
                provided = replace(tile, name=f"{tile.name}-{copy}", provision=provisions[tile.node], copy=copy)
                records.append(TileRecord.of(provided, "", 0, 0, volts))
                built.append(one)
        return Fabrication.of(self.technology, self.host, records, built, self.dataset, seed=self.seed, trim=True)

    def measured(self, provisions: Mapping[str, Provision]) -> Measured:
        """Of whole chips as they are made."""
        fabrication = self.fabrication(provisions)
        made = [
            fabrication.compared(number, fabrication.variation, self.dataset, self.reference) for number in range(CHIPS)
        ]
        drawn = replace(fabrication, trim=None).compared(0, fabrication.maker.still, self.dataset, self.reference)
        errors = [float(np.mean([_largest_error(chip) for chip in chips])) for chips in (made, [drawn])]
        agreements = [float(np.mean([_least_agreement(chip) for chip in chips])) for chips in (made, [drawn])]
        agreement = min(agreements)
        return Measured(max(errors), agreement - float(np.sqrt(agreement * (1 - agreement) / self.dataset.samples)))

    def shares(self, observer: Observer) -> tuple[float, dict[str, Share]]:
        """What every contraction adds, and the mean square that remains where none adds anything."""
        usual = Provision.standard(self.technology)
        nodes = [node.name for node, _ in self.netlist.by_node()]
        fine = dict.fromkeys(nodes, Provision(FINE_BITS, FINE_BITS))
        progress = observer.stage("measuring each contraction", 3 * len(nodes))
        base = self.fabrication(fine)
        floor = self._square(base, 0, still=True)

        def added(fabrication: Fabrication, node: str | None = None) -> float:
            progress(1)
            chips = range(CHIPS_ALONE if node else 1)
            return max(0.0, float(np.mean([self._square(fabrication, k, node) for k in chips])) - floor)

        shares = {}
        for node in nodes:
            inputs = self.fabrication({**fine, node: replace(fine[node], input_bits=usual.input_bits)})
            outputs = self.fabrication({**fine, node: replace(fine[node], output_bits=usual.output_bits)})
            shares[node] = Share(devices=added(base, node), inputs=added(inputs), outputs=added(outputs))
        return floor, shares

    def _square(self, fabrication: Fabrication, chip: int, node: str | None = None, *, still: bool = False) -> float:
        """Square of the relative error of a chip: of one whose contraction ``node`` alone is as made, or as drawn."""
        variation = fabrication.variation if node and not still else fabrication.maker.still
        comparison = fabrication.compared(chip, variation, self.dataset, self.reference, node)
        return float(np.square(_largest_error(comparison)))


def _largest_error(comparison: Comparison) -> float:
    errors = [output.relative_error for output in comparison.outputs.values()]
    return max(np.inf if error is None else error for error in errors)


def _least_agreement(comparison: Comparison) -> float:
    return min(output.agreement for output in comparison.outputs.values())


def sized(bench: Bench, requirement: Requirement, observer: Observer) -> tuple[dict[str, Provision], Sizing]:
    """The provision with the smallest area that holds, and what was found on the way.

    Raises:
        CapacityError: if the best that the technology offers is not enough.
    """
    offer, usual = bench.technology.offer, Provision.standard(bench.technology)
    tiles = {node.name: len(found) for node, found in bench.netlist.by_node()}
    floor, shares = bench.shares(observer)
    progress = observer.stage("choosing converters and copies", TRIALS)
    goal, holds, fails = requirement.relative_error or FIRST_ERROR, 0.0, np.inf
    best: tuple[dict[str, Provision], Measured] | None = None
    measured = Measured(np.inf, 0.0)
    for trial in range(TRIALS):
        provisions = _cheapest(goal, floor, shares, tiles, bench.technology)
        if best is None and trial == TRIALS - 1:
            provisions = dict.fromkeys(provisions, _most(offer))
        measured = bench.measured(provisions)
        progress(1)
        if requirement.met(measured):
            holds = goal
            best = provisions, measured
        else:
            fails = goal
            if all(p == _most(offer) for p in provisions.values()):
                break
        goal = float(np.sqrt(holds * fails)) if holds and fails < np.inf else goal * (1.5 if holds else 0.6)
    if best is None:
        worst = max(shares, key=lambda node: shares[node].devices / offer.copies_max.value)
        raise CapacityError(
            f"{requirement} is out of reach: chips as made reach {measured.relative_error:.3g} and"
            f" {measured.agreement:.4g} with all that the technology offers",
            f"contraction {worst} adds most",
            "a technology with less mismatch, or a weaker requirement",
        )
    provisions, measured = best
    entries = tuple(_entries(provisions, shares, tiles, bench.technology, usual))
    sizing = Sizing(
        asked_relative_error=requirement.relative_error,
        asked_agreement=requirement.agreement,
        relative_error=measured.relative_error,
        agreement=measured.agreement,
        chips=CHIPS,
        samples=bench.dataset.samples,
        contractions=entries,
    )
    return provisions, sizing


def predicted(share: Share, provision: Provision, usual: Provision) -> float:
    """Mean square of the relative error that a contraction adds with a provision."""
    inputs = share.inputs * 4.0 ** (usual.input_bits - provision.input_bits)
    outputs = share.outputs * 4.0 ** (usual.output_bits - provision.output_bits)
    return inputs + (outputs + share.devices) / provision.copies


def _least(offer: Offer) -> Provision:
    return Provision(int(offer.input_bits_min.value), int(offer.output_bits_min.value))


def _most(offer: Offer) -> Provision:
    return Provision(int(offer.input_bits_max.value), int(offer.output_bits_max.value), int(offer.copies_max.value))


def _better(provision: Provision, most: Provision) -> Iterator[Provision]:
    """One step up, in each direction that is left."""
    if provision.input_bits < most.input_bits:
        yield replace(provision, input_bits=provision.input_bits + 1)
    if provision.output_bits < most.output_bits:
        yield replace(provision, output_bits=provision.output_bits + 1)
    if provision.copies < most.copies:
        yield replace(provision, copies=provision.copies + 1)


def _cheapest(
    goal: float, floor: float, shares: Mapping[str, Share], tiles: Mapping[str, int], technology: Technology
) -> dict[str, Provision]:
    """From the least provision upwards, always what lowers the error most for its area, until it is predicted to do."""
    usual, most = Provision.standard(technology), _most(technology.offer)
    chosen = dict.fromkeys(shares, _least(technology.offer))

    def worth(node: str, better: Provision) -> float:
        gained = predicted(shares[node], chosen[node], usual) - predicted(shares[node], better, usual)
        return gained / (_area(better, tiles[node], technology) - _area(chosen[node], tiles[node], technology))

    while floor + sum(predicted(shares[node], chosen[node], usual) for node in shares) > goal**2:
        steps = [(worth(node, better), node, better) for node in shares for better in _better(chosen[node], most)]
        if not steps:
            break
        _, node, better = max(steps, key=lambda step: step[0])
        chosen[node] = better
    return chosen


def _area(provision: Provision, tiles: int, technology: Technology) -> float:
    """Square metres of a contraction's tiles and what stands around them."""
    return provision.copies * tiles * sum(tile_area(technology, provision))


def _entries(
    provisions: Mapping[str, Provision],
    shares: Mapping[str, Share],
    tiles: Mapping[str, int],
    technology: Technology,
    usual: Provision,
) -> Iterator[SizingEntry]:
    for node, provision in provisions.items():
        yield SizingEntry(
            node=node,
            input_bits=provision.input_bits,
            output_bits=provision.output_bits,
            copies=provision.copies,
            area_mm2=1e6 * _area(provision, tiles[node], technology),
            least_area_mm2=1e6 * _area(_least(technology.offer), tiles[node], technology),
            relative_error=float(np.sqrt(predicted(shares[node], provision, usual))),
        )
