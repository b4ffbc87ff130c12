"""The rule check: shipped masks are clean, what is drawn wrongly is named, and shortcuts change no verdict."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gdstk
import numpy as np
import pytest
from crossbars import layout, records, small
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from klayout import db
from pfmc_backends.crossbar_gdsii import BACKEND
from pfmc_backends.crossbar_gdsii.rule_kinds import Masks, violations
from pfmc_backends.crossbar_gdsii.rules import TILE_LIMIT, RuleCheck, check_rules
from pydantic import ValidationError

from pfmc.errors import TechnologyError, UsageError
from pfmc.layout.layout import Layout
from pfmc.technology.design_rules import DesignRules
from pfmc.technology.loader import load
from pfmc.technology.schema import Technology

TECHNOLOGIES = ("generic", "gf180mcu", "sg13g2", "sg13g2/rppd", "sg13g2/slide")
DECKS = os.environ.get("PFMC_FOUNDRY_DECKS")


def emitted(name: str, folder: Path, size: tuple[int, int] = (4, 3), tiles: int = 1) -> Layout:
    chip = layout(small(name, *size), [size] * tiles, seed=len(name))
    BACKEND.emit(chip, folder, lambda _: None)
    return chip


def checked(chip: Layout, folder: Path) -> RuleCheck:
    return check_rules(folder, chip.technology, records(chip), lambda _: None)


def names(check: RuleCheck) -> set[str]:
    """Of the rules that shapes violate; a chip of a few strips has no room for the densities that are asked for."""
    return {violated.rule for violated in check.violated} - {density.rule for density in check.densities}


def redrawn(folder: Path, change: Callable[[gdstk.Library], None]) -> None:
    """Change the masks as a person with an editor would."""
    path = folder / "masks" / "chip.gds"
    library = gdstk.read_gds(path)
    change(library)
    library.write_gds(path)


def exhaustive(technology: Technology, path: Path) -> set[str]:
    """The rules that KLayout finds violated anywhere, with the file flat and nothing left out."""
    chip = db.Layout()
    chip.read(str(path))
    top = max(chip.top_cells(), key=lambda cell: cell.bbox().area())
    masks = Masks(technology, lambda key: db.Region(top.begin_shapes_rec(chip.layer(*key))))
    return {rule.name for rule in technology.design_rules.local if next(violations(rule, masks), None)}


def stretched(polygon: gdstk.Polygon, edge: int, delta: float) -> gdstk.Polygon:
    """A rectangle with one edge moved: left, bottom, right, top."""
    (x0, y0), (x1, y1) = polygon.bounding_box()
    box = [x0, y0, x1, y1]
    box[edge] += delta
    return gdstk.rectangle((box[0], box[1]), (box[2], box[3]), polygon.layer, polygon.datatype)


def moving(
    cell: str, layer: str, edge: int, delta: float, which: int = 0
) -> Callable[[Technology, gdstk.Library], None]:
    """An edge of the ``which``-th shape of a cell on a layer; ``cell`` may be the beginning of a name."""

    def change(technology: Technology, library: gdstk.Library) -> None:
        key = technology.layers.drawn()[layer].key
        found = next(
            c
            for c in library.cells
            if c.name.startswith(cell) and any((p.layer, p.datatype) == key for p in c.polygons)
        )
        polygon = [p for p in found.polygons if (p.layer, p.datatype) == key][which]
        found.remove(polygon)
        found.add(stretched(polygon, edge, delta))

    return change


def adding(layer: str, x: float, y: float, width: float, height: float) -> Callable[[Technology, gdstk.Library], None]:
    """A rectangle in the array, um."""

    def change(technology: Technology, library: gdstk.Library) -> None:
        array = next(c for c in library.cells if c.name == "array")
        array.add(gdstk.rectangle((x, y), (x + width, y + height), *technology.layers.drawn()[layer].key))

    return change


def without(cell: str, layer: str) -> Callable[[Technology, gdstk.Library], None]:
    def change(technology: Technology, library: gdstk.Library) -> None:
        key = technology.layers.drawn()[layer].key
        found = next(c for c in library.cells if c.name.startswith(cell))
        found.remove(*[p for p in found.polygons if (p.layer, p.datatype) == key])

    return change


def both(*changes: Callable[[Technology, gdstk.Library], None]) -> Callable[[Technology, gdstk.Library], None]:
    def change(technology: Technology, library: gdstk.Library) -> None:
        for each in changes:
            each(technology, library)

    return change


LEFT, BOTTOM, RIGHT, TOP = range(4)
WRONG = [
    ("sg13g2", moving("r", "SalBlock", LEFT, 0.005), "Sal.c"),  # 5 nm less overhang
    ("sg13g2", moving("r", "SalBlock", TOP, -0.1), "Rhi.f"),
    ("sg13g2", moving("r01000", "SalBlock", TOP, -0.090), "Sal.a"),
    ("sg13g2", moving("r09580", "SalBlock", TOP, 0.005), "Sal.b"),  # the smallest window
    ("sg13g2", moving("r", "SalBlock", TOP, 0.002), "salblock_drw_Offgrid"),
    ("sg13g2", moving("strip", "Cont", TOP, 0.005), "Rhi.d"),  # closer to the block, and a wider bar
    ("sg13g2", moving("strip", "Cont", TOP, 0.005), "CntB.a"),
    ("sg13g2", moving("strip", "Cont", BOTTOM, -0.005), "CntB.d"),
    ("sg13g2", moving("strip", "Cont", LEFT, 0.03), "CntB.a1"),
    ("sg13g2", both(moving("strip", "GatPoly", LEFT, 0.005), moving("r", "PolyRes", LEFT, 0.005)), "Rhi.a"),
    ("sg13g2", moving("strip", "GatPoly", TOP, 0.01), "Gat.b"),
    ("sg13g2", moving("strip", "Via1", LEFT, -0.005), "V1.a"),
    ("sg13g2", moving("strip", "Metal1", LEFT, 0.005), "CntB.h1"),
    ("sg13g2", moving("strip", "Metal1", LEFT, 0.09), "V1.c1"),
    ("sg13g2", without("strip", "Metal1"), "M1.c"),
    ("sg13g2", moving("array", "Metal1", TOP, 4.3), "M1.b"),
    ("sg13g2", moving("array", "Metal2", RIGHT, 0.13), "M2.e"),
    ("sg13g2", moving("array", "nSD", LEFT, 0.3), "Rhi.b"),
    ("sg13g2", moving("array", "EXTBlock", LEFT, 0.1), "Rhi.e"),
    ("sg13g2", moving("array", "Metal1.pin", LEFT, -0.1), "Pin.e"),
    ("sg13g2", adding("Metal1", 0.0, -1.3, 0.2, 0.2), "M1.d"),
    ("sg13g2", adding("Metal2", -40.0, -40.0, 35.0, 35.0), "Slt.c.M2"),
    ("sg13g2", adding("Cont", -0.18, 0.2, 0.36, 0.16), "Sal.e, contact in block"),
    ("sg13g2", adding("Activ", 0.0, -1.2, 0.3, 0.3), "Act.d"),
    ("sg13g2/slide", moving("r", "Cont", BOTTOM, -0.005), "Rhi.d"),
    ("sg13g2/slide", moving("r", "SalBlock", TOP, -0.005), "Rhi.d"),  # the contact is too far away
    ("sg13g2/slide", without("r", "SalBlock"), "Rhi.d"),
    ("sg13g2/rppd", moving("r", "Cont", BOTTOM, -0.005), "Rppd.c"),
    ("sg13g2/rppd", moving("array", "EXTBlock", LEFT, 0.1), "Rppd.d"),
    ("gf180mcu", moving("r", "SAB", LEFT, 0.005), "PRES.6"),
    ("gf180mcu", adding("SAB", -4.0, 5.0, 1.0, 1.0), "SB.13"),
    ("gf180mcu", moving("r12000", "SAB", TOP, 0.005), "PRES.7"),
    ("gf180mcu", moving("r12000", "SAB", TOP, 0.3), "SB.8"),
    ("gf180mcu", moving("r", "RES_MK", TOP, -0.005), "PRES.9a"),
    ("gf180mcu", moving("strip", "Contact", LEFT, 0.005), "CO.1"),
    ("gf180mcu", moving("strip", "Via1", LEFT, 0.005), "V1.1"),
    ("gf180mcu", moving("strip", "Poly2", LEFT, 0.005), "PRES.1"),
    ("gf180mcu", both(moving("strip", "Metal1", TOP, -0.06), moving("strip", "Metal1", LEFT, 0.09)), "CO.6b"),
    ("gf180mcu", moving("array", "Metal2", RIGHT, 0.3), "M2.2a"),
    ("gf180mcu", moving("array", "Pplus", LEFT, 0.2), "PRES.5"),
    ("generic", moving("r", "block", TOP, 0.005), "grid"),
    ("generic", moving("array", "metal2", RIGHT, 0.6), "metal2.space"),
]


@pytest.mark.parametrize("name", TECHNOLOGIES)
def test_shipped_masks_are_clean(name: str, tmp_path: Path) -> None:
    chip = emitted(name, tmp_path, tiles=3)
    check = checked(chip, tmp_path)
    assert not names(check)
    assert check.tiles == 3
    assert check.rules == len({rule.name for rule in chip.technology.design_rules.rules}) > 20


@pytest.mark.parametrize(("name", "change", "rule"), WRONG)
def test_what_is_drawn_wrongly_is_named(
    name: str, change: Callable[[Technology, gdstk.Library], None], rule: str, tmp_path: Path
) -> None:
    chip = emitted(name, tmp_path)
    redrawn(tmp_path, lambda library: change(chip.technology, library))
    check = checked(chip, tmp_path)
    assert rule in names(check), check.violated
    assert names(check) == exhaustive(chip.technology, tmp_path / "masks" / "chip.gds")


def test_wide_metal_inside_a_later_tile_is_found(tmp_path: Path) -> None:
    """Rules that compare large distances are asked again where only the array differs, not what lies around it."""
    chip = emitted("sg13g2", tmp_path, (5, 48), tiles=6)

    def change(library: gdstk.Library) -> None:
        library["t00003"].add(gdstk.rectangle((10.0, 10.0), (42.0, 42.0), *chip.technology.layers.metal2.key))

    redrawn(tmp_path, change)
    found = {violated.rule: {place.tile for place in violated.places} for violated in checked(chip, tmp_path).violated}
    assert found["Slt.c.M2"] == {"t00003"}


EDGES = [-0.5, -0.2, -0.1, -0.03, -0.005, -0.002, 0.005, 0.03, 0.1, 0.2, 0.5]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(TECHNOLOGIES),
    seed=st.integers(0, 1 << 20),
    edits=st.lists(
        st.tuples(st.integers(0, 1 << 20), st.integers(0, 1 << 20), st.sampled_from(range(4)), st.sampled_from(EDGES)),
        max_size=3,
    ),
)
def test_shortcuts_change_no_verdict(
    name: str, seed: int, edits: Sequence[tuple[int, int, int, float]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Random lengths and arbitrary edits in cells that many or few strips share, against KLayout on the flat chip."""
    folder = tmp_path_factory.mktemp("chip")
    chip = layout(small(name, 5, 3), [(5, 3), (3, 2)], seed)
    BACKEND.emit(chip, folder, lambda _: None)

    def change(library: gdstk.Library) -> None:
        cells = [cell for cell in library.cells if cell.polygons]
        for which, shape, edge, delta in edits:
            cell = cells[which % len(cells)]
            polygon = cell.polygons[shape % len(cell.polygons)]
            cell.remove(polygon)
            cell.add(stretched(polygon, edge, delta))

    redrawn(folder, change)
    assert names(checked(chip, folder)) == exhaustive(chip.technology, folder / "masks" / "chip.gds")


