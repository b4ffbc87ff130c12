"""The GDSII reader against gdstk and KLayout, and against files that are broken on purpose."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import gdstk
import klayout.db as kdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pfmc_backends.crossbar_gdsii.contents import Contents
from pfmc_backends.crossbar_gdsii.gdsii import GdsiiFile, real
from pfmc_backends.crossbar_gdsii.hierarchy import Box, Hierarchy
from pfmc_backends.crossbar_gdsii.polygons import cut_outline
from pfmc_backends.crossbar_gdsii.records import (
    AREF,
    BGNLIB,
    BGNSTR,
    BOUNDARY,
    COLROW,
    DATATYPE,
    ENDEL,
    ENDLIB,
    ENDSTR,
    HEADER,
    LAYER,
    SNAME,
    SREF,
    STRNAME,
    UNITS,
    XY,
    real8,
    record,
    text,
)

from pfmc.errors import ArtifactError

LAYERS = [(5, 0), (6, 2)]
TEXTS = [(8, 25)]
EVERYTHING = (-(1 << 30), -(1 << 30), 1 << 30, 1 << 30)


def flattened(path: Path, window: Box = EVERYTHING) -> tuple[np.ndarray, list[str]]:
    """All rows within a window, and the texts that they refer to."""
    contents = Contents(GdsiiFile(path), LAYERS, TEXTS)
    hierarchy = Hierarchy(contents)
    return hierarchy.flatten(hierarchy.pieces(-1, window), -1), contents.texts


def boxes(rows: np.ndarray, code: int) -> list[list[int]]:
    return sorted(rows[rows[:, 0] == code, 1:5].tolist())


def boxes_by_gdstk(path: Path, code: int) -> list[list[int]]:
    layer, datatype = LAYERS[code]
    (top,) = gdstk.read_gds(path, unit=1e-9).top_level()
    polygons = top.get_polygons(layer=layer, datatype=datatype)
    return sorted(np.rint(np.array(p.bounding_box())).astype(int).ravel().tolist() for p in polygons)


def library(*cells: gdstk.Cell) -> gdstk.Library:
    """Cells drawn in database units of 1 nm."""
    found = gdstk.Library(unit=1e-9, precision=1e-9)
    found.add(*cells)
    return found


def rectangle(x0: int, y0: int, x1: int, y1: int, code: int = 0) -> gdstk.Polygon:
    return gdstk.rectangle((x0, y0), (x1, y1), *LAYERS[code])


COORDINATE = st.integers(-500, 500)
RECTANGLE = st.tuples(COORDINATE, COORDINATE, st.integers(1, 300), st.integers(1, 300), st.integers(0, 1))
PLACEMENT = st.fixed_dictionaries(
    {
        "child": st.integers(0, 9),
        "origin": st.tuples(COORDINATE, COORDINATE),
        "rotation": st.integers(0, 3),
        "x_reflection": st.booleans(),
        "magnification": st.sampled_from([1, 1, 2]),
        "columns": st.integers(1, 3),
        "rows": st.integers(1, 3),
        "spacing": st.tuples(st.integers(1, 400), st.integers(1, 400)),
    }
)
CELL = st.tuples(st.lists(RECTANGLE, max_size=4), st.lists(PLACEMENT, max_size=4))


def hierarchy_of(plan: list[tuple[list[tuple[int, ...]], list[dict[str, object]]]]) -> gdstk.Library:
    """Cells that place those before them; the last one is the only top."""
    cells: list[gdstk.Cell] = []
    for number, (shapes, placements) in enumerate(plan):
        drawn = gdstk.Cell(f"cell{number}" * (1 + number % 3))
        drawn.add(*(rectangle(x, y, x + w, y + h, code) for x, y, w, h, code in shapes))
        for placement in placements if cells else ():
            arguments = {**placement, "rotation": placement["rotation"] * np.pi / 2}
            drawn.add(gdstk.Reference(cells[arguments.pop("child") % len(cells)], **arguments))
        cells.append(drawn)
    top = gdstk.Cell("top")
    top.add(rectangle(0, 0, 100_000, 1), *(gdstk.Reference(c, (1000 * i, 0)) for i, c in enumerate(cells)))
    return library(top, *reversed(cells))


@given(st.lists(CELL, min_size=1, max_size=4))
def test_hierarchies_flatten_as_gdstk_has_them(plan: list) -> None:  # type: ignore[type-arg]
    """Wrong if a rotation, mirror, magnification or array puts a shape anywhere else."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.gds"
        hierarchy_of(plan).write_gds(path)
        rows, _ = flattened(path)
        for code in (0, 1):
            assert boxes(rows, code) == boxes_by_gdstk(path, code)


