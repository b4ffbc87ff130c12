"""Layout versus schematic: clean masks are clean, and what a hand breaks in them is found, named and placed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gdstk
import pytest
from crossbars import layout, records, small
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pfmc_backends.crossbar_gdsii import alike, connectivity
from pfmc_backends.crossbar_gdsii.connectivity import check_connectivity
from pfmc_backends.crossbar_gdsii.emit import MASKS, emit

from pfmc.bundle import TileRecord
from pfmc.errors import ArtifactError
from pfmc.technology.schema import Layer, Technology

ROWS, COLUMNS = 4, 3
TECHNOLOGIES = ("sg13g2", "sg13g2/slide", "sg13g2/compact", "sg13g2/rppd", "sg13g2/tapvia", "gf180mcu", "generic")


def drawn(technology: Technology, folder: Path) -> list[TileRecord]:
    chip = layout(technology, [(ROWS, COLUMNS), (2, 3)])
    emit(chip, folder, lambda _done: None)
    return records(chip)


def check(technology: Technology, folder: Path, tiles: list[TileRecord]) -> tuple[str, ...]:
    return check_connectivity(folder, technology, tiles, lambda _done: None)


@pytest.mark.parametrize("name", TECHNOLOGIES)
def test_what_the_compiler_draws_is_clean(name: str, tmp_path: Path) -> None:
    technology = small(name, ROWS, COLUMNS)
    assert check(technology, tmp_path, drawn(technology, tmp_path)) == ()


def flat(library: gdstk.Library, tile: TileRecord) -> gdstk.Cell:
    """The tile's cell with all its shapes in it, so that one may be changed."""
    return library[tile.name].flatten()


class Tile:
    """Shapes of a tile, um from its origin."""

    def __init__(self, cell: gdstk.Cell, technology: Technology) -> None:
        self.cell, self.layers = cell, technology.layers
        unit = 1e6
        self.pitch, self.row_pitch = technology.cell.strip_pitch.si * unit, technology.cell.row_pitch.si * unit
        self.left = -(technology.cell.strip_width.si / 2 + technology.cell.row_wire_extension.si) * unit
        self.body = technology.cell.body_length.si * unit
        self.row_y = (technology.cell.row_wire_offset.si + technology.cell.row_wire_width.si / 2) * unit
        self.row_height = technology.cell.row_wire_width.si * unit

    def add(self, layer: Layer, x0: float, y0: float, x1: float, y1: float) -> None:
        self.cell.add(gdstk.rectangle((x0, y0), (x1, y1), *layer.key))

    def cut(self, layer: Layer, x0: float, y0: float, x1: float, y1: float) -> None:
        hole = gdstk.rectangle((x0, y0), (x1, y1))
        shapes = [p for p in self.cell.polygons if (p.layer, p.datatype) == layer.key]
        self.cell.remove(*shapes)
        self.cell.add(*gdstk.boolean(shapes, hole, "not", 1e-4, *layer.key))


def row_cut(t: Tile) -> tuple[float, float]:
    """Row 2 to the left of col1n."""
    x, y = 2.5 * t.pitch, 2 * t.row_pitch + t.row_y
    t.cut(t.layers.metal1, x - 0.1, y - t.row_height, x + 0.1, y + t.row_height / 2 + 0.01)
    return x + 0.1, y


def column_cut(t: Tile) -> tuple[float, float]:
    x, y = 4 * t.pitch, 2 * t.row_pitch
    t.cut(t.layers.metal2, x - t.pitch / 2, y - 0.1, x + t.pitch / 2, y + 0.1)
    return x, y + 0.1


def columns_bridged(t: Tile) -> tuple[float, float]:
    x, y = 2 * t.pitch, 1.5 * t.row_pitch
    t.add(t.layers.metal2, x, y, x + t.pitch, y + 0.2)
    return x + t.pitch / 2, y + 0.1


def rows_bridged(t: Tile) -> tuple[float, float]:
    x, y = t.left, t.row_pitch + t.row_y
    t.add(t.layers.metal1, x - 0.2, y, x + 0.05, y + t.row_pitch)
    return x, y + t.row_pitch / 2


def via_dropped(t: Tile) -> tuple[float, float]:
    x, y = 3 * t.pitch, t.row_pitch + t.body
    t.cut(t.layers.via1, x - 0.44, y - 1, x + 0.44, y + 1)
    return x, y - t.body / 2


def contact_dropped(t: Tile) -> tuple[float, float]:
    x, y = 3 * t.pitch, t.row_pitch
    t.cut(t.layers.contact, x - 0.44, y - 0.6, x + 0.44, y)
    return x, y + t.body / 2