@pytest.mark.parametrize("name", TECHNOLOGIES)
def test_lengths_that_no_cell_has(name: str, tmp_path: Path) -> None:
    """Value cells redrawn at random: narrow blocks, steps and windows of any size, contacts anywhere."""
    chip = emitted(name, tmp_path, (8, 6))
    random = np.random.default_rng(3)

    def change(library: gdstk.Library) -> None:
        for cell in library.cells:
            if cell.name.startswith("r0"):
                for polygon in cell.polygons:
                    cell.remove(polygon)
                    cell.add(stretched(polygon, TOP, 0.005 * random.integers(-40, 41)))

    redrawn(tmp_path, change)
    found = names(checked(chip, tmp_path))
    assert found
    assert found == exhaustive(chip.technology, tmp_path / "masks" / "chip.gds")


def test_a_flat_file_gets_the_same_verdict(tmp_path: Path) -> None:
    chip = emitted("sg13g2/slide", tmp_path, tiles=2)
    redrawn(tmp_path, lambda library: moving("r", "Cont", TOP, 0.005)(chip.technology, library))
    before = checked(chip, tmp_path)
    assert not before.clean

    def flatten(library: gdstk.Library) -> None:
        top = next(cell for cell in library.cells if cell.name == "chip")
        top.flatten()
        library.remove(*[cell for cell in library.cells if cell is not top])

    redrawn(tmp_path, flatten)
    assert checked(chip, tmp_path) == before


