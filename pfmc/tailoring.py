"""Which size of tiles and width of wires a chip gets for an accuracy that a user asks for.

Both are chosen once for a chip: its tiles share the masks that no weight changes, and the array that is drawn once for
all of them. A smaller tile wastes less on small matrices, and its wires are shorter; what stands around it grows in
proportion to its sides. Wider wires need strips further apart. Sizes are ranked by area; the technology's own, the best
of those, and the best with each wider wire are then sized in full.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from pfmc.bench import Bench, Requirement
from pfmc.netlist.netlist import Netlist, Provision
from pfmc.observer import Observer
from pfmc.sections import Sizing, SizingTrial
from pfmc.sizing import Cut, Sized, least_area, section, sized
from pfmc.technology.schema import Technology


def tailored(
    technology: Technology,
    cut: Callable[[Technology], Netlist],
    bench: Callable[[Technology], Bench],
    requirement: Requirement,
    observer: Observer,
    *,
    sizes: bool,
) -> tuple[Technology, Mapping[str, Provision], Sizing]:
    """The technology with the chosen tile and wires, what each contraction gets, and what was weighed.

    Args:
        cut: the netlist of blocks in a technology, without scales.
        bench: chips of a technology.
        sizes: whether other tiles than the technology's are weighed.

    Raises:
        CapacityError: if the best that the technology offers is not enough.
    """

    def area(size: Technology) -> float:
        return least_area(Cut.of(cut(size).tiles), size)

    smallest = min(ladder(technology), key=area) if sizes else technology
    candidates = [smallest, *map(smallest.with_wires, smallest.cell.wider_wires)]
    if smallest is not technology:
        candidates.append(technology)
    found, samples = [], 0
    for number, candidate in enumerate(candidates, start=1):
        observer.stage(f"tiles and wires {number} of {len(candidates)}: {_name(candidate)}")
        tried = bench(candidate)
        found.append(sized(tried, requirement, observer))
        samples = tried.dataset.samples
    best = min(found, key=lambda one: (one.area, one.measured.relative_error))
    if best.provisions is None:
        raise best.refusal(requirement)
    others = [one for one in found if one is not best]
    trials = tuple(_trial(one) for one in (best, *others))
    return best.technology, best.provisions, section(best, requirement, samples).model_copy(update={"trials": trials})


def ladder(technology: Technology) -> Iterator[Technology]:
    """With every tile that is offered, the technology's own first: its sides halved."""

    def halves(side: int) -> Iterator[int]:
        yield side
        while side % 2 == 0 and side // 2 >= technology.offer.tile_side_min.value:
            side //= 2
            yield side

    tile = technology.tile
    for rows in halves(int(tile.rows.value)):
        for columns in halves(int(tile.columns.value)):
            own = (rows, columns) == (tile.rows.value, tile.columns.value)
            yield technology if own else technology.with_tile(rows, columns)


def _name(technology: Technology) -> str:
    tile, wire = technology.tile, technology.cell.column_wire_width
    return f"{tile.rows.value:g} x {tile.columns.value:g}, {wire.value:g} {wire.unit}"


def _trial(one: Sized) -> SizingTrial:
    tile, counted = one.technology.tile, one.provisions or {}
    return SizingTrial(
        rows=int(tile.rows.value),
        columns=int(tile.columns.value),
        column_wire_um=round(one.technology.cell.column_wire_width.si * 1e6, 6),
        tiles=sum(one.cuts[node].tiles * provision.tiles for node, provision in counted.items()),
        area_mm2=None if one.provisions is None else 1e6 * one.area,
        relative_error=one.measured.relative_error,
        agreement=one.measured.agreement,
    )
