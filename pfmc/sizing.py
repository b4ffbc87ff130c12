"""How good converters, how many copies and slices each contraction needs for an accuracy that a user asks for.

What converters, the grid and the process add to the error of a model's output is measured contraction by contraction on
the calibration data, on chips as they are made and trimmed. Those errors are independent, so their squares add up; a
converter's falls by four with every bit, that of devices with the number of copies, and a second slice of significance
takes that of the grid away. The cheapest provision by that rule is then made and measured as a whole, and asked for
more or less until it holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from pfmc.bench import CHIPS, Bench, Measured, Requirement, Share
from pfmc.budget import tile_ground
from pfmc.errors import CapacityError
from pfmc.netlist.netlist import Provision, Tile
from pfmc.observer import Observer
from pfmc.sections import Choice, Sizing, SizingEntry
from pfmc.technology.schema import Offer, Technology

TRIALS: Final = 8  # provisions that are made as a whole
CHOICES: Final = ("input_bits", "output_bits", "copies", "slices")
FIRST_ERROR: Final = 0.1  # relative error to try first where an agreement is asked for


@dataclass(frozen=True)
class Cut:
    """Of a contraction, or several: tiles without copies, and how many sets of input converters they have."""

    tiles: int
    feeds: int

    @classmethod
    def of(cls, tiles: Sequence[Tile]) -> Cut:
        """Counted."""
        return cls(len(tiles), len({tile.feed for tile in tiles}))


@dataclass(frozen=True)
class Sized:
    """What was found for one size of tiles and width of wires.

    Attributes:
        provisions: with the smallest area that holds; None: the best that is offered is not enough.
        measured: of chips with them, or with the best.
        area: square metres of tiles and what stands around them.
        worst: the contraction that adds most where nothing holds.
        shares: of each contraction.
    """

    technology: Technology
    cuts: Mapping[str, Cut]
    provisions: Mapping[str, Provision] | None
    measured: Measured
    area: float
    worst: str
    shares: Mapping[str, Share]

    def refusal(self, requirement: Requirement) -> CapacityError:
        """Why it is not enough."""
        return CapacityError(
            f"{requirement} is out of reach: chips as made reach {self.measured.relative_error:.3g} and"
            f" {self.measured.agreement:.4g} with all that the technology offers",
            f"contraction {self.worst} adds most",
            "a technology with less mismatch, or a weaker requirement",
        )


def sized(bench: Bench, requirement: Requirement, observer: Observer) -> Sized:
    """The provision with the smallest area that holds."""
    technology, most = bench.technology, _most(bench.technology.offer)
    cuts = {node.name: Cut.of(found) for node, found in bench.netlist.by_node()}
    floor, shares = bench.shares(observer)
    progress = observer.stage("choosing converters, copies and slices", TRIALS)
    goal, holds, fails = requirement.relative_error or FIRST_ERROR, 0.0, np.inf
    best: tuple[dict[str, Provision], Measured] | None = None
    measured = Measured(np.inf, 0.0)
    for trial in range(TRIALS):
        provisions = _cheapest(goal, floor, shares, cuts, technology)
        if best is None and (trial == TRIALS - 1 or floor + _total(shares, provisions, technology) > goal**2):
            provisions = dict.fromkeys(provisions, most)
        measured = bench.measured(provisions)
        progress(1)
        if requirement.met(measured):
            holds = goal
            best = provisions, measured
        else:
            fails = goal
            if all(provision == most for provision in provisions.values()):
                break
        goal = float(np.sqrt(holds * fails)) if holds and fails < np.inf else goal * (1.5 if holds else 0.6)
    worst = max(shares, key=lambda node: predicted(shares[node], most, Provision.standard(technology)))
    if best is None:
        return Sized(technology, cuts, None, measured, np.inf, worst, shares)
    provisions, measured = best
    total = sum(_area(provision, cuts[node], technology) for node, provision in provisions.items())
    return Sized(technology, cuts, provisions, measured, total, worst, shares)


def predicted(share: Share, provision: Provision, usual: Provision) -> float:
    """Mean square of the relative error that a contraction adds with a provision."""
    inputs = share.inputs * 4.0 ** (usual.input_bits - provision.input_bits)
    outputs = share.outputs * 4.0 ** (usual.output_bits - provision.output_bits)
    rounding = share.rounding if provision.slices == 1 else 0.0
    return inputs + rounding + share.feeds + (outputs + share.devices) / provision.copies


def _total(shares: Mapping[str, Share], provisions: Mapping[str, Provision], technology: Technology) -> float:
    usual = Provision.standard(technology)
    return sum(predicted(shares[node], provision, usual) for node, provision in provisions.items())


def _least(offer: Offer) -> Provision:
    return Provision(int(offer.input_bits_min.value), int(offer.output_bits_min.value))


def _most(offer: Offer) -> Provision:
    bits = int(offer.input_bits_max.value), int(offer.output_bits_max.value)
    return Provision(*bits, copies=int(offer.copies_max.value), slices=2)


def _better(provision: Provision, most: Provision) -> Iterator[Provision]:
    """One step up, in each direction that is left."""
    for name in CHOICES:
        if getattr(provision, name) < getattr(most, name):
            yield replace(provision, **{name: getattr(provision, name) + 1})


def _cheapest(
    goal: float, floor: float, shares: Mapping[str, Share], cuts: Mapping[str, Cut], technology: Technology
) -> dict[str, Provision]:
    """From the least provision upwards, always what lowers the error most for its area, until it is predicted to do.

    What lowers no error is left alone, even where that is not enough.
    """
    usual, most = Provision.standard(technology), _most(technology.offer)
    chosen = dict.fromkeys(shares, _least(technology.offer))

    def worth(node: str, better: Provision) -> float:
        gained = predicted(shares[node], chosen[node], usual) - predicted(shares[node], better, usual)
        return gained / (_area(better, cuts[node], technology) - _area(chosen[node], cuts[node], technology))

    while floor + _total(shares, chosen, technology) > goal**2:
        steps = [(worth(node, better), node, better) for node in shares for better in _better(chosen[node], most)]
        gain, node, better = max(steps, key=lambda step: step[0], default=(0.0, "", usual))
        if gain <= 0:
            break
        chosen[node] = better
    return chosen


def _area(provision: Provision, cut: Cut, technology: Technology) -> float:
    """Square metres of a contraction's tiles, with their share of the streets and what stands around them."""
    tiles = provision.tiles * cut.tiles
    return tiles * tile_ground(technology, provision, tiles / cut.feeds)


