"""What the reader recovers from masks: drawn here with gdstk, edited by hand, rewritten by other tools."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import gdstk
import klayout.db as kdb
import numpy as np
import pytest
from crossbars import layout, records, small
from pfmc_backends.crossbar_gdsii.emit import emit
from pfmc_backends.crossbar_gdsii.read import read_tiles, tile_shapes

from pfmc.backend import TileAsBuilt
from pfmc.bundle import TileRecord
from pfmc.errors import ArtifactError
from pfmc.primitives.crossbar import CrossbarTile
from pfmc.primitives.wiring import nominal_wires
from pfmc.technology.loader import load
from pfmc.technology.schema import Layer, Technology

ROWS, COLUMNS = 3, 2
X, Y = 31_000, 47_000  # the tile's place on the chip


def nm(quantity: object) -> int:
    return round(quantity.si * 1e9)  # type: ignore[attr-defined]


def box(layer: Layer, x0: int, y0: int, x1: int, y1: int) -> gdstk.Polygon:
    return gdstk.rectangle((x0, y0), (x1, y1), *layer.key)


def middle(layer: Layer, x: int, y: int, width: int, height: int) -> gdstk.Polygon:
    """A rectangle with the middle of its lower edge at x, y."""
    return box(layer, x - width // 2, y, x + width // 2, y + height)


def draw(technology: Technology, lengths: np.ndarray) -> gdstk.Library:
    """A chip with one tile, in database units, drawn flat from the technology's own dimensions."""
    cell, layers = technology.cell, technology.layers
    body, head, width = nm(cell.body_length), nm(cell.head_length), nm(cell.strip_width)
    pitch, row_pitch = nm(cell.strip_pitch), nm(cell.row_pitch)
    bar, gap = nm(cell.contact_height), nm(cell.contact_distance)
    tile = gdstk.Cell("anything")
    for row in range(ROWS):
        y = row * row_pitch
        for strip in range(2 * COLUMNS):
            x = strip * pitch
            tile.add(middle(layers.poly, x, y - head, width, body + 2 * head))
            tile.add(middle(layers.contact, x, y - gap - bar, nm(cell.contact_width), bar))
            tile.add(middle(layers.contact, x, y + body + gap, nm(cell.contact_width), bar))
            tile.add(middle(layers.metal1, x, y + body + nm(cell.pad_offset), nm(cell.pad_width), nm(cell.pad_height)))
            tile.add(middle(layers.via1, x, y + body + nm(cell.via_offset), nm(cell.via_size), nm(cell.via_size)))
            for low, high in blocked_parts(technology, int(lengths[row, strip // 2, strip % 2])):
                tile.add(middle(layers.block, x, y + low, width + 2 * nm(cell.block_overhang), high - low))
        wire = y + nm(cell.row_wire_offset)
        tile.add(box(layers.metal1, -width, wire, 2 * COLUMNS * pitch, wire + nm(cell.row_wire_width)))
        tile.add(
            gdstk.Label(f"row{row}", (0, wire), layer=layers.metal1_text.number, texttype=layers.metal1_text.datatype)
        )
    for strip in range(2 * COLUMNS):
        x, name = strip * pitch, f"col{strip // 2}{'pn'[strip % 2]}"
        tile.add(middle(layers.metal2, x, -600, nm(cell.column_wire_width), ROWS * row_pitch + 1200))
        tile.add(gdstk.Label(name, (x, -500), layer=layers.metal2_text.number, texttype=layers.metal2_text.datatype))
    chip = gdstk.Cell("whatever")
    chip.add(gdstk.Reference(tile, (X, Y)))
    library = gdstk.Library(unit=1e-9, precision=1e-9)
    library.add(chip, tile)
    return library


def blocked_parts(technology: Technology, length: int) -> list[tuple[int, int]]:
    """Where the block lies along the body."""
    body, start = nm(technology.cell.body_length), technology.cell.window_start
    if length == 0:
        return []
    if technology.cell.family == "end" or start is None or length == body:
        return [(0, length)]
    return [(0, nm(start)), (body - (length - nm(start)), body)]


def record(rows: int = ROWS, columns: int = COLUMNS) -> TileRecord:
    ranges = {"input_low": -1.0, "input_high": 1.0, "output_low": -1.0, "output_high": 1.0}
    return TileRecord(
        name="t00000", node="fc", primitive="crossbar", row_start=64, row_stop=64 + rows, column_start=0,
        column_stop=columns, x=X, y=Y, scale_siemens=1.0, input_volts=0.2,
        input_bits=10, output_bits=10, copy_number=0, copies=1, **ranges,
    )  # fmt: skip


def read(library: gdstk.Library, folder: Path, technology: Technology, tile: TileRecord | None = None) -> TileAsBuilt:
    (folder / "masks").mkdir(exist_ok=True)
    library.write_gds(folder / "masks" / "chip.gds")
    (built,) = read_tiles(folder, technology, [tile or record()], lambda _done: None)
    return built


def shapes(library: gdstk.Library, layer: Layer) -> list[gdstk.Polygon]:
    """Those of the tile on a layer, from the lower left: row by row, and along x in each."""
    found = [p for p in library["anything"].polygons if (p.layer, p.datatype) == layer.key]
    return sorted(found, key=lambda p: (p.bounding_box()[0][1] // 1000, p.bounding_box()[0][0]))


@pytest.fixture(params=["sg13g2", "gf180mcu"])
def technology(request: pytest.FixtureRequest) -> Technology:
    return small(request.param, ROWS, COLUMNS)


@pytest.fixture
def sg13g2() -> Technology:
    return small("sg13g2", ROWS, COLUMNS)


@pytest.fixture
def lengths(technology: Technology, rng: np.random.Generator) -> np.ndarray:
    return lengths_for(technology, rng)


def lengths_for(technology: Technology, rng: np.random.Generator) -> np.ndarray:
    primitive = CrossbarTile.of(technology)
    steps = rng.integers(primitive.length_min // 5, primitive.length_max // 5, (ROWS, COLUMNS, 2))
    steps[0, 0, 0] = primitive.length_max // 5
    return np.asarray(steps * 5)


def test_resistances_are_those_of_the_lengths_drawn(
    technology: Technology, lengths: np.ndarray, tmp_path: Path
) -> None:
    """Wrong if a length, a width or a term of the resistor model is measured or counted otherwise."""
    built = read(draw(technology, lengths), tmp_path, technology)
    np.testing.assert_allclose(built.resistance, CrossbarTile.of(technology).resistance(lengths), rtol=1e-12)
    assert (built.found, built.complaints) == (lengths.size, ())


def test_only_the_used_block_counts(technology: Technology, lengths: np.ndarray, tmp_path: Path) -> None:
    """The strips beyond it are on the masks, where they load the wires, and no business of the weights."""
    built = read(draw(technology, lengths), tmp_path, technology, record(2, 1))
    np.testing.assert_allclose(built.resistance, CrossbarTile.of(technology).resistance(lengths), rtol=1e-12)
    assert (built.found, built.complaints) == (4, ())


def test_no_block_at_all_is_a_low_resistance(sg13g2: Technology, tmp_path: Path) -> None:
    """10 um of silicide at 7 ohm per square, 0.5 um wide, two terminals of 80e-6 ohm m, and the via."""
    built = read(draw(sg13g2, np.zeros((ROWS, COLUMNS, 2), dtype=int)), tmp_path, sg13g2)
    np.testing.assert_allclose(built.resistance, 7 * 10 / 0.5 + 2 * 80e-6 / 0.5e-6 + 9)
    assert (built.found, built.complaints) == (12, ())


# Edits: each moves one resistance, the rest stay, and most leave a line behind.


def block_deleted(library: gdstk.Library, technology: Technology) -> float:
    library["anything"].remove(upper_block(library, technology))
    return 500.0


def block_stretched(library: gdstk.Library, technology: Technology) -> float:
    """By one step of the grid."""
    block = upper_block(library, technology)
    (x0, y0), (x1, y1) = block.bounding_box()
    library["anything"].remove(block)
    library["anything"].add(gdstk.rectangle((x0, y0 - 5), (x1, y1), *technology.layers.block.key))
    return 4005.0


def block_moved_onto_the_other(library: gdstk.Library, technology: Technology) -> float:
    """The lower one ends at 500; the upper one, of 3500, now begins at 485: 15 are covered twice."""
    upper_block(library, technology).translate(0, -6015)
    return 3985.0


def block_moved_within_the_strip(library: gdstk.Library, technology: Technology) -> float:
    """As much is covered as before."""
    upper_block(library, technology).translate(0, -25)
    return 4000.0


def block_doubled(library: gdstk.Library, technology: Technology) -> float:
    """Overlapping the one that is there by all but 100 nm."""
    copy = upper_block(library, technology).copy()
    library["anything"].add(copy.translate(0, -100))
    return 4100.0


def block_added(library: gdstk.Library, technology: Technology) -> float:
    add_block(library, technology, -0.3, 0.3, 2.0, 2.4)
    return 4400.0


def block_in_two_halves(library: gdstk.Library, technology: Technology) -> float:
    """Abutting along the strip, they cover it together."""
    add_block(library, technology, -0.3, 0.1, 2.0, 2.4)
    add_block(library, technology, 0.1, 0.3, 2.1, 2.3)
    return 4200.0


def half_a_block(library: gdstk.Library, technology: Technology) -> float:
    add_block(library, technology, -0.3, 0.2, 2.0, 2.4)
    return 4000.0


def wide_block(library: gdstk.Library, technology: Technology) -> float:
    """A polygon with more corners than four, and with a notch beside the strip."""
    x, y = strip_origin(technology)
    corners = [(-300, 2000), (300, 2000), (300, 2100), (260, 2100), (260, 2200), (300, 2200), (300, 2400), (-300, 2400)]
    library["anything"].add(gdstk.Polygon([(x + a, y + b) for a, b in corners], *technology.layers.block.key))
    return 4400.0


def contact_under_the_block(library: gdstk.Library, technology: Technology) -> float:
    upper_block(library, technology).translate(0, 250)
    return np.inf


def contact_moved_off(library: gdstk.Library, technology: Technology) -> float:
    strip_shape(library, technology.layers.contact, technology, 10_000).translate(0, 200)
    return np.inf


def lower_contact_deleted(library: gdstk.Library, technology: Technology) -> float:
    library["anything"].remove(strip_shape(library, technology.layers.contact, technology, -500))
    return np.inf


def via_deleted(library: gdstk.Library, technology: Technology) -> float:
    library["anything"].remove(strip_shape(library, technology.layers.via1, technology, 10_000))
    return np.inf


def strip_deleted(library: gdstk.Library, technology: Technology) -> float:
    library["anything"].remove(strip_shape(library, technology.layers.poly, technology, -500))
    return np.inf


def strip_cut(library: gdstk.Library, technology: Technology) -> float:
    """A gap of 100 nm in the poly."""
    poly = strip_shape(library, technology.layers.poly, technology, -500)
    (x0, y0), (x1, y1) = poly.bounding_box()
    library["anything"].remove(poly)
    library["anything"].add(gdstk.rectangle((x0, y0), (x1, y0 + 5000), *technology.layers.poly.key))
    library["anything"].add(gdstk.rectangle((x0, y0 + 5100), (x1, y1), *technology.layers.poly.key))
    return np.inf


def strip_drawn_in_two_parts(library: gdstk.Library, technology: Technology) -> float:
    """Abutting, they are one strip."""
    poly = strip_shape(library, technology.layers.poly, technology, -500)
    (x0, y0), (x1, y1) = poly.bounding_box()
    library["anything"].remove(poly)
    library["anything"].add(gdstk.rectangle((x0, y0), (x1, y0 + 5000), *technology.layers.poly.key))
    library["anything"].add(gdstk.rectangle((x0, y0 + 5000), (x1, y1), *technology.layers.poly.key))
    return 4000.0


def strip_origin(technology: Technology) -> tuple[int, int]:
    """Of the strip that is edited: row 1, column 1, plus."""
    return 2 * nm(technology.cell.strip_pitch), nm(technology.cell.row_pitch)


def strip_shape(library: gdstk.Library, layer: Layer, technology: Technology, above: int) -> gdstk.Polygon:
    """The lowest shape on a layer around the edited strip that begins higher than ``above`` its body's start."""
    x, y = strip_origin(technology)
    boxes = [(p.bounding_box(), p) for p in shapes(library, layer)]
    found = [p for ((x0, y0), (x1, _)), p in boxes if x0 <= x <= x1 and x1 - x0 < 1000 and y0 > y + above]
    return min(found, key=lambda p: float(p.bounding_box()[0][1]))


def upper_block(library: gdstk.Library, technology: Technology) -> gdstk.Polygon:
    return strip_shape(library, technology.layers.block, technology, 1000)


def add_block(library: gdstk.Library, technology: Technology, x0: float, x1: float, y0: float, y1: float) -> None:
    """In micrometres from the edited strip's origin."""
    x, y = strip_origin(technology)
    corners = (x + 1000 * x0, y + 1000 * y0), (x + 1000 * x1, y + 1000 * y1)
    library["anything"].add(gdstk.rectangle(*corners, *technology.layers.block.key))


EDITS: dict[Callable[[gdstk.Library, Technology], float], str] = {
    block_deleted: "",
    block_stretched: "",
    block_moved_onto_the_other: "",
    block_moved_within_the_strip: "",
    block_doubled: "",
    block_added: "",
    block_in_two_halves: "a part of a strip's width",
    half_a_block: "a part of a strip's width",
    wide_block: "",
    contact_under_the_block: "covers a contact",
    contact_moved_off: "not inside poly",
    lower_contact_deleted: "on no row wire",
    via_deleted: "on no column wire",
    strip_deleted: "row 1 and column 1p are joined by no whole strip",
    strip_cut: "on no row wire",
    strip_drawn_in_two_parts: "",
}


BODIES = {block_deleted: 1, block_moved_onto_the_other: 1, block_added: 3, wide_block: 3}  # of the strip, else 2


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_an_edit_by_hand_shows(
    edit: Callable[[gdstk.Library, Technology], float], sg13g2: Technology, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Wrong if the strip that was edited is not measured as it now is, or any other one changes."""
    lengths = lengths_for(sg13g2, rng)
    lengths[1, 1, 0] = 4000
    library = draw(sg13g2, lengths)
    blocked = edit(library, sg13g2)
    built = read(library, tmp_path, sg13g2)
    wanted = CrossbarTile.of(sg13g2).resistance(lengths)
    wanted[1, 1, 0] = np.inf
    if np.isfinite(blocked):
        edges = 2 * (BODIES.get(edit, 2) - 2) * 75.5 / 0.5
        wanted[1, 1, 0] = CrossbarTile.of(sg13g2).resistance(np.array(int(blocked))) + edges
    np.testing.assert_allclose(built.resistance, wanted, rtol=1e-12)
    assert built.found == lengths.size - np.isinf(blocked)
    assert EDITS[edit] in " | ".join(built.complaints)
    assert bool(built.complaints) == bool(EDITS[edit])


def test_a_block_moved_between_strips_is_named_with_its_place(sg13g2: Technology, tmp_path: Path) -> None:
    library = draw(sg13g2, np.full((ROWS, COLUMNS, 2), 4000))
    add_block(library, sg13g2, 0.3, 0.5, 2.0, 2.4)
    built = read(library, tmp_path, sg13g2)
    x, y = strip_origin(sg13g2)
    place = f"{(X + x + 300) / 1000:.3f},{(Y + y + 2000) / 1000:.3f} um"
    assert built.complaints == (f"a block shape lies on no strip at {place}",)


def test_an_emptied_tile_has_no_devices(technology: Technology, lengths: np.ndarray, tmp_path: Path) -> None:
    """Nothing conducts, and what is said of it is bounded."""
    library = draw(technology, lengths)
    library["anything"].remove(*library["anything"].polygons)
    built = read(library, tmp_path, technology)
    assert built.found == 0
    assert np.isinf(built.resistance).all()
    assert 0 < len(built.complaints) <= 21


def test_strips_in_parallel_conduct_together(sg13g2: Technology, tmp_path: Path) -> None:
    """A third column wire named like the first: its strips add to those of the first."""
    lengths = np.full((ROWS, COLUMNS, 2), 4000)
    library = draw(sg13g2, lengths)
    (label,) = (label for label in library["anything"].labels if label.text == "col1p")
    label.text = "col0p"
    built = read(library, tmp_path, sg13g2)
    one = CrossbarTile.of(sg13g2).resistance(np.array(4000))
    np.testing.assert_allclose(built.resistance[:, 0], np.tile([one / 2, one], (ROWS, 1)))
    assert np.isinf(built.resistance[:, 1, 0]).all()
    assert any("col0p is on a second wire" in line for line in built.complaints)


def test_wires_that_touch_are_one_wire_with_two_names(sg13g2: Technology, tmp_path: Path) -> None:
    """A short between two columns must not pass for two sound ones."""
    library = draw(sg13g2, np.full((ROWS, COLUMNS, 2), 4000))
    library["anything"].add(box(sg13g2.layers.metal2, 0, 500, nm(sg13g2.cell.strip_pitch), 900))
    built = read(library, tmp_path, sg13g2)
    assert built.found == 6
    assert np.isinf(built.resistance[:, 0]).all()
    assert any("a wire with two names" in line for line in built.complaints)


def test_a_cut_row_wire_loses_what_lies_behind_the_cut(sg13g2: Technology, tmp_path: Path) -> None:
    library = draw(sg13g2, np.full((ROWS, COLUMNS, 2), 4000))
    wire = max(shapes(library, sg13g2.layers.metal1), key=lambda p: p.area() if p.bounding_box()[0][1] < 0 else 0)
    (x0, y0), (x1, y1) = wire.bounding_box()
    library["anything"].remove(wire)
    cut = nm(sg13g2.cell.strip_pitch) + 400
    for a, b in ((x0, cut), (cut + 200, x1)):
        library["anything"].add(gdstk.rectangle((a, y0), (b, y1), *sg13g2.layers.metal1.key))
    built = read(library, tmp_path, sg13g2)
    assert np.isinf(built.resistance[0, 1]).all()
    assert built.found == 10


def test_a_wire_that_was_narrowed_resists_more_where_it_is_narrow(sg13g2: Technology, tmp_path: Path) -> None:
    """A row wire of which a half is taken away over 90 nm, between the third strip and the fourth."""
    library = draw(sg13g2, np.full((ROWS, COLUMNS, 2), 4000))
    cell = sg13g2.cell
    (wire,) = [p for p in shapes(library, sg13g2.layers.metal1) if np.ptp(p.bounding_box(), axis=0)[0] > 2000][1:2]
    (_, y0), (_, y1) = wire.bounding_box()
    notch = box(sg13g2.layers.metal1, 2 * nm(cell.strip_pitch) + 400, (y0 + y1) / 2, 2 * nm(cell.strip_pitch) + 490, y1)
    library["anything"].remove(wire)
    library["anything"].add(*gdstk.boolean(wire, notch, "not", layer=wire.layer, datatype=wire.datatype))
    built = read(library, tmp_path, sg13g2)
    ohms = np.asarray(built.wires.row_segment)
    plain = 0.110 * cell.strip_pitch.si / cell.row_wire_width.si
    np.testing.assert_allclose(ohms[:, 1:3], plain)
    np.testing.assert_allclose(ohms[[0, 2], 3], plain)
    np.testing.assert_allclose(ohms[1, 3], plain + 0.110 * 90e-9 / cell.row_wire_width.si)
    assert built.complaints == ()


def test_columns_whose_names_are_exchanged_are_told_beside_the_wrong_weights(
    sg13g2: Technology, tmp_path: Path
) -> None:
    library = draw(sg13g2, np.full((ROWS, COLUMNS, 2), 4000))
    for label in library["anything"].labels:
        label.text = {"col0p": "col1p", "col1p": "col0p"}.get(label.text, label.text)
    built = read(library, tmp_path, sg13g2)
    assert any("out of order" in line for line in built.complaints)


@pytest.mark.parametrize("text", ["row9999999999", "row-1", "col0x", "[red]row0", "row0\n"])
def test_a_label_that_names_nothing_is_data(text: str, sg13g2: Technology, tmp_path: Path) -> None:
    """Wrong if it is taken for a wire's name, or breaks the line that reports it."""
    library = draw(sg13g2, np.full((ROWS, COLUMNS, 2), 4000))
    (label,) = (label for label in library["anything"].labels if label.text == "row0")
    label.text = text
    built = read(library, tmp_path, sg13g2)
    assert np.isinf(built.resistance[0]).all()
    assert built.complaints and not any("\n" in line for line in built.complaints)


def test_what_belongs_to_another_tile_stays_there(sg13g2: Technology, tmp_path: Path) -> None:
    """A label far away, in the same small structure, must not be taken for one at the window's edge."""
    library = draw(sg13g2, np.full((ROWS, COLUMNS, 2), 4000))
    text = sg13g2.layers.metal1_text
    far = nm(sg13g2.cell.row_wire_offset)
    library["anything"].add(gdstk.Label("row2", (-500_000, far), layer=text.number, texttype=text.datatype))
    library["anything"].add(gdstk.rectangle((-600_000, far), (0, far + 200), *sg13g2.layers.metal1.key))
    built = read(library, tmp_path, sg13g2)
    assert (built.found, built.complaints) == (12, ())


def test_many_partial_blocks_are_counted_on_every_strip(sg13g2: Technology, tmp_path: Path) -> None:
    """On each strip two halves that cover 400 together, beside what was there."""
    library = draw(sg13g2, np.full((ROWS, COLUMNS, 2), 4000))
    for row in range(ROWS):
        for strip in range(2 * COLUMNS):
            x, y = strip * nm(sg13g2.cell.strip_pitch), row * nm(sg13g2.cell.row_pitch)
            for x0, x1 in ((-300, 10), (10, 300)):
                library["anything"].add(box(sg13g2.layers.block, x + x0, y + 2000, x + x1, y + 2400))
    built = read(library, tmp_path, sg13g2)
    np.testing.assert_allclose(built.resistance, CrossbarTile.of(sg13g2).resistance(np.full((ROWS, COLUMNS, 2), 4400)))
    assert built.complaints == ()


# Other tools and other hierarchies


def through_gdstk(path: Path) -> None:
    """Structures reversed and renamed, with names of many lengths."""
    library = gdstk.read_gds(path)
    cells = list(reversed(library.cells))
    for i, cell in enumerate(cells):
        cell.name = f"n{i}" * (1 + i % 4)
    changed = gdstk.Library(unit=library.unit, precision=library.precision)
    changed.add(*cells)
    changed.write_gds(path)


def through_klayout(path: Path) -> None:
    masks = kdb.Layout()
    masks.read(str(path))
    masks.write(str(path))


def flattened_by_klayout(path: Path) -> None:
    """Flat, and with the block merged into polygons of many corners."""
    masks = kdb.Layout()
    masks.read(str(path))
    (top,) = masks.top_cells()
    top.flatten(True)
    for info in masks.layer_infos():
        if info.layer == 28:
            merged = kdb.Region(top.begin_shapes_rec(masks.layer(info))).merged()
            top.shapes(masks.layer(info)).clear()
            top.shapes(masks.layer(info)).insert(merged)
    masks.write(str(path))


def turned_over(path: Path) -> None:
    """The whole chip mirrored inside, and mirrored back by the reference to it."""
    library = gdstk.read_gds(path)
    (top,) = library.top_level()
    inner, outer = gdstk.Cell("inner"), gdstk.Cell("outer")
    inner.add(gdstk.Reference(top, (7, 3), rotation=np.pi / 2, x_reflection=True))
    outer.add(gdstk.Reference(inner, (-3, -7), rotation=np.pi / 2, x_reflection=True))
    library.add(inner, outer)
    library.write_gds(path)


@pytest.mark.parametrize("tool", [through_gdstk, through_klayout, flattened_by_klayout, turned_over])
def test_emitted_masks_read_the_same_whoever_wrote_them_last(
    tool: Callable[[Path], None], sg13g2: Technology, tmp_path: Path
) -> None:
    """Wrong if names, order, flatness or orientation of structures decide anything."""
    chip = layout(sg13g2, [(ROWS, COLUMNS), (2, 1), (1, 2)])
    emit(chip, tmp_path, lambda _done: None)
    before = list(read_tiles(tmp_path, sg13g2, records(chip), lambda _done: None))
    tool(tmp_path / "masks" / "chip.gds")
    after = list(read_tiles(tmp_path, sg13g2, records(chip), lambda _done: None))
    for (_, devices), first, second in zip(chip.programmed(), before, after, strict=True):
        wanted = CrossbarTile.of(sg13g2).resistance(devices.lengths)
        wires = nominal_wires(sg13g2)
        for built in (first, second):
            np.testing.assert_allclose(built.resistance, wanted, rtol=1e-12)
            np.testing.assert_allclose(built.wires.row_segment, np.tile(wires.row_segment, (ROWS, 1)))
            np.testing.assert_allclose(built.wires.column_segment, np.tile(wires.column_segment, (1, 2 * COLUMNS)))
            assert built.complaints == ()


def test_tiles_come_in_the_order_asked_for_and_progress_is_told(sg13g2: Technology, tmp_path: Path) -> None:
    chip = layout(sg13g2, [(ROWS, COLUMNS)] * 3)
    emit(chip, tmp_path, lambda _done: None)
    asked, done = [records(chip)[i] for i in (2, 0)], []
    built = list(read_tiles(tmp_path, sg13g2, asked, done.append))
    assert [tile.name for tile in built] == ["t00002", "t00000"]
    assert sum(done) == 2


def test_shapes_for_pictures_are_those_of_the_file(sg13g2: Technology, tmp_path: Path) -> None:
    """Compared with gdstk's, in coordinates of the tile."""
    library = draw(sg13g2, np.full((ROWS, COLUMNS, 2), 4000))
    read(library, tmp_path, sg13g2)
    found = tile_shapes(tmp_path, sg13g2, record(), (-100_000, -100_000, 100_000, 100_000))
    for layer in (sg13g2.layers.poly, sg13g2.layers.block, sg13g2.layers.via1):
        wanted = [np.rint(np.ravel(p.bounding_box())).astype(int).tolist() for p in shapes(library, layer)]
        assert sorted(found[layer.name].tolist()) == sorted(wanted)
    near = tile_shapes(tmp_path, sg13g2, record(), (-100, -100, 100, 100))
    assert len(near[sg13g2.layers.poly.name]) == 1


def test_a_file_in_another_unit_is_refused(sg13g2: Technology, tmp_path: Path) -> None:
    """Its numbers would all be wrong by a factor."""
    library = draw(sg13g2, np.full((ROWS, COLUMNS, 2), 4000))
    library.precision = 5e-10
    with pytest.raises(ArtifactError, match="database unit is 5e-10 m, not 1e-09 m"):
        read(library, tmp_path, sg13g2)


@pytest.mark.parametrize("change", [{"row_stop": 10**9}, {"column_stop": 0}, {"x": 1 << 62}])
def test_a_tile_that_cannot_be_is_refused(change: dict[str, int], sg13g2: Technology, tmp_path: Path) -> None:
    """The table of tiles may have been edited too."""
    with pytest.raises(ArtifactError, match="tile t00000"):
        read(draw(sg13g2, np.full((ROWS, COLUMNS, 2), 4000)), tmp_path, sg13g2, record().model_copy(update=change))


def test_a_missing_file_is_refused(sg13g2: Technology, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"chip\.gds"):
        next(read_tiles(tmp_path, sg13g2, [record()], lambda _done: None))


DECKS = os.environ.get("PFMC_FOUNDRY_DECKS")


@pytest.mark.skipif(DECKS is None, reason="PFMC_FOUNDRY_DECKS does not name the folder with the foundries' samples")
@pytest.mark.parametrize(
    ("name", "technology_name", "size", "x", "absent"),
    [
        ("sg13g2_win_4x4", "sg13g2", 4, 250, 0),
        ("gf180mcu_pres_4x4", "gf180mcu", 4, 400, 2),  # two strips lack a contact: exact zeros
        ("sg13g2_win_64x64_value_cells", "sg13g2", 64, 250, 0),
    ],
)
def test_samples_that_passed_the_foundries_decks(
    name: str, technology_name: str, size: int, x: int, absent: int, tmp_path: Path
) -> None:
    """Wrong if a measured length is not the height of block that gdstk finds on that strip."""
    path = Path(str(DECKS)) / "examples" / f"{name}.gds"
    technology, primitive = load(technology_name), CrossbarTile.of(load(technology_name))
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "chip.gds").write_bytes(path.read_bytes())
    tile = record(size, size).model_copy(update={"x": x, "y": 0})
    (built,) = read_tiles(tmp_path, technology, [tile], lambda _done: None)
    (top,) = gdstk.read_gds(path, unit=1e-9).top_level()
    block, pitch = technology.layers.block, nm(technology.cell.strip_pitch)
    drawn = np.zeros((size, 2 * size), dtype=int)
    for polygon in top.get_polygons(layer=block.number, datatype=block.datatype):
        (x0, y0), (x1, y1) = polygon.bounding_box()
        drawn[int(y0) // nm(technology.cell.row_pitch), round(((x0 + x1) / 2 - x) / pitch)] += round(y1 - y0)
    resistance = built.resistance[:size, :size]
    whole = np.isfinite(resistance)
    assert (built.found, np.count_nonzero(~whole)) == (drawn.size - absent, absent)
    lengths = drawn.reshape(size, size, 2)[whole]
    wanted = primitive.resistance(lengths)
    if technology_name == "sg13g2":
        wanted[lengths == nm(technology.cell.body_length)] -= 2 * 75.5 / 0.5  # no window, and no edges of silicide
    np.testing.assert_allclose(resistance[whole], wanted, rtol=1e-12)