@given(st.lists(CELL, min_size=1, max_size=4), st.tuples(COORDINATE, COORDINATE, st.integers(0, 900)))
def test_a_window_shows_all_that_meets_it(plan: list, place: tuple[int, int, int]) -> None:  # type: ignore[type-arg]
    """Wrong if something in the window is lost because its structure or array was taken to lie elsewhere."""
    x, y, size = place
    window = x, y, x + size, y + size
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.gds"
        hierarchy_of(plan).write_gds(path)
        meeting = [
            b for b in boxes_by_gdstk(path, 0) if b[0] <= window[2] and b[2] >= x and b[1] <= window[3] and b[3] >= y
        ]
        seen = boxes(flattened(path, window)[0], 0)
        for box in meeting:
            seen.remove(box)


def test_runs_that_break_off_are_read_like_single_records(tmp_path: Path, rng: np.random.Generator) -> None:
    """Wrong if a run of like references swallows one with another length of name, or a rotated one."""
    values = [gdstk.Cell(f"v{i:05}") for i in range(50)] + [gdstk.Cell(f"a_long_name_{i}") for i in range(20)]
    for i, value in enumerate(values):
        value.add(rectangle(0, 0, 10 + i, 20))
    top = gdstk.Cell("top")
    for i in range(3000):
        value = values[i if i < 70 else int(rng.integers(0, 50 if i % 700 else 70))]
        top.add(gdstk.Reference(value, (int(rng.integers(0, 10**6)), i), x_reflection=i % 900 == 5))
    library(top, *values).write_gds(tmp_path / "a.gds")
    assert boxes(flattened(tmp_path / "a.gds")[0], 0) == boxes_by_gdstk(tmp_path / "a.gds", 0)


def test_a_file_that_klayout_wrote(tmp_path: Path) -> None:
    """Polygons, a path, a box, labels and a rotated array: wrong if their area differs from KLayout's."""
    layout = kdb.Layout()
    layout.dbu = 0.001
    first, second, label = (layout.layer(*key) for key in (*LAYERS, *TEXTS))
    leaf, top = layout.create_cell("leaf"), layout.create_cell("top")
    corners = [(0, 0), (0, 300), (100, 300), (100, 200), (200, 200), (200, 0)]
    leaf.shapes(first).insert(kdb.Polygon([kdb.Point(*p) for p in corners]))
    leaf.shapes(second).insert(kdb.Box(10, 10, 60, 40))
    holed = kdb.Region(kdb.Box(0, 0, 500, 500)) - kdb.Region(kdb.Box(100, 100, 200, 300))
    top.shapes(first).insert(holed)
    bend = [kdb.Point(0, 1000), kdb.Point(700, 1000), kdb.Point(700, 1400)]
    top.shapes(second).insert(kdb.Path(bend, 60, 30, 30))
    top.shapes(second).insert(kdb.Path(bend[:2], 40))
    top.shapes(label).insert(kdb.Text("row7", 20, -40))
    turn = kdb.Trans(kdb.Trans.M45, 2000, -1000)
    top.insert(kdb.CellInstArray(leaf.cell_index(), turn, kdb.Vector(0, 400), kdb.Vector(600, 0), 3, 4))
    layout.write(str(tmp_path / "a.gds"))
    rows, texts = flattened(tmp_path / "a.gds")
    for code, layer in ((0, first), (1, second)):
        wanted = kdb.Region(top.begin_shapes_rec(layer))
        found = kdb.Region([kdb.Box(*box) for box in boxes(rows, code)])
        assert (found ^ wanted).is_empty()
    ((x, y, _, _, index),) = rows[rows[:, 0] == 2, 1:]
    assert (x, y, texts[index]) == (20, -40, "row7")


@given(st.lists(st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(1, 6)] * 2), min_size=1, max_size=8))
def test_outlines_are_cut_into_rectangles_of_the_same_area(drawn: list[tuple[int, int, int, int]]) -> None:
    """Wrong if a notch, a hole (as a keyhole) or a corner is filled or lost, or if rectangles overlap."""
    region = kdb.Region([kdb.Box(x, y, x + w, y + h) for x, y, w, h in drawn]).merged()
    for polygon in region.each():
        (outline,) = kdb.Region(polygon).each()
        points = [(p.x, p.y) for p in outline.resolved_holes().each_point_hull()]
        cut = cut_outline(np.array(points))
        assert cut is not None
        found = kdb.Region([kdb.Box(*box) for box in cut])
        assert (found ^ kdb.Region(polygon)).is_empty()
        assert sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in cut) == polygon.area()