def least_area(cut: Cut, technology: Technology) -> float:
    """Square metres of so many tiles with the least that is offered."""
    return _area(_least(technology.offer), cut, technology)


def section(found: Sized, requirement: Requirement, samples: int) -> Sizing:
    """What was chosen for each contraction, as the manifest says it."""
    return Sizing(
        asked_relative_error=requirement.relative_error,
        asked_agreement=requirement.agreement,
        relative_error=found.measured.relative_error,
        agreement=found.measured.agreement,
        chips=CHIPS,
        samples=samples,
        contractions=tuple(_entries(found)),
    )


def _entries(found: Sized) -> Iterator[SizingEntry]:
    technology, usual = found.technology, Provision.standard(found.technology)
    for node, provision in (found.provisions or {}).items():
        share, cut = found.shares[node], found.cuts[node]
        area = _area(provision, cut, technology)

        def choice(name: str, provision: Provision = provision, cut: Cut = cut, share: Share = share) -> Choice:
            without = replace(provision, **{name: getattr(_least(technology.offer), name)})
            return Choice(
                name=name,
                value=getattr(provision, name),
                area_mm2=1e6 * (_area(provision, cut, technology) - _area(without, cut, technology)),
                error_without=float(np.sqrt(predicted(share, without, usual))),
            )

        yield SizingEntry(
            node=node,
            choices=tuple(choice(name) for name in CHOICES),
            area_mm2=1e6 * area,
            least_area_mm2=1e6 * least_area(cut, technology),
            relative_error=float(np.sqrt(predicted(share, provision, usual))),
        )
