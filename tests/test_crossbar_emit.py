"""Masks, judged by gdstk and KLayout: the right shapes, connected as drawn, the same bytes again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gdstk
import klayout.db as kdb
import numpy as np
import pytest
from crossbars import layout, records, small
from hypothesis import given
from hypothesis import strategies as st
from pfmc_backends.crossbar_gdsii import BACKEND

from pfmc.errors import ArtifactError, CapacityError
from pfmc.layout.layout import Layout
from pfmc.primitives.crossbar import CrossbarTile
from pfmc.technology.schema import Layer

BLOCKED = ["sg13g2", "sg13g2/slide", "sg13g2/rppd", "gf180mcu", "generic"]
NAMES = [*BLOCKED, "sg13g2/tapvia"]


def emitted(chip: Layout, folder: Path) -> Path:
    """The masks of a layout."""
    BACKEND.emit(chip, folder, lambda _done: None)
    return folder / "masks" / "chip.gds"


def boxes(cell: gdstk.Cell, layer: Layer, unit: float) -> np.ndarray:
    """Flattened rectangles on a layer as gdstk sees them: x0, y0, x1, y1 in database units."""
    found = cell.get_polygons(layer=layer.number, datatype=layer.datatype)
    corners = np.array([np.reshape(polygon.bounding_box(), 4) for polygon in found]).reshape(-1, 4) * unit
    assert np.abs(corners - np.rint(corners)).max(initial=0) < 1e-3
    assert [polygon.area() * unit**2 for polygon in found] == pytest.approx(
        list((corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1]))
    )
    return np.rint(corners).astype(np.int64)


@pytest.mark.parametrize("name", BLOCKED)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 3), columns=st.integers(1, 2))
def test_gdstk_finds_the_asked_length_on_every_strip(
    name: str, seed: int, rows: int, columns: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    technology = small(name, 3, 2)
    chip = layout(technology, [(rows, columns)], seed)
    library = gdstk.read_gds(emitted(chip, tmp_path_factory.mktemp("masks")))
    (placed,) = chip.tiles
    tile = next(cell for cell in library.cells if cell.name == placed.tile.name)
    grid, cell = technology.grid, technology.cell
    x0, y0, x1, y1 = boxes(tile, technology.layers.block, library.unit / library.precision).T
    column = np.rint((x0 + x1) / 2 / grid.units(cell.strip_pitch)).astype(int)
    row = y0 // grid.units(cell.row_pitch)
    found = np.zeros((3, 4), dtype=int)
    np.add.at(found, (row, column), y1 - y0)
    np.testing.assert_array_equal(found.reshape(3, 2, 2), chip.programme.devices(placed.tile).lengths)
    # Every block covers its strip from side to side, with the overhang, and stays on the body.
    np.testing.assert_array_equal(x1 - x0, grid.units(cell.strip_width) + 2 * grid.units(cell.block_overhang))
    assert np.all(y1 - row * grid.units(cell.row_pitch) <= grid.units(cell.body_length))


@pytest.mark.parametrize("name", NAMES)
def test_gdstk_and_klayout_read_the_same_masks_without_a_warning(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    technology = small(name, 4, 3)
    path = emitted(layout(technology, [(4, 3), (2, 1), (4, 2)]), tmp_path)
    library = gdstk.read_gds(path)
    (chip,) = library.top_level()
    by_klayout = kdb.Layout()
    by_klayout.read(str(path))
    assert capfd.readouterr() == ("", "")
    assert chip.name == by_klayout.top_cell().name == "chip"
    layers = {(info.layer, info.datatype) for info in by_klayout.layer_infos()}
    layers &= {(p.layer, p.datatype) for p in chip.get_polygons()}
    drawn = [technology.layers.poly, technology.layers.block, technology.layers.marker, technology.layers.metal2]
    assert layers >= {layer.key for layer in drawn}
    for number, datatype in layers:
        region = kdb.Region(by_klayout.top_cell().begin_shapes_rec(by_klayout.layer(number, datatype)))
        polygons = [np.rint(p.points * 1000) for p in chip.get_polygons(layer=number, datatype=datatype)]
        assert all(np.all(points % technology.grid.step == 0) for points in polygons)
        other = kdb.Region([kdb.Polygon([kdb.Point(int(x), int(y)) for x, y in points]) for points in polygons])
        assert (region ^ other).is_empty()


@pytest.mark.parametrize("name", NAMES)
def test_every_strip_ends_on_its_row_and_its_column(name: str, tmp_path: Path) -> None:
    """As KLayout extracts nets from metals, vias and contacts, with the poly left out."""
    technology = small(name, 4, 3)
    chip = layout(technology, [(4, 3)])
    masks = kdb.Layout()
    masks.read(str(emitted(chip, tmp_path)))
    layers, cell, units = technology.layers, technology.cell, technology.grid.units
    masks.cell("t00000").flatten(True)  # names of nets do not reach down into cells
    nets = kdb.LayoutToNetlist(kdb.RecursiveShapeIterator(masks, masks.cell("t00000"), []))
    contact, metal1, via1, metal2 = (
        nets.make_layer(masks.layer(*layer.key), layer.name)
        for layer in (layers.contact, layers.metal1, layers.via1, layers.metal2)
    )
    texts = [
        nets.make_text_layer(masks.layer(*t.key), n) for t, n in ((layers.metal1_text, "1"), (layers.metal2_text, "2"))
    ]
    for layer in (contact, metal1, via1, metal2):
        nets.connect(layer)
    nets.connect(contact, metal1)
    nets.connect(metal1, via1)
    nets.connect(via1, metal2)
    nets.connect(metal1, texts[0])
    nets.connect(metal2, texts[1])
    nets.extract_netlist()
    reach = units(cell.contact_distance) + units(cell.contact_height) // 2
    lengths = chip.programme.devices(chip.tiles[0].tile).lengths.reshape(4, 6).tolist()
    for row in range(4):
        for strip in range(6):
            x, y = strip * units(cell.strip_pitch), row * units(cell.row_pitch)
            lower = nets.probe_net(contact, kdb.Point(x, y - reach))
            end = units(cell.body_length)
            if cell.family == "slide":
                end = lengths[row][strip]
            if cell.window_length is not None:  # the contact that the via stands on
                bodies = lengths[row][strip] // units(cell.length_min)
                end = lengths[row][strip] + (bodies - 1) * units(cell.window_length)
            upper = nets.probe_net(contact, kdb.Point(x, y + end + reach))
            assert lower.expanded_name() == f"row{row}"
            assert upper.expanded_name() == f"col{strip // 2}{'pn'[strip % 2]}"


@pytest.mark.parametrize("name", NAMES)
def test_every_tile_stands_in_a_closed_ring_of_its_own(name: str, tmp_path: Path) -> None:
    """Contacts to the substrate all around, in one piece of metal 1 that touches nothing of the array."""
    technology = small(name, 3, 2)
    masks = kdb.Layout()
    masks.read(str(emitted(layout(technology, [(3, 2), (1, 1)]), tmp_path)))
    layers = technology.layers
    shapes = {
        key: kdb.Region(masks.top_cell().begin_shapes_rec(masks.layer(*getattr(layers, key).key))).merged()
        for key in ("diffusion", "diffusion_implant", "metal1", "contact", "poly")
    }
    corner = 2 * technology.grid.units(technology.chip.ring_width)  # has no contact
    assert shapes["diffusion"].count() == 2
    assert (shapes["diffusion"] & shapes["poly"]).is_empty()
    assert (shapes["diffusion"] - shapes["diffusion_implant"]).is_empty()
    for ring in shapes["diffusion"].each():
        assert ring.holes() == 1
        region = kdb.Region(ring)
        assert (shapes["metal1"].interacting(region) ^ region).is_empty()
        reach = technology.grid.units(technology.chip.ring_contact_pitch) + corner
        assert (region - shapes["contact"].inside(region).sized(reach)).is_empty()
        tile = kdb.Region(kdb.Polygon(list(ring.each_point_hole(0))))
        assert shapes["poly"].inside(tile).count() == 12


def test_a_row_wire_on_the_ring_is_told(tmp_path: Path) -> None:
    technology = small("sg13g2", 2, 2)
    chip = layout(technology, [(2, 2)])
    path = emitted(chip, tmp_path)
    masks = kdb.Layout()
    masks.read(str(path))
    metal1 = masks.cell("array").shapes(masks.layer(*technology.layers.metal1.key))
    metal1.insert(kdb.DBox(-2.0, 0.0, 0.0, 0.5))
    masks.write(str(path))
    (tile,) = BACKEND.read(tmp_path, technology, records(chip), lambda _done: None)
    assert any("a wire with two names" in complaint for complaint in tile.complaints)
    assert tile.found == 4  # those of the other row


def test_tiles_stand_where_the_layout_puts_them(tmp_path: Path) -> None:
    technology = small("sg13g2", 3, 2)
    chip = layout(technology, [(3, 2), (2, 2), (1, 1)])
    emission = BACKEND.emit(chip, tmp_path, lambda _done: None)
    (top,) = gdstk.read_gds(tmp_path / "masks" / "chip.gds").top_level()
    references = [r for r in top.references if not r.cell.name.startswith("fill")]
    found = {r.cell.name: tuple(round(1000 * v) for v in r.origin) for r in references}
    assert found == {placed.tile.name: (placed.x, placed.y) for placed in chip.tiles}
    assert (emission.devices, emission.unused_devices) == (22, 14)
    assert {label.text for label in top.labels} == {"t00000", "t00001", "t00002", chip.title}
    frame = boxes(top, technology.layers.outline, 1000.0)
    assert [0, 0, chip.width, chip.height] in frame.tolist()
    assert [0, 0, chip.width, chip.height] == [*frame[:, :2].min(axis=0), *frame[:, 2:].max(axis=0)]


@pytest.mark.parametrize(("name", "count"), [("sg13g2", 2), ("sg13g2/slide", 3), ("sg13g2/tapvia", 1), ("gf180mcu", 2)])
def test_only_the_personalised_layers_differ_between_models(name: str, count: int, tmp_path: Path) -> None:
    """What the manifest promises: one set of masks for all models but for those."""
    technology = small(name, 3, 2)
    differ = set()
    masks = [kdb.Layout(), kdb.Layout()]
    for seed, mask in enumerate(masks):
        mask.read(str(emitted(layout(technology, [(3, 2), (3, 1)], seed), tmp_path / str(seed))))
    for info in masks[0].layer_infos():
        regions = [kdb.Region(m.top_cell().begin_shapes_rec(m.layer(info.layer, info.datatype))) for m in masks]
        if not (regions[0] ^ regions[1]).is_empty():
            differ.add((info.layer, info.datatype))
    assert differ == {layer.key for layer in technology.personalisation_layers}
    assert len(differ) == count


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_back_is_what_was_programmed(name: str, tmp_path: Path) -> None:
    technology = small(name, 4, 3)
    chip = layout(technology, [(4, 3), (2, 1)])
    emitted(chip, tmp_path)
    tiles = list(BACKEND.read(tmp_path, technology, records(chip), lambda _done: None))
    for (placed, devices), tile in zip(chip.programmed(), tiles, strict=True):
        np.testing.assert_allclose(tile.resistance, CrossbarTile.of(technology).resistance(devices.lengths), rtol=1e-12)
        assert (tile.found, tile.complaints) == (2 * len(placed.tile.rows) * len(placed.tile.columns), ())


def test_a_contact_that_does_not_follow_its_block_is_measured(tmp_path: Path) -> None:
    """Above the block's end the current finds silicide on its way, below it nothing that conducts."""
    technology = small("sg13g2/slide", 1, 1)
    chip = layout(technology, [(1, 1)])
    path = emitted(chip, tmp_path)
    masks = kdb.Layout()
    masks.read(str(path))
    for value, micrometres in (("r00500", 0.35), ("r10000", -0.25)):
        (contact,) = masks.cell(value).shapes(masks.layer(*technology.layers.contact.key)).each()
        contact.transform(kdb.DTrans(0, micrometres))
    masks.write(str(path))
    (tile,) = BACKEND.read(tmp_path, technology, records(chip), lambda _done: None)
    ohms = CrossbarTile.of(technology).resistance(chip.programme.devices(chip.tiles[0].tile).lengths)[0, 0, 0]
    silicide_less_metal = 7.0 * 0.35 / 0.50 - 0.110 * 0.35 / 0.46
    assert tile.resistance[0, 0, 0] == pytest.approx(ohms + silicide_less_metal, rel=1e-12)
    assert np.isinf(tile.resistance[0, 0, 1])
    assert any("the block covers a contact" in complaint for complaint in tile.complaints)


