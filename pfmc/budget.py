"""What a chip draws, takes and bears: energy, time, area by the technology's figures, currents against its limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from pfmc.errors import PassError
from pfmc.layout.layout import Layout, tile_extent
from pfmc.netlist.netlist import Provision, Tile
from pfmc.physics import energy
from pfmc.primitives.crossbar import CrossbarTile, Programmed
from pfmc.sections import Area, Energy, Layer, TileEnergy, WireLoad
from pfmc.technology.schema import Technology
from pfmc.uses import in_lane, layers, macs_on_tiles


def read_time(technology: Technology, output_bits: int) -> float:
    """Seconds of a matrix-vector product: settling, then the conversions of the columns that share a converter."""
    periphery = technology.periphery
    settling = energy.settling_time(periphery.amplifier_bandwidth.si, output_bits)
    return settling + periphery.columns_per_adc.value * periphery.adc_time.si


def tile_energy(
    technology: Technology,
    conductance: Float[np.ndarray, "rows columns"],
    mean_square: Float[np.ndarray, " rows"],
    columns: int,
    provision: Provision,
    beside: int = 1,
) -> dict[str, float]:
    """Joules of one matrix-vector product of one tile, by what takes them.

    Args:
        conductance: of all devices on the driven rows, siemens.
        mean_square: of the rows' voltages, V².
        columns: of the block: those that are converted.
        provision: its converters.
        beside: tiles that share its input converters, itself among them; each counts its part of a conversion.
    """
    periphery, time = technology.periphery, read_time(technology, provision.output_bits)
    rows = len(mean_square)
    array = energy.resistive_power(conductance, mean_square)
    supply = energy.supply_power(conductance, mean_square, periphery.supply_voltage.si)
    dac = energy.conversion_energy(periphery.dac_energy_per_step.si, provision.input_bits)
    adc = energy.conversion_energy(periphery.adc_energy_per_step.si, provision.output_bits)
    return {
        "resistive_j": array * time,
        "output_stages_j": (supply - array) * time,
        "drivers_j": rows * periphery.driver_power.si * time,
        "amplifiers_j": columns * periphery.amplifier_power.si * time,
        "converters_j": rows * dac / beside + columns * adc,
    }


def shared_inputs(tiles: Iterable[Tile]) -> dict[str, int]:
    """How many tiles share the input converters of each, itself among them, by name: those of the same feed."""
    tiles = list(tiles)
    found = Counter(tile.feed for tile in tiles)
    return {tile.name: found[tile.feed] for tile in tiles}


def tile_area(technology: Technology, provision: Provision, beside: float = 1) -> tuple[float, float]:
    """Square metres of a tile's array, and of what stands around it: for all its rows and columns, used or not.

    ``beside``: tiles that share its input converters, itself among them, on average of several; each counts its part of
    their area.
    """
    _, _, width, height = tile_extent(technology)
    periphery, tile, usual = technology.periphery, technology.tile, Provision.standard(technology)
    doubling = technology.offer.converter_area_doubling.value
    dac = 0.0 if periphery.dac_area is None else periphery.dac_area.si
    driver = (periphery.driver_area.si - dac + dac / beside) * 2.0 ** (
        (provision.input_bits - usual.input_bits) / doubling
    )
    adc = periphery.adc_area.si * 2.0 ** ((provision.output_bits - usual.output_bits) / doubling)
    adcs = -(-int(tile.columns.value) // int(periphery.columns_per_adc.value))
    around = tile.rows.value * driver + tile.columns.value * periphery.amplifier_area.si + adcs * adc
    return width * height * technology.grid.database_unit.si**2, around


def tile_ground(technology: Technology, provision: Provision, beside: float) -> float:
    """Square metres of a tile with its share of the streets, and of what stands around it; see :func:`tile_area`."""
    _, _, width, height = tile_extent(technology)
    street, unit = technology.chip.tile_spacing.si, technology.grid.database_unit.si
    return (width * unit + street) * (height * unit + street) + tile_area(technology, provision, beside)[1]


def area(layout: Layout) -> Area:
    """Of the chip's frame and of what stands around its tiles."""
    technology, to_mm = layout.technology, 1e6
    chip = layout.width * layout.height * technology.grid.database_unit.si**2
    beside = shared_inputs(layout.netlist.tiles)
    each = [tile_area(technology, provision_of(tile), beside[tile.name]) for tile in layout.netlist.tiles]
    array, around = (sum(part) for part in zip(*each, strict=True))
    return Area(
        array_mm2=array * to_mm,
        streets_mm2=(chip - array) * to_mm,
        periphery_mm2=around * to_mm,
        total_mm2=(chip + around) * to_mm,
    )


@dataclass(frozen=True, eq=False)
class _Noted:
    """A tile at the technology's voltage: conductance of all devices on each driven row, and what wires would carry."""

    rows: Float[np.ndarray, " rows"]
    loads: tuple[WireLoad, ...]