def heads_bridged(t: Tile) -> tuple[float, float]:
    """Two strips' poly above their bodies: both are on row 1, and now on each other's column too."""
    x, y = 2 * t.pitch, t.row_pitch + t.body + 0.1
    t.add(t.layers.poly, x, y, x + t.pitch, y + 0.2)
    return x + t.pitch / 2, y + 0.1


def bodies_bridged(t: Tile) -> tuple[float, float]:
    """Where the block is on both: a body with four ends."""
    x, y = 2 * t.pitch, t.row_pitch
    t.add(t.layers.poly, x, y + 0.1, x + t.pitch, y + 0.3)
    t.add(t.layers.block, x - 0.45, y, x + t.pitch + 0.45, y + 0.5)
    return x + t.pitch / 2, y + 0.25


def block_lost(t: Tile) -> tuple[float, float]:
    x, y = 3 * t.pitch, 2 * t.row_pitch
    t.cut(t.layers.block, x - 0.45, y - 0.1, x + 0.45, y + t.body + 0.1)
    return x, y + t.body / 2


def strip_lost(t: Tile) -> tuple[float, float]:
    x, y = 3 * t.pitch, 2 * t.row_pitch
    t.cut(t.layers.poly, x - 0.44, y - 0.5, x + 0.44, y + t.body + 0.5)
    return x, y + t.row_y


def joined_to_the_ring(t: Tile) -> tuple[float, float]:
    y = t.row_y
    t.add(t.layers.metal1, -4.0, y, 0.0, y + 0.2)
    return -2.0, y + 0.1


EDITS: dict[Callable[[Tile], tuple[float, float]], str] = {
    row_cut: "row2 is open between col1p and col1n",
    column_cut: "col2p is open between row1 and row2",
    columns_bridged: "col1p and col1n are shorted",
    rows_bridged: "row1 and row2 are shorted",
    via_dropped: "the strip of col1n, row1 is not connected to col1n",
    contact_dropped: "the strip of row1, col1n is not connected to row1",
    heads_bridged: "col1p and col1n are shorted",
    bodies_bridged: "row1, col1p, col1n are joined by poly",
    block_lost: "row2 and col1n are shorted",
    strip_lost: "no strip joins row2 and col1n",
    joined_to_the_ring: "row0 and sub are shorted",
}


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
@pytest.mark.parametrize("name", ["sg13g2", "gf180mcu"])
def test_what_is_broken_by_hand_is_found_and_named(
    edit: Callable[[Tile], tuple[float, float]], name: str, tmp_path: Path
) -> None:
    """In one of two tiles, and there once; the place is right to less than a strip."""
    technology = small(name, ROWS, COLUMNS)
    tiles = drawn(technology, tmp_path)
    library = gdstk.read_gds(tmp_path / MASKS)
    x, y = edit(Tile(flat(library, tiles[1]), technology))
    library.write_gds(tmp_path / MASKS)
    (line,) = check(technology, tmp_path, tiles)
    match = re.fullmatch(r"tile t00001: (.*) at (\S+),(\S+) um", line)
    assert match is not None, line
    assert match[1] == EDITS[edit]
    unit = technology.grid.database_unit.si * 1e6
    place = float(match[2]) - tiles[1].x * unit, float(match[3]) - tiles[1].y * unit
    assert place[0] == pytest.approx(x, abs=technology.cell.strip_pitch.si * 1e6)
    assert place[1] == pytest.approx(y, abs=technology.cell.body_length.si * 1e6)


def relabelled(cell: gdstk.Cell, text: str, new: str | None) -> None:
    (label,) = [label for label in cell.labels if label.text == text]
    if new is None:
        cell.remove(label)
    else:
        label.text = new


@pytest.mark.parametrize(
    ("text", "new", "found"),
    [
        ("row3", None, ["no wire has the label row3"]),
        ("col2n", None, ["no wire has the label col2n"]),
        ("row3", "a\nb", [r"the label a\?b is that of no wire at .*", "no wire has the label row3"]),
        ("row3", "row2", ["the label row2 is on a second wire at .*", "no wire has the label row3"]),
    ],
)
def test_labels_that_are_wrong_are_told(text: str, new: str | None, found: list[str], tmp_path: Path) -> None:
    technology = small("sg13g2", ROWS, COLUMNS)
    tiles = drawn(technology, tmp_path)
    library = gdstk.read_gds(tmp_path / MASKS)
    relabelled(flat(library, tiles[1]), text, new)
    library.write_gds(tmp_path / MASKS)
    lines = check(technology, tmp_path, tiles)
    assert re.fullmatch("\n".join(f"tile t00001: {line}" for line in found), "\n".join(lines)), lines