def test_the_same_layout_gives_the_same_bytes(tmp_path: Path) -> None:
    chip = layout(small("sg13g2", 3, 2), [(3, 2), (2, 1)])
    for folder in ("a", "b"):
        emitted(chip, tmp_path / folder)
    for name in ("masks/chip.gds", "devices.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def renamed(chip: Layout, name: str) -> Layout:
    placed = chip.tiles[0]
    return replace(chip, tiles=(replace(placed, tile=replace(placed.tile, name=name)),))


@pytest.mark.parametrize("name", ["", "chip", "r03475", "a b", "tile/0", "é", "t" * 33])
def test_a_tile_whose_name_is_no_structure_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match="structure"):
        emitted(renamed(layout(small("sg13g2", 2, 2), [(2, 2)]), name), tmp_path)


def test_a_title_cannot_break_the_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    chip = replace(layout(small("sg13g2", 2, 2), [(2, 2)]), title="\0\nürsprung" + 1000 * "x")
    (top,) = gdstk.read_gds(emitted(chip, tmp_path)).top_level()
    assert capfd.readouterr() == ("", "")
    (title,) = {label.text for label in top.labels} - {"t00000"}
    assert title.startswith("???rsprungxxx")
    assert len(title) <= 200


def test_a_chip_beyond_the_format_is_refused(tmp_path: Path) -> None:
    chip = layout(small("sg13g2", 2, 2), [(2, 2)])
    with pytest.raises(CapacityError, match="larger"):
        emitted(replace(chip, width=2**31), tmp_path)
