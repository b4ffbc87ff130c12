"""What is written down of a layout beside its files: rows of the table of tiles and sections of the manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pfmc.backend import Emission
from pfmc.budget import Metered
from pfmc.bundle import TileRecord
from pfmc.glass_budget import details, input_amplitude, sections
from pfmc.layout.glass import AnyLayout, GlassLayout
from pfmc.physics.network import wire_loading
from pfmc.primitives.volume import NAME
from pfmc.sections import ChipSize, Compensation, Part


@dataclass(frozen=True)
class Accounts:
    """Of a layout that was emitted.

    Attributes:
        records: of the tiles, in the order of the layout.
        details: more columns of the table, a row per tile.
        sections: of the manifest.
    """

    records: Sequence[TileRecord]
    details: Sequence[Part]
    sections: dict[str, Any]


def accounted(
    layout: AnyLayout, vectors: Mapping[str, Sequence[int]]
) -> tuple[AnyLayout, Callable[[Emission], Accounts]]:
    """The layout to emit, and what to ask for its accounts once it is emitted.

    Args:
        vectors: matrix-vector products per inference; see :func:`pfmc.uses.vectors_per_inference`.
    """
    if isinstance(layout, GlassLayout):
        return layout, lambda emission: _of_glass(layout, vectors, emission)
    meter = Metered.of(layout, vectors)
    return replace(layout, programme=meter), lambda _emission: _of_crossbars(meter)


def _of_crossbars(meter: Metered) -> Accounts:
    layout, primitive, volts = meter.layout, meter.primitive, meter.volts()
    unit = layout.technology.grid.database_unit.si
    shares = [tile.scale_share for tile in layout.netlist.tiles]
    x = wire_loading(primitive.conductance_max, primitive.wires, primitive.rows, 2 * primitive.columns)
    return Accounts(
        records=[TileRecord.of(p.tile, primitive.name, p.x, p.y, volts[p.tile.name]) for p in layout.tiles],
        details=meter.energies(volts),
        sections={
            "chip": _size(layout, unit),
            "compensation": Compensation(loading=x, least_share=min(shares), mean_share=sum(shares) / len(shares)),
            **meter.sections(volts),
        },
    )


def _of_glass(layout: GlassLayout, vectors: Mapping[str, Sequence[int]], emission: Emission) -> Accounts:
    full = input_amplitude(layout.technology)
    found = details(layout, vectors, emission.write_s)
    return Accounts(
        records=[TileRecord.of(p.tile, NAME, p.x, p.y, full) for p in layout.tiles],
        details=found,
        sections={"chip": _size(layout, 1e-9), **sections(layout, vectors, found)},
    )


def _size(layout: AnyLayout, unit: float) -> ChipSize:
    """``unit``: of the layout's numbers, metres."""
    return ChipSize(width_um=round(layout.width * unit * 1e6, 6), height_um=round(layout.height * unit * 1e6, 6))