def test_a_wire_from_tile_to_tile_is_told_by_both(tmp_path: Path) -> None:
    technology = small("sg13g2", ROWS, COLUMNS)
    tiles = drawn(technology, tmp_path)
    library = gdstk.read_gds(tmp_path / MASKS)
    (x0, y0), (x1, y1) = ((tile.x / 1000, tile.y / 1000) for tile in tiles)
    library["chip"].add(gdstk.rectangle((x0 - 0.1, y0), (x1 + 0.1, y1 + 1), *technology.layers.metal2.key))
    library.write_gds(tmp_path / MASKS)
    lines = check(technology, tmp_path, tiles)
    assert [line.split(" at ")[0] for line in lines if "street" in line] == [
        f"tile {tile.name}: Metal2 crosses the street around the tile" for tile in tiles
    ]


def test_a_ruined_chip_is_told_in_few_lines(tmp_path: Path) -> None:
    """No poly at all: every pair is open."""
    technology = small("sg13g2", 64, 64)
    chip = layout(technology, [(64, 64)])
    emit(chip, tmp_path, lambda _done: None)
    library = gdstk.read_gds(tmp_path / MASKS)
    library["strip"].filter([technology.layers.poly.key], remove=True)
    library.write_gds(tmp_path / MASKS)
    lines = check(technology, tmp_path, records(chip))
    assert len(lines) == 21
    assert lines[-1] == "tile t00000: and 8172 more"


@pytest.mark.parametrize("name", TECHNOLOGIES)
def test_tiles_that_are_alike_are_extracted_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sheets of single cells and what lies around arrays are not counted; their labels are others."""
    technology = small(name, 8, 6)
    chip = layout(technology, [(8, 6)] * 6)
    emit(chip, tmp_path, lambda _done: None)
    whole: list[bool] = []

    class Counted(connectivity.Extraction):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            whole.append(any(label.text == "row0" for label in self.labels))

    monkeypatch.setattr(connectivity, "Extraction", Counted)
    assert check(technology, tmp_path, records(chip)) == ()
    assert sum(whole) == 1


STEPS = [-0.5, -0.2, -0.1, -0.03, -0.005, -0.002, 0.005, 0.03, 0.1, 0.2, 0.5, 5.0]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(TECHNOLOGIES),
    seed=st.integers(0, 1 << 20),
    edits=st.lists(
        st.tuples(st.integers(0, 1 << 20), st.integers(0, 1 << 20), st.sampled_from(range(4)), st.sampled_from(STEPS)),
        max_size=2,
    ),
    extra=st.booleans(),
)
def test_what_is_not_extracted_again_is_as_it_would_be(
    name: str,
    seed: int,
    edits: Sequence[tuple[int, int, int, float]],
    extra: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Edges moved in any cell, and a shape in one tile alone, against extracting every tile."""
    folder = tmp_path_factory.mktemp("chip")
    technology = small(name, 5, 3)
    chip = layout(technology, [(5, 3)] * 3, seed)
    emit(chip, folder, lambda _done: None)
    library = gdstk.read_gds(folder / MASKS)
    cells = [cell for cell in library.cells if cell.polygons]
    for which, shape, edge, step in edits:
        cell = cells[which % len(cells)]
        polygon = cell.polygons[shape % len(cell.polygons)]
        corners = [float(c) for corner in polygon.bounding_box() for c in corner]
        corners[edge] += step
        cell.remove(polygon)
        cell.add(gdstk.rectangle(corners[:2], corners[2:], polygon.layer, polygon.datatype))
    if extra:
        layer = (technology.layers.via1, technology.layers.contact, technology.layers.block)[seed % 3]
        x, y = (seed % 37) / 10, (seed % 53) / 5
        library["t00001"].add(gdstk.rectangle((x, y), (x + 0.3, y + 0.3), *layer.key))
    library.write_gds(folder / MASKS)
    found = check(technology, folder, records(chip))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(alike.Orders, "of", lambda *_: None)
        assert found == check(technology, folder, records(chip))


@pytest.mark.parametrize("content", [None, b"", b"no masks"])
def test_masks_that_are_none_are_refused(content: bytes | None, tmp_path: Path) -> None:
    technology = small("sg13g2", ROWS, COLUMNS)
    tiles = drawn(technology, tmp_path)
    (tmp_path / MASKS).unlink()
    if content is not None:
        (tmp_path / MASKS).write_bytes(content)
    with pytest.raises(ArtifactError):
        check(technology, tmp_path, tiles)
