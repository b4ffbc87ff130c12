"""What a technology file says: everything that depends on who fabricates, each number with its unit and its source."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from pfmc.technology.base import Model, Text, wrong
from pfmc.technology.cell import Cell, WiderWires, geometry
from pfmc.technology.design_rules import DesignRules
from pfmc.technology.quantities import (
    Area,
    Bits,
    Count,
    Current,
    CurrentPerWidth,
    Energy,
    Frequency,
    Length,
    Offset,
    Power,
    Quantity,
    Resistance,
    SheetResistance,
    Time,
    Voltage,
    WidthResistance,
    ZeroSheetResistance,
)
from pfmc.technology.variation import Variation


class Layer(Model):
    """A layer of the mask file."""

    name: Text
    number: int = Field(ge=0, le=32767, strict=True)
    datatype: int = Field(ge=0, le=32767, strict=True)
    source: Text

    @property
    def key(self) -> tuple[int, int]:
        """Layer number and datatype, as GDSII has them."""
        return self.number, self.datatype

    def __str__(self) -> str:
        return f"{self.number}/{self.datatype}"


class Layers(Model):
    """The layers, by what they are for. Text layers may coincide with pin layers; the others must differ."""

    poly: Layer  # the resistor strip
    contact: Layer  # from metal 1 to the strip's ends; personalised where it slides
    block: Layer  # keeps silicide off: personalised but where taps are
    marker: Layer  # tells the foundry's extractor where a resistor is: where the block is; not a mask
    metal1: Layer  # row wires
    metal2: Layer  # column wires
    via1: Layer  # personalised where taps are
    metal1_pin: Layer
    metal2_pin: Layer
    metal1_text: Layer
    metal2_text: Layer
    diffusion: Layer  # of the substrate contacts around a tile
    diffusion_implant: Layer  # what makes them such; it may be one of the blankets
    outline: Layer  # tile and chip frames; not a mask
    blankets: tuple[Layer, ...]  # implants and blocks drawn over the whole array

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        single = ("poly", "contact", "block", "marker", "metal1", "metal2", "via1", "diffusion", "outline")
        drawn = [(key, getattr(self, key)) for key in single] + [("blankets", layer) for layer in self.blankets]
        taken: dict[tuple[int, int], str] = {}
        for key, layer in drawn:
            if layer.key in taken:
                raise wrong(key, f"layer {layer} is that of {taken[layer.key]}")
            taken[layer.key] = key
        return self

    def drawn(self) -> dict[str, Layer]:
        """All of them, by name."""
        singles = [layer for _, layer in self if isinstance(layer, Layer)]
        return {layer.name: layer for layer in (*singles, *self.blankets)}


class Grid(Model):
    """Database unit of the files, and the manufacturing grid that every vertex must lie on."""

    database_unit: Length
    manufacturing: Length

    @model_validator(mode="after")
    def _whole(self) -> Self:
        steps = self.manufacturing.si / self.database_unit.si
        if round(steps) < 1 or abs(steps - round(steps)) > 1e-6:
            raise wrong("manufacturing", "is not a whole multiple of grid.database_unit")
        return self

    @property
    def step(self) -> int:
        """The manufacturing grid in database units."""
        return round(self.manufacturing.si / self.database_unit.si)

    def units(self, length: Quantity) -> int:
        """A length in database units.

        Raises:
            ValueError: if it does not lie on the manufacturing grid.
        """
        steps = length.si / self.manufacturing.si
        if abs(steps - round(steps)) > 1e-6:
            raise ValueError(f"{length.value} {length.unit} is not on the manufacturing grid")
        return round(steps) * self.step


class Resistor(Model):
    """The strip's electrical model: R = sheet · L / (W − reduction) + silicide and its edges + two terminals."""

    name: Text
    sheet_resistance: SheetResistance  # where the block covers the strip
    silicide_sheet_resistance: SheetResistance  # where it does not
    width_reduction: Offset  # drawn width minus electrical width
    terminal_resistance: WidthResistance  # of each end; divided by the electrical or drawn width, as said
    terminal_width: Literal["drawn", "electrical"]
    current_limit: CurrentPerWidth  # of the average current, over the drawn width
    edge_resistance: WidthResistance | None = None  # of each edge of silicide between two bodies, divided likewise