def test_merged_and_slanted_polygons(tmp_path: Path) -> None:
    """Blocks merged across strips are no boxes of one strip; a slanted edge is checked as it is."""
    chip = emitted("sg13g2", tmp_path)
    path = tmp_path / "masks" / "chip.gds"
    file = db.Layout()
    file.read(str(path))
    top = file.cell("chip")
    top.flatten(True)
    layer = file.layer(*chip.technology.layers.block.key)
    merged = db.Region(top.begin_shapes_rec(layer)).merged()
    top.shapes(layer).clear()
    top.shapes(layer).insert(merged)
    file.write(str(path))
    assert not names(checked(chip, tmp_path))
    corner = db.Polygon([db.Point(20_000, 19_000), db.Point(20_100, 19_000), db.Point(20_000, 19_100)])
    top.shapes(file.layer(*chip.technology.layers.metal1.key)).insert(corner)
    file.write(str(path))
    assert names(checked(chip, tmp_path)) == exhaustive(chip.technology, path) >= {"M1.a"}


def test_places_on_the_chip(tmp_path: Path) -> None:
    """The middle of what is wrong, with the tile's name, and what lies beside the tiles is found too."""
    chip = emitted("sg13g2", tmp_path, tiles=2)
    x, y = (chip.tiles[1].x, chip.tiles[1].y)

    def change(library: gdstk.Library) -> None:
        top = next(cell for cell in library.cells if cell.name == "chip")
        for at in (
            (x / 1000 + 0.5, y / 1000 + 2.0),
            (8.5, 10.0),
        ):  # across a strip's edge in the second tile; in the frame
            top.add(gdstk.rectangle((at[0], at[1]), (at[0] + 0.1, at[1] + 4.0), 10, 0))

    redrawn(tmp_path, change)
    check = checked(chip, tmp_path)
    width = next(violated for violated in check.violated if violated.rule == "M2.a")
    assert {place.tile for place in width.places} == {"", "t00001"}
    assert width.count == 2
    assert {(place.x, place.y) for place in width.places} == {
        (8.55, 12.0),
        (round(x / 1000 + 0.55, 4), round(y / 1000 + 4.0, 4)),
    }