def test_what_is_not_made_of_rectangles_leaves_a_remark(tmp_path: Path) -> None:
    """A triangle, a rounded path and a cell at 30 degrees must not vanish in silence."""
    leaf, top = gdstk.Cell("leaf"), gdstk.Cell("top")
    leaf.add(rectangle(0, 0, 100, 10))
    top.add(gdstk.Polygon([(0, 0), (100, 0), (0, 100)], *LAYERS[1]), rectangle(0, 0, 5000, 5000))
    top.add(gdstk.FlexPath([(0, 0), (100, 0)], 10, ends="round", simple_path=True, layer=5))
    top.add(gdstk.Reference(leaf, (1000, 2000), rotation=np.pi / 6))
    library(top, leaf).write_gds(tmp_path / "a.gds")
    rows, texts = flattened(tmp_path / "a.gds")
    remarks = {texts[row[5]]: row[1:5].tolist() for row in rows if row[0] == len(LAYERS) + len(TEXTS)}
    assert len(remarks) == 3
    assert any("slanted edges on layer 6/2" in remark and box == [0, 0, 100, 100] for remark, box in remarks.items())
    (around,) = (box for remark, box in remarks.items() if "right angle" in remark)
    x0, y0, x1, y1 = around
    assert x0 <= 995 and y0 <= 2000 and x1 >= 1087 and y1 >= 2059  # cos 30° · 100, sin 30° · 100 + cos 30° · 10


@given(st.floats(1e-20, 1e20))
def test_floating_point_numbers(value: float) -> None:
    assert real(real8(value)) == pytest.approx(value, rel=1e-15)
    assert real(bytes([real8(value)[0] | 0x80]) + real8(value)[1:]) == pytest.approx(-value, rel=1e-15)


# Broken files


def stream(*structures: bytes) -> bytes:
    """A library of structures, written by hand."""
    units = record(UNITS, real8(1e-3) + real8(1e-9))
    begin = record(HEADER, b"\x02\x58") + record(BGNLIB, bytes(24)) + units
    return begin + b"".join(structures) + record(ENDLIB)


def structure(name: str, *elements: bytes) -> bytes:
    return record(BGNSTR, bytes(24)) + text(STRNAME, name) + b"".join(elements) + record(ENDSTR)


def longs(tag: int, *values: int) -> bytes:
    return record(tag, struct.pack(f">{len(values)}i", *values))


def shorts(tag: int, *values: int) -> bytes:
    return record(tag, struct.pack(f">{len(values)}h", *values))


def square(size: int, layer: int = 5) -> bytes:
    outline = longs(XY, 0, 0, size, 0, size, size, 0, size, 0, 0)
    return record(BOUNDARY) + shorts(LAYER, layer) + shorts(DATATYPE, 0) + outline + record(ENDEL)


def reference(name: str, x: int = 0) -> bytes:
    return record(SREF) + text(SNAME, name) + longs(XY, x, 0) + record(ENDEL)


def array(name: str, columns: int, rows: int, pitch: int) -> bytes:
    where = longs(XY, 0, 0, columns * pitch, 0, 0, rows * pitch)
    return record(AREF) + text(SNAME, name) + shorts(COLROW, columns, rows) + where + record(ENDEL)


def test_a_file_written_by_hand_is_read(tmp_path: Path) -> None:
    """The ground that the broken ones below stand on."""
    (tmp_path / "a.gds").write_bytes(
        stream(structure("top", square(9), reference("leaf", 20)), structure("leaf", square(7)))
    )
    assert boxes(flattened(tmp_path / "a.gds")[0], 0) == [[0, 0, 9, 9], [20, 0, 27, 7]]