class Wiring(Model):
    """What connects the strips to drivers and sense amplifiers; a resistance of zero is an ideal wire.

    Rows are driven at their left end, or at both; columns are sensed at their lower end.
    """

    metal1_sheet_resistance: ZeroSheetResistance  # row wires
    metal2_sheet_resistance: ZeroSheetResistance  # column wires
    via1_resistance: Resistance  # of the one via between a strip and its column wire
    driver_resistance: Resistance  # from the ideal source to the row's pin
    sense_resistance: Resistance  # from the column's pin to virtual ground
    driven_ends: Literal[1, 2]
    contact_current_limit: Current  # against electromigration: of the average current in one
    metal1_current_limit: CurrentPerWidth
    metal2_current_limit: CurrentPerWidth
    via1_current_limit: Current


class TileSize(Model):
    """Weights per tile; a weight is a pair of strips."""

    rows: Count
    columns: Count


class Converters(Model):
    """Digital-to-analog at the rows, analog-to-digital at the columns."""

    input_bits: Bits
    output_bits: Bits
    input_voltage: Voltage  # full scale, zero to peak


class Periphery(Model):
    """What stands around a tile: it is sized and not drawn.

    Each row has a driver, each pair of columns an amplifier. The rows of tiles that stand side by side share a
    digital-to-analog converter; converters at the columns are shared too, and the array stays driven until the last of
    their columns is converted.
    """

    supply_voltage: Voltage
    driver_power: Power  # of one, whatever it delivers
    driver_area: Area  # of one, with its digital-to-analog converter
    dac_area: Area | None = None  # of that, what tiles with the same inputs share: without it, nothing
    dac_energy_per_step: Energy  # a conversion takes 2^bits times as much
    amplifier_power: Power
    amplifier_bandwidth: Frequency  # of driver, array and amplifier together
    amplifier_area: Area
    adc_energy_per_step: Energy
    adc_time: Time  # of one conversion
    adc_area: Area
    columns_per_adc: Count


class Offer(Model):
    """What can be chosen to reach an accuracy that a user asks for.

    Converters and copies contraction by contraction, the size of tiles and the width of wires once for a chip.
    """

    input_bits_min: Bits
    input_bits_max: Bits
    output_bits_min: Bits
    output_bits_max: Bits
    converter_area_doubling: Bits  # so many bits more double the area of a converter
    copies_max: Count  # of a tile, side by side: their results are averaged
    tile_side_min: Count  # rows or columns of a tile are those of tile, halved as often as this allows


class Fill(Layer):
    """Rectangles that say nothing and keep a layer from being too empty, alike on every chip of one shape."""

    width: Length
    height: Length
    space: Length
    clearance: Length | None = None  # from the tiles' rings and the marks; without it they lie over these too


class Chip(Model):
    """How tiles stand on the chip, each in a closed ring of substrate contacts; signals cross it above metal 1."""

    tile_spacing: Length
    ring_distance: Length  # of the ring's diffusion and metal 1 from the tile's blankets
    ring_width: Length
    ring_implant_overlap: Length  # of the implant beyond the diffusion, at both sides
    ring_contact_size: Length
    ring_contact_pitch: Length
    frame_margin: Length  # from the tiles to the chip's frame
    mark_size: Length  # of the alignment crosses from tip to tip
    mark_width: Length  # of their arms
    fill: tuple[Fill, ...] = Field(default=(), max_length=100)