def test_a_chip_that_is_wrong_everywhere_is_not_checked_to_its_end(tmp_path: Path) -> None:
    chip = emitted("generic", tmp_path, (1, 1), tiles=TILE_LIMIT + 5)
    redrawn(tmp_path, lambda library: moving("strip", "contact", LEFT, -0.01)(chip.technology, library))
    check = checked(chip, tmp_path)
    assert check.tiles == TILE_LIMIT
    size = next(violated for violated in check.violated if violated.rule == "contact.size")
    assert size.count == 2 * TILE_LIMIT
    assert len(size.places) == 5


def test_without_klayout_or_rules_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chip = emitted("generic", tmp_path, (1, 1))
    bare = chip.technology.model_copy(update={"design_rules": DesignRules()})
    with pytest.raises(TechnologyError, match="no design rules to check"):
        check_rules(tmp_path, bare, records(chip), lambda _: None)
    monkeypatch.setitem(sys.modules, "klayout", None)
    with pytest.raises(UsageError, match=r"needs KLayout's Python module, pip install"):
        checked(chip, tmp_path)


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"rules": [{"kind": "width", "layer": "poly"}]}, "value: a rule of kind width needs it"),
        (
            {"rules": [{"kind": "grid", "layer": "poly", "other": "block"}]},
            "other: a rule of kind grid has none",
        ),
        ({"rules": [{"kind": "grid", "layer": "pole"}]}, "rules.0: there is no layer 'pole'"),
        ({"rules": [{"kind": "grid", "layer": "poly without block"}]}, "rules.0: 'poly without block' is no layer"),
        ({"rules": [{"kind": "grid", "layer": "poly over inf"}]}, "over takes an area in um2"),
        ({"layers": {"a": "poly & b", "b": "block"}}, "layers.a: there is no layer 'b'"),
        ({"layers": {"poly": "poly & block"}}, "layers.poly: poly is a layer of the file"),
        (
            {"rules": [{"kind": "area", "layer": "poly", "value": {"value": 1.0, "unit": "um"}}]},
            "um does not measure what a rule of kind area limits",
        ),
        (
            {"rules": [{"kind": "min_density", "layer": "poly - block", "value": {"value": 1.0, "unit": "%"}}]},
            "rules.0: a density is of layers of the file, joined by |",
        ),
    ],
)
def test_a_wrong_rule_is_refused(section: dict[str, Any], problem: str) -> None:
    content = load("generic").model_dump(mode="json")
    for rule in section.get("rules", ()):
        rule |= {"name": "mine", "source": "assumption: a test"}
    content["design_rules"] = section
    with pytest.raises(ValidationError) as caught:
        Technology.model_validate(content)
    assert problem in str(caught.value)