DOUBLING = [structure(f"d{i}", *[reference(f"d{i + 1}")] * 8) for i in range(12)]
CHAIN = [structure(f"c{i}", reference(f"c{i + 1}")) for i in range(5000)]
BROKEN = {
    "no file": (b"", "cannot be read"),
    "no GDSII": (b"PK\x03\x04 something else", "does not begin with a header"),
    "no end": (stream(structure("top", square(9)))[:-4], "ends too early"),
    "cut": (stream(structure("top", square(9)))[:-20], "not a GDSII record"),
    "length 0": (stream(structure("top", square(9), b"\0\0\x09\0")), "not a GDSII record"),
    "length odd": (stream(structure("top", square(9), b"\0\5\x09\0\0")), "not a GDSII record"),
    "no ENDEL": (stream(structure("top", square(9)[:-4])), "an element does not end"),
    "no ENDSTR": (stream(structure("top", square(9))[:-4]), "a structure does not end"),
    "no name": (stream(record(BGNSTR, bytes(24)) + record(ENDSTR)), "without a name"),
    "one name twice": (stream(structure("top"), structure("top")), "a second structure"),
    "no structures": (stream(), "no structure"),
    "no coordinates": (
        stream(structure("t", record(BOUNDARY) + shorts(LAYER, 5) + shorts(DATATYPE, 0) + record(ENDEL))),
        "coord",
    ),
    "no layer": (stream(structure("t", record(BOUNDARY) + longs(XY, 0, 0) + record(ENDEL))), "proper record"),
    "refers to nothing": (stream(structure("t", square(9), reference("gone"))), "gone, which is not there"),
    "refers to itself": (stream(structure("t", square(9), reference("t"))), "circle"),
    "circle": (
        stream(structure("t", reference("a")), structure("a", reference("b")), structure("b", reference("a"))),
        "circle",
    ),
    "deep": (stream(*CHAIN, structure("c5000", square(9))), "deeper"),
    "doubling": (stream(*DOUBLING, structure("d12", *[square(9)] * 300)), "than can be"),
    "absurd array": (stream(structure("t", array("a", 32767, 32767, 1)), structure("a", square(9))), "than can be"),
    "empty array": (stream(structure("t", array("a", 0, 4, 10)), structure("a", square(9))), "array of 0 by 4"),
    "out of range": (
        stream(structure("t", *[reference("a", 2**31 - 1)] * 2), structure("a", square(9))),
        "range of coordinates",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    """Wrong if one is taken for sound, hangs, or ends in another error."""
    data, complaint = BROKEN[name]
    (tmp_path / "a.gds").write_bytes(data)
    with pytest.raises(ArtifactError, match=complaint) as caught:
        flattened(tmp_path / "a.gds")
    assert "\n" not in str(caught.value)
    assert "a.gds" in str(caught.value)


def test_an_absurd_array_elsewhere_does_no_harm(tmp_path: Path) -> None:
    """Only what meets the window is spread out."""
    far = structure("t", array("a", 32767, 32767, 1000), square(9)), structure("a", square(7))
    (tmp_path / "a.gds").write_bytes(stream(*far))
    rows, _ = flattened(tmp_path / "a.gds", (900, 1900, 1100, 2100))
    assert boxes(rows, 0) == [[1000, 2000, 1007, 2007]]


def test_fill_on_layers_that_are_not_read_is_not_spread_out(tmp_path: Path) -> None:
    """A large chip has more of it than there may be shapes in a tile."""
    filled = structure("t", array("a", 32767, 32767, 1), square(9)), structure("a", square(7, layer=99))
    (tmp_path / "a.gds").write_bytes(stream(*filled))
    for window in (EVERYTHING, (-100, -100, 100, 100)):
        rows, _ = flattened(tmp_path / "a.gds", window)
        assert boxes(rows, 0) == [[0, 0, 9, 9]]


SOUND = stream(
    structure("top", square(9), *[reference("leaf1", 20 * i) for i in range(8)], array("leaf2", 3, 4, 50)),
    structure("leaf1", square(7), reference("leaf2", 3)),
    structure("leaf2", square(7)),
)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), min_size=1, max_size=3),
    st.integers(1, len(SOUND)),
)
def test_damaged_bytes_never_end_in_another_error(damage: list[tuple[int, int]], length: int) -> None:
    """Wrong if any damage ends in an IndexError, a hang or the like instead of shapes or an ArtifactError."""
    data = bytearray(SOUND)
    for at, value in damage:
        data[at] = value
    with tempfile.TemporaryDirectory() as folder:
        for part in (data, data[:length]):
            (Path(folder) / "a.gds").write_bytes(part)
            try:
                flattened(Path(folder) / "a.gds", (-1000, -1000, 1000, 1000))
            except ArtifactError as e:
                assert "a.gds" in str(e)