class Technology(Model):
    """A crossbar technology: one cell of one process."""

    name: str = Field(max_length=64, pattern=r"^[a-z0-9][a-z0-9_.\-/]*$")
    title: Text
    target: Literal["crossbar"]
    process: Text
    resistor: Resistor
    grid: Grid
    layers: Layers
    cell: Cell
    wires: Wiring
    tile: TileSize
    converters: Converters
    periphery: Periphery
    offer: Offer
    variation: Variation
    chip: Chip
    design_rules: DesignRules = DesignRules()

    @property
    def personalisation_masks(self) -> tuple[Layer, ...]:
        """The masks that differ from model to model."""
        layers = self.layers
        return {"slide": (layers.block, layers.contact), "taps": (layers.via1,)}.get(self.cell.family, (layers.block,))

    @property
    def personalisation_layers(self) -> tuple[Layer, ...]:
        """The layers of the file that differ from model to model: those masks, and a marker that follows them."""
        fixed = self.cell.family == "taps"
        return self.personalisation_masks if fixed else (*self.personalisation_masks, self.layers.marker)

    def with_tile(self, rows: int, columns: int) -> Technology:
        """The same with smaller tiles.

        Raises:
            ValueError: if they are larger than the tile, or smaller than what is offered.
        """
        sides, least = {"rows": rows, "columns": columns}, self.offer.tile_side_min.value
        for key, side in sides.items():
            if side != getattr(self.tile, key).value and not least <= side <= getattr(self.tile, key).value:
                raise ValueError(f"a tile of {rows} x {columns} is not offered")
        source = "assumption: the compiler's choice for an accuracy that was asked for"
        tile = TileSize(**{key: Quantity(value=float(n), unit="1", source=source) for key, n in sides.items()})
        return self.model_copy(update={"tile": tile})

    def with_wires(self, wires: WiderWires) -> Technology:
        """The same with wider wires, strips further apart; no others are offered then.

        Raises:
            ValidationError: if they do not fit the cell.
        """
        cell = self.cell.model_copy(update={**dict(wires), "wider_wires": ()})
        return Technology.model_validate({**dict(self), "cell": cell})

    @model_validator(mode="after")
    def _rules_know_their_layers(self) -> Self:
        try:
            self.design_rules.check_names(self.layers.drawn())
        except PydanticCustomError as e:
            raise wrong(f"design_rules.{(e.context or {})['key']}", str((e.context or {})["problem"])) from None
        return self

    @model_validator(mode="after")
    def _on_grid(self) -> Self:
        fills = [(f"chip.fill.{i}", fill) for i, fill in enumerate(self.chip.fill)]
        for section, model in (("cell", self.cell), ("chip", self.chip), *fills):
            for key, value in model:
                if isinstance(value, Quantity):
                    # What stands in the middle of a strip or of a mark has edges at half its width.
                    centred = key.endswith(("_width", "_size")) and key != "row_wire_width"
                    edge = value.model_copy(update={"value": value.value / 2}) if centred else value
                    try:
                        self.grid.units(edge)
                    except ValueError as e:
                        raise wrong(f"{section}.{key}", f"{'half of it, ' if centred else ''}{e}") from None
        return self

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.resistor.width_reduction.si >= self.cell.strip_width.si:
            raise wrong("resistor.width_reduction", "leaves no electrical width")
        for key, fits, problem in geometry(self.cell):
            if not fits:
                raise wrong(f"cell.{key}", problem)
        chip = self.chip
        if chip.ring_implant_overlap.si >= chip.ring_distance.si:
            raise wrong("chip.ring_implant_overlap", "reaches the tile's blankets")
        if chip.ring_contact_size.si >= min(chip.ring_width.si, chip.ring_contact_pitch.si):
            raise wrong("chip.ring_contact_size", "is not below chip.ring_width and chip.ring_contact_pitch")
        reach = chip.ring_distance.si + chip.ring_width.si + chip.ring_implant_overlap.si
        if 2 * reach >= chip.tile_spacing.si:
            raise wrong("chip.tile_spacing", "does not hold the rings of two tiles")
        if not 2 * chip.mark_width.si < chip.mark_size.si < chip.frame_margin.si - 2 * reach:
            raise wrong(
                "chip.mark_size", "is not between twice chip.mark_width and what the rings leave of chip.frame_margin"
            )
        return self

    @model_validator(mode="after")
    def _wider_wires_fit(self) -> Self:
        for number, wires in enumerate(self.cell.wider_wires):
            try:
                self.with_wires(wires)
            except ValidationError as e:
                problem = (e.errors()[0].get("ctx") or {}).get("problem", e.errors()[0]["msg"])
                raise wrong(f"cell.wider_wires.{number}", f"do not fit the cell: {problem}") from None
            if wires.column_wire_width.si <= self.cell.column_wire_width.si:
                raise wrong(f"cell.wider_wires.{number}", "are not wider than cell.column_wire_width")
        return self
