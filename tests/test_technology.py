"""Technology files: what the built-in ones say, and what a wrong one is told."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from pfmc.errors import TechnologyError
from pfmc.primitives.crossbar import CrossbarTile
from pfmc.technology.design_rules import Rule
from pfmc.technology.loader import SIZE_LIMIT, describe, load, names
from pfmc.technology.quantities import Quantity
from pfmc.technology.schema import Layer, Technology

BUILT_IN = ("generic", "gf180mcu", "sg13g2")
CELLS = ("sg13g2/compact", "sg13g2/rppd", "sg13g2/slide", "sg13g2/tapvia")  # with one of those as base


def text_of(name: str) -> str:
    return (files("pfmc.technology.library") / f"{name.replace('/', '-')}.toml").read_text()


def refusal(tmp_path: Path, content: str | bytes) -> str:
    """What the loader says of a file: one line that begins with what is wrong and names the file."""
    path = tmp_path / "mine.toml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(TechnologyError) as caught:
        load(str(path))
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def with_entry(name: str, key: str, line: str) -> str:
    """A built-in file with one of its lines replaced (or left out, if ``line`` is empty)."""
    changed, count = re.subn(rf"^{key} = .*$", lambda _: line, text_of(name), count=1, flags=re.MULTILINE)
    assert count == 1
    return changed


def with_value(name: str, key: str, value: str) -> str:
    """A built-in file with the value of one quantity replaced."""
    changed, count = re.subn(
        rf"^({key} = {{ value = )[^,]+", rf"\g<1>{value}", text_of(name), count=1, flags=re.MULTILINE
    )
    assert count == 1
    return changed


def sourced(model: BaseModel) -> Iterator[Quantity | Layer | Rule]:
    """Every quantity, layer and rule of a technology."""
    for _, value in model:
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, (Quantity, Layer, Rule)):
                yield item
            if isinstance(item, BaseModel):
                yield from sourced(item)


def test_the_built_in_technologies_are_installed_under_their_own_names() -> None:
    both = [*BUILT_IN, *CELLS]
    assert set(both) <= set(names())
    assert [load(name).name for name in both] == both
    assert dict(describe())["sg13g2"] == "IHP SG13G2, rhigh poly strips, salicide-block window"


@pytest.mark.parametrize("name", BUILT_IN + CELLS)
def test_every_number_says_where_it_comes_from(name: str) -> None:
    found = list(sourced(load(name)))
    written = tomllib.loads(text_of(name))
    sections = written if name in BUILT_IN else tomllib.loads(text_of(written["base"])) | written
    assert len(found) == str(sections).count("'source': ")  # none is missed, none is filled in by a default
    publishers = {"sg13g2": "IHP-Open-PDK 5cccb161", "gf180mcu": "gf180mcu_fd_p", "generic": "assumption: "}
    publisher = publishers[name.partition("/")[0]]
    # GF180MCU's design manual and open libraries; converters
    others = ("gf180mcu-pdk ", "OpenROAD-flow-scripts", "lambdapdk", "B. Murmann, ")
    for item in found:
        assert item.source.startswith((publisher, *others, "assumption: ", "pfmc cell")), item


def test_the_generic_process_claims_no_foundry() -> None:
    assert all(item.source.startswith("assumption: ") for item in sourced(load("generic")))


@pytest.mark.parametrize(
    ("name", "ohms_short", "ohms_long", "silicide_short"),
    # bodies, ends and via from the compact models' formulas, by hand: ρ·L/(W − ΔW) + 2·t/W' + via; then silicide
    [
        # two bodies, and two edges of silicide of 151 ohm between them
        ("sg13g2", 1360 * 1.0 / 0.46 + 2 * 160 + 311, 1360 * 9.58 / 0.46 + 2 * 160 + 311, 7.0 * 9.0 / 0.5),
        ("gf180mcu", (350 * 1.5 + 120) / 0.749 + 4.5, (350 * 12.0 + 120) / 0.749 + 4.5, 7.3 * 10.5 / 0.8),
        # nothing is silicided, but there is metal 1 between contact and via
        ("sg13g2/slide", 1360 * 0.5 / 0.46 + 2 * 160 + 9, 1360 * 10.0 / 0.46 + 2 * 160 + 9, 0.11 * 9.5 / 0.46),
        ("sg13g2/compact", 1360 * 0.5 / 0.46 + 2 * 160 + 9, 1360 * 3.0 / 0.46 + 2 * 160 + 9, 0.11 * 2.5 / 0.46),
        # 16 bodies with 15 pieces of silicide between them
        (
            "sg13g2/tapvia",
            1360 * 0.5 / 0.46 + 2 * 160 + 9,
            1360 * 8.0 / 0.46 + 2 * 160 + 9 + 15 * (2 * 151 + 7 * 0.56 / 0.5),
            0.0,
        ),
        ("sg13g2/rppd", 260 * 4.0 / 1.006 + 2 * 35 + 9, 260 * 20.0 / 1.006 + 2 * 35 + 9, 0.11 * 16.0 / 0.70),
    ],
)
def test_resistance_range(name: str, ohms_short: float, ohms_long: float, silicide_short: float) -> None:
    tile = CrossbarTile.of(load(name))
    assert 1 / tile.conductance_max == pytest.approx(ohms_short + silicide_short)
    assert 1 / tile.conductance_min == pytest.approx(ohms_long, rel=3e-4)
    short, long = {
        "sg13g2": (3.59e3, 28.9e3),
        "sg13g2/slide": (1.8e3, 29.9e3),
        "sg13g2/compact": (1.8e3, 9.2e3),
        "sg13g2/tapvia": (1.8e3, 28.6e3),
        "sg13g2/rppd": (1.11e3, 5.25e3),
        "gf180mcu": (0.865e3, 5.77e3),
    }[name]
    assert ohms_short == pytest.approx(short, rel=8e-3)
    assert ohms_long == pytest.approx(long, rel=5e-3)


@pytest.mark.parametrize("name", BUILT_IN + CELLS)
def test_json_and_back_is_the_same_technology(name: str) -> None:
    technology = load(name)
    assert Technology.model_validate(json.loads(json.dumps(technology.model_dump(mode="json")))) == technology


@given(steps=st.integers(300, 1600), bits=st.integers(1, 24), unit=st.sampled_from([("um", 1e3), ("nm", 1.0)]))
def test_any_valid_technology_survives_json(steps: int, bits: int, unit: tuple[str, float]) -> None:
    raw = tomllib.loads(text_of("gf180mcu"))
    raw["cell"]["length_min"] |= {"value": 5 * steps / unit[1], "unit": unit[0]}
    raw["converters"]["input_bits"]["value"] = bits
    technology = Technology.model_validate(raw)
    assert technology.grid.units(technology.cell.length_min) == 5 * steps
    assert Technology.model_validate(technology.model_dump(mode="json")) == technology


@given(nanometres=st.integers(1, 11_999))
def test_a_length_is_taken_exactly_when_it_is_on_the_grid(nanometres: int) -> None:
    raw = tomllib.loads(text_of("gf180mcu"))
    raw["cell"]["length_min"]["value"] = nanometres / 1000
    if nanometres % 5 == 0:
        assert Technology.model_validate(raw).cell.length_min.value == nanometres / 1000
    else:
        with pytest.raises(ValidationError, match=r"cell\.length_min: .* is not on the manufacturing grid"):
            Technology.model_validate(raw)


def test_a_cell_takes_from_its_base_what_it_does_not_say(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'base = "gf180mcu"\nname = "mine"\ntitle = "GF180MCU with small tiles"\n[tile]\n'
        'rows = { value = 8, unit = "1", source = "mine" }\ncolumns = { value = 4, unit = "1", source = "mine" }\n'
    )
    mine, base = load(str(tmp_path / "mine.toml")), load("gf180mcu")
    assert (mine.name, mine.tile.rows.value, mine.tile.columns.value) == ("mine", 8, 4)
    assert mine.model_copy(update={key: getattr(base, key) for key in ("name", "title", "tile")}) == base


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('base = "acme"', "no such technology, {}: base, name one of fused-silica, fused-silica/large, generic"),
        ("base = 3", "no such technology, {}: base, name one of fused-silica, fused-silica/large, generic"),
        ('base = "sg13g2/slide"', "sg13g2/slide has a base itself, {}: base, name sg13g2"),
        ('base = "sg13g2"', "missing key, {}: name, add it, and 1 more to correct"),
    ],
)
def test_what_a_wrong_base_is_told(tmp_path: Path, content: str, expected: str) -> None:
    said = refusal(tmp_path, content)
    assert said.startswith(expected.replace("{}", str(tmp_path / "mine.toml"))), said


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(TechnologyError, match=r"^no such technology, sg13g, installed: .*generic, gf180mcu.*sg13g2"):
        load("sg13g")


@pytest.mark.parametrize("path", ["missing.toml", "a\0b.toml", "no/such/folder/x.toml"])
def test_no_such_file(path: str) -> None:
    with pytest.raises(TechnologyError, match=r"\.toml, check the path$"):
        load(path)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(TechnologyError, match="Is a directory"):
        (tmp_path / "x.toml").mkdir()
        load(str(tmp_path / "x.toml"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("name = \n", "not TOML: .*line 1"),
        ("a = 1\nb = 2\na = 3\n", "not TOML: .*line 3"),
        (f"a = {'9' * 5000}", "not TOML: "),
        ("a = " + "[" * 100_000, "not TOML: "),
        (b"name = '\xff'\n", "not UTF-8 at byte 8"),
        (b"# \n" * (SIZE_LIMIT // 3 + 1), f"larger than {SIZE_LIMIT} bytes"),
    ],
)
def test_not_a_technology_file(tmp_path: Path, content: str | bytes, expected: str) -> None:
    assert re.match(expected, refusal(tmp_path, content))


def test_an_endless_file_is_read_no_further_than_the_limit(tmp_path: Path) -> None:
    endless = tmp_path / "endless.toml"
    endless.symlink_to("/dev/zero")
    with pytest.raises(TechnologyError, match="larger than"):
        load(str(endless))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (with_entry("sg13g2", "strip_width", ""), "missing key, {}: cell.strip_width, add it"),
        (
            text_of("sg13g2").replace("strip_width =", "strip_widht ="),
            "no such key, {}: cell.strip_widht, did you mean strip_width?, and 1 more to correct",
        ),
        (
            text_of("sg13g2").replace("window_start =", "windowstart ="),
            "no such key, {}: cell.windowstart, did you mean window_start?",
        ),
        (
            with_entry("sg13g2", "window_start", 'window_start = { valeu = 0.5, unit = "um", source = "mine" }'),
            "no such key, {}: cell.window_start.valeu, did you mean value?, and 1 more to correct",
        ),
        (
            with_entry("gf180mcu", "poly", 'poly = { name = "P", number = 3, datatyp = 0, source = "mine" }'),
            "no such key, {}: layers.poly.datatyp, did you mean datatype?, and 1 more to correct",
        ),
        (
            text_of("gf180mcu").replace('    { name = "Pplus",', '    { name = "Pplus", colour = "red",'),
            "no such key, {}: layers.blankets.0.colour, remove it",
        ),
        (
            with_entry("sg13g2", "strip_width", 'strip_width = { value = 0.5, unit = "ohm", source = "mine" }'),
            "'ohm' does not measure a length, use nm or um or mm or m, {}: cell.strip_width.unit, correct that entry",
        ),
        (
            with_value("sg13g2", "strip_width", "-0.5"),
            "-0.5 um is out of range, more than 0 and at most 0.1 m, {}: cell.strip_width.value, correct that entry",
        ),
        (
            with_value("sg13g2", "output_bits", "25"),
            "25.0 bit is out of range, more than 0 and at most 24 bit, {}: converters.output_bits.value",
        ),
        (with_value("sg13g2", "rows", "63.5"), "63.5 is not a whole number, {}: tile.rows.value"),
        (with_value("sg13g2", "rows", "nan"), "Input should be a finite number, {}: tile.rows.value"),
        (with_value("sg13g2", "rows", '"64"'), "Input should be a valid number, {}: tile.rows.value"),
        (
            with_value("sg13g2", "length_max", "9.581"),
            "9.581 um is not on the manufacturing grid, {}: cell.length_max, correct that entry",
        ),
        (
            with_value("sg13g2", "contact_width", "0.365"),
            "half of it, 0.1825 um is not on the manufacturing grid, {}: cell.contact_width",
        ),
        (
            with_value("sg13g2", "mark_width", "2.001"),
            "half of it, 1.0005 um is not on the manufacturing grid, {}: chip",
        ),
        (
            with_value("sg13g2", "manufacturing", "1.5"),
            "is not a whole multiple of grid.database_unit, {}: grid.manufacturing",
        ),
        (
            with_entry("sg13g2", "family", 'family = "knob"'),
            "Input should be 'window', 'end', 'slide' or 'taps', {}: cell.family",
        ),
        (with_entry("sg13g2/tapvia", "window_length", ""), "the taps family needs it, {}: cell.window_length"),
        (with_value("sg13g2/tapvia", "window_length", "0.55"), "does not hold a contact, {}: cell.window_length"),
        (with_value("sg13g2/tapvia", "length_max", "8.2"), "is not of whole bodies, {}: cell.length_max"),
        (
            with_value("sg13g2/tapvia", "length_max", "7.5"),
            "is not that of the bodies and windows together, {}: cell.body_length",
        ),
        (with_value("sg13g2/tapvia", "pad_height", "1.06"), "pads touch each other, {}: cell.pad_height"),
        (
            with_entry("sg13g2/tapvia", "family", 'family = "end"'),
            "only the taps family has it, {}: cell.window_length",
        ),
        (
            with_entry("gf180mcu", "family", 'family = "slide"'),
            "the pad leaves a contact uncovered, {}: cell.pad_height",
        ),
        (with_value("gf180mcu", "row_wire_width", "0.3"), "leaves a contact uncovered, {}: cell.row_wire_width"),
        (with_value("gf180mcu", "row_wire_width", "12.66"), "row wires touch the pads, {}: cell.row_wire_width"),
        (with_entry("sg13g2", "family", 'family = "end"'), "only the window family has it, {}: cell.window_start"),
        (with_entry("sg13g2", "window_start", ""), "the window family needs it, {}: cell.window_start"),
        (with_value("sg13g2", "window_start", "1.0"), "is not below cell.length_min, {}: cell.window_start"),
        (with_value("sg13g2", "length_max", "10.0"), "leaves no window in cell.body_length, {}: cell.length_max"),
        (with_value("gf180mcu", "length_max", "12.5"), "is more than cell.body_length, {}: cell.length_max"),
        (with_value("gf180mcu", "length_min", "12.0"), "is not below cell.length_max, {}: cell.length_min"),
        (with_value("gf180mcu", "block_overhang", "0.29"), "blocks of neighbours overlap, {}: cell.strip_pitch"),
        (with_value("gf180mcu", "row_pitch", "13"), "strips of neighbouring rows overlap, {}: cell.row_pitch"),
        (with_value("gf180mcu", "head_length", "0.43"), "does not hold the contact, {}: cell.head_length"),
        (with_value("gf180mcu", "contact_width", "0.9"), "is wider than the strip, {}: cell.contact_width"),
        (with_value("gf180mcu", "via_offset", "0.3"), "the via leaves the pad, {}: cell.via_offset"),
        (
            with_value("gf180mcu", "ring_implant_overlap", "1"),
            "reaches the tile's blankets, {}: chip.ring_implant_overlap",
        ),
        (
            with_value("gf180mcu", "ring_contact_size", "0.6"),
            "is not below chip.ring_width and chip.ring_contact_pitch, {}: chip.ring_contact_size",
        ),
        (
            with_value("gf180mcu", "ring_distance", "4.3"),
            "does not hold the rings of two tiles, {}: chip.tile_spacing",
        ),
        (with_value("gf180mcu", "width_reduction", "0.8"), "leaves no electrical width, {}: resistor.width_reduction"),
        (
            with_entry("gf180mcu", "block", 'block = { name = "B", number = 30, datatype = 0, source = "mine" }'),
            "layer 30/0 is that of poly, {}: layers.block",
        ),
        (
            with_entry("gf180mcu", "name", 'name = "../x y"'),
            "String should match pattern '^[a-z0-9][a-z0-9_.\\-/]*$', {}: name",
        ),
        (
            with_entry("gf180mcu", "title", r'title = "\u001b[31m"'),
            "String should match pattern '^[^\\p{Cc}]+$', {}: title",
        ),
        (
            with_entry("gf180mcu", "column_wire_width", 'column_wire_width = { value = 0.4, unit = "um" }'),
            "missing key, {}: cell.column_wire_width.source, add it",
        ),
        ("", "missing key, {}: target, say crossbar or glass"),
    ],
)
def test_what_a_wrong_entry_is_told(tmp_path: Path, content: str, expected: str) -> None:
    said = refusal(tmp_path, content)
    assert said.startswith(expected.replace("{}", str(tmp_path / "mine.toml"))), said


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A third party's installed package with technologies ``acme`` and ``acme-typo``, and one whose file is lost."""
    package = tmp_path / "acme_fab"
    package.mkdir()
    (package / "__init__.py").write_text("")
    acme = with_entry("generic", "name", 'name = "acme"')
    (package / "acme-cell.toml").write_text(acme)
    (package / "typo.toml").write_text(acme.replace("tile_spacing", "tile_spaceing"))
    info = tmp_path / "acme_fab-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-fab\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[pfmc.technologies]\n"
        "acme = acme_fab:acme-cell.toml\nacme-typo = acme_fab:typo.toml\n"
        "acme-lost = acme_fab:lost.toml\nacme-gone = acme_gone:x.toml\ngeneric = acme_fab:acme-cell.toml\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield package
    sys.modules.pop("acme_fab", None)


def test_a_third_party_package_adds_a_technology(plug_in: Path) -> None:
    assert "acme" in names()
    assert load("acme") == load(str(plug_in / "acme-cell.toml"))
    assert load("acme").name == "acme"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "acme-typo",
            r"^no such key, acme-typo \(acme_fab:typo\.toml\): chip\.tile_spaceing, did you mean tile_spacing\?",
        ),
        ("acme-lost", r"cannot be read: .*lost\.toml.*acme-lost \(acme_fab:lost\.toml\), mend or reinstall"),
        ("acme-gone", r"cannot be read: No module named 'acme_gone', acme-gone \(acme_gone:x\.toml\)"),
        ("generic", "several packages install this technology, generic, keep one of .*acme_fab.*pfmc"),
    ],
)
@pytest.mark.usefixtures("plug_in")
def test_a_broken_package_is_named(name: str, expected: str) -> None:
    with pytest.raises(TechnologyError, match=expected):
        load(name)