@dataclass(frozen=True, eq=False)
class Metered:
    """A layout's programme that notes what each tile draws when its devices are asked for.

    Attributes:
        vectors: matrix-vector products per inference; see :func:`pfmc.uses.vectors_per_inference`.
        noted: by tile.
    """

    layout: Layout
    primitive: CrossbarTile
    vectors: Mapping[str, Sequence[int]]
    noted: dict[str, _Noted] = field(default_factory=dict)

    @classmethod
    def of(cls, layout: Layout, vectors: Mapping[str, Sequence[int]]) -> Metered:
        """With nothing noted."""
        return cls(layout, CrossbarTile.of(layout.technology), vectors)

    def devices(self, tile: Tile) -> Programmed:
        """See :class:`pfmc.layout.layout.Programme`."""
        programmed, technology = self.layout.programme.devices(tile), self.layout.technology
        driven = self.primitive.resistance(programmed.lengths[: len(tile.rows)])
        conductance = 1.0 / driven.reshape(len(tile.rows), -1)
        volts = technology.converters.input_voltage.si
        loads = wire_loads(technology, conductance, mean_square_voltage(tile, volts), volts)
        self.noted[tile.name] = _Noted(conductance.sum(axis=1), tuple(loads))
        return programmed

    def volts(self) -> dict[str, float]:
        """Full scale on the rows of every tile: the technology's voltage, or what its wires bear on the data.

        Tiles that stand side by side share drivers, and so their voltage. A tile whose devices nobody asked for is
        looked at now.
        """
        share: dict[tuple[str, int], float] = {}
        for placed in self.layout.tiles:
            tile = placed.tile
            if tile.name not in self.noted:
                self.devices(tile)
            beside = tile.node, tile.rows.start
            share[beside] = max(share.get(beside, 1.0), *(load.share for load in self.noted[tile.name].loads))
        full = self.layout.technology.converters.input_voltage.si
        return {tile.name: full / share[tile.node, tile.rows.start] for tile in self.layout.netlist.tiles}

    def energies(self, volts: Mapping[str, float]) -> list[TileEnergy]:
        """Of every tile at these voltages, in the order of the layout."""
        found, beside = [], shared_inputs(self.layout.netlist.tiles)
        for tile in (placed.tile for placed in self.layout.tiles):
            rows, mean_square = self.noted[tile.name].rows, mean_square_voltage(tile, volts[tile.name])
            spent = tile_energy(
                self.layout.technology,
                rows[:, None],
                mean_square,
                len(tile.columns),
                provision_of(tile),
                beside[tile.name],
            )
            vectors = in_lane(self.vectors[tile.node], tile.lane, tile.lanes)
            per_inference = {name: vectors * joules for name, joules in spent.items()}
            found.append(TileEnergy(name=tile.name, node=tile.node, vectors=vectors, **per_inference))
        return found

    def sections(self, volts: Mapping[str, float]) -> dict[str, Any]:
        """The manifest's sections."""
        macs = macs_on_tiles(self.layout.netlist, self.vectors)
        full = self.layout.technology.converters.input_voltage.si
        heaviest: dict[str, WireLoad] = {}
        for name, noted in self.noted.items():
            for load in (load.scaled(volts[name] / full) for load in noted.loads):
                heaviest[load.wire] = max(heaviest.get(load.wire, load), load, key=lambda each: each.average_a)
        times = {
            tile.node: read_time(self.layout.technology, provision_of(tile).output_bits)
            for tile in self.layout.netlist.tiles
        }
        lanes = {tile.node: tile.lanes for tile in self.layout.netlist.tiles}
        used = layers(self.vectors, lanes, times)
        return {
            "energy": self._energy(volts, macs, used),
            "layers": used,
            "area": area(self.layout),
            "wire_loads": tuple(heaviest.values()),
        }

    def _energy(self, volts: Mapping[str, float], macs: int, used: Sequence[Layer]) -> Energy:
        """The sum of tiles, and the time of an inference: contractions follow one another, the host takes no time."""
        found = self.energies(volts)
        parts = {name: sum(getattr(tile, name) for tile in found) for name in TileEnergy.parts()}
        total = sum(parts.values())
        return Energy(
            per_inference_j=total,
            per_mac_j=total / max(macs, 1),
            latency_s=sum(layer.latency_s for layer in used),
            read_time_s=max(layer.read_s for layer in used),
            **parts,
        )


def provision_of(tile: Tile) -> Provision:
    """What a tile was given.

    Raises:
        PassError: if it was given nothing.
    """
    if tile.provision is None:
        raise PassError("the tile has no converters", f"tile {tile.name}", "the pipeline needs the provide pass")
    return tile.provision


def mean_square_voltage(tile: Tile, volts: float) -> Float[np.ndarray, " rows"]:
    """Of the voltage on each row that the tile's block has, V², on the calibration data; ``volts`` is full scale.

    Raises:
        PassError: if the tile was not calibrated.
    """
    if tile.input_range is None or tile.mean_square is None:
        raise PassError("the tile has no input range", f"tile {tile.name}", "the pipeline needs the calibrate pass")
    return tile.mean_square * (volts / tile.input_range.high) ** 2


def wire_loads(
    technology: Technology,
    conductance: Float[np.ndarray, "rows columns"],
    mean_square: Float[np.ndarray, " rows"],
    volts: float,
) -> list[WireLoad]:
    """The largest current in a row wire, a column wire, and a strip with its contacts and via, against their limits.

    Those limit the average current (LEF: DCCURRENTDENSITY AVERAGE), for it is the average that drifts atoms. The root
    mean square on the data is at least that, and what is computed here is at least the root mean square; between reads
    nothing flows, which is not counted.
    """
    wires, cell = technology.wires, technology.cell
    average = np.sqrt(mean_square)
    full = np.full_like(average, volts)
    rows, columns = zip(*(energy.wire_current(conductance, each) for each in (average, full)), strict=True)
    strips = [each[:, None] * conductance for each in (average, full)]
    limits = {
        "metal1": (rows, wires.metal1_current_limit.si * cell.row_wire_width.si),
        "metal2": (columns, wires.metal2_current_limit.si * cell.column_wire_width.si),
        "via1": (strips, wires.via1_current_limit.si),
        "contact": (strips, wires.contact_current_limit.si),
        "strip": (strips, technology.resistor.current_limit.si * cell.strip_width.si),
    }
    return [
        WireLoad(wire=name, average_a=float(a.max()), full_scale_a=float(f.max()), limit_a=limit)
        for name, ((a, f), limit) in limits.items()
    ]