# What the decks do not report: two wide wires that are too close (the edges of each hide behind themselves), contacts
# wholly in the block, and pSD that reaches beyond nSD (Rhi.b is asked of the opposite alone).
STRICTER = {"M1.e", "M1.f", "M2.e", "M2.f", "M1.2b", "M2.2b", "Rhi.b", "Sal.e, contact in block"}


@pytest.mark.foundry
@pytest.mark.slow
@pytest.mark.skipif(DECKS is None, reason="PFMC_FOUNDRY_DECKS does not name the folder with the foundries' decks")
@pytest.mark.parametrize(
    ("name", "change"), [pytest.param(*case[:2], id=f"{case[0]}-{case[2]}") for case in WRONG if case[0] != "generic"]
)
def test_the_foundry_says_the_same(
    name: str, change: Callable[[Technology, gdstk.Library], None], tmp_path: Path
) -> None:
    chip = emitted(name, tmp_path)
    redrawn(tmp_path, lambda library: change(chip.technology, library))
    judged = deck_says(name.partition("/")[0], tmp_path / "masks" / "chip.gds")
    ours = {rule.name for rule in chip.technology.design_rules.rules}
    found = names(checked(chip, tmp_path))
    assert judged & ours - found == set()
    assert found - STRICTER - judged == set()


def deck_says(process: str, masks: Path) -> set[str]:
    """The rules that the foundry's decks find violated."""
    command = [sys.executable, Path(str(DECKS)) / "drc.py", process, masks]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    reports = [line for line in run.stdout.splitlines() if "rule categories" in line]
    assert len(reports) == 2, run.stdout + run.stderr
    said: set[str] = set()
    for line in reports:
        _, _, found = line.partition("violations: ")
        said |= set(ast.literal_eval(found)) if found else set()
    return said
