"""Fill and density: what is covered, by our measure, by another one, and by the foundries' decks; antennas."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import gdstk
import numpy as np
import pytest
from crossbars import layout, records, small
from hypothesis import given
from hypothesis import strategies as st
from klayout import db
from pfmc_backends.crossbar_gdsii import BACKEND, hierarchy
from pfmc_backends.crossbar_gdsii.density import check_densities, union_area
from pfmc_backends.crossbar_gdsii.fill import free_boxes
from pfmc_backends.crossbar_gdsii.gdsii import GdsiiFile
from pfmc_backends.crossbar_gdsii.rules import check_rules

from pfmc.backend import Density, Violated
from pfmc.layout.layout import Layout
from pfmc.technology.schema import Technology

DECKS = os.environ.get("PFMC_FOUNDRY_DECKS")
WITH_DECKS = pytest.mark.skipif(
    DECKS is None, reason="PFMC_FOUNDRY_DECKS does not name the folder with the foundries' decks"
)
BOXES = st.lists(st.tuples(*[st.integers(-9, 9)] * 2, *[st.integers(1, 9)] * 2), max_size=12).map(
    lambda sizes: np.array([(x, y, x + w, y + h) for x, y, w, h in sizes], dtype=np.int64).reshape(-1, 4)
)


def emitted(technology: Technology, folder: Path, blocks: list[tuple[int, int]], seed: int = 0) -> Layout:
    chip = layout(technology, blocks, seed)
    BACKEND.emit(chip, folder, lambda _: None)
    return chip


def densities(technology: Technology, folder: Path) -> tuple[dict[str, Density], dict[str, Violated]]:
    measured, violated = check_densities(GdsiiFile(folder / "masks" / "chip.gds"), technology)
    return {found.rule: found for found in measured}, {found.rule: found for found in violated}


def without_fill(technology: Technology) -> Technology:
    return technology.model_copy(update={"chip": technology.chip.model_copy(update={"fill": ()})})


@given(BOXES)
def test_area_counts_each_point_once(boxes: np.ndarray) -> None:
    assert union_area(boxes) == db.Region([db.Box(*box) for box in boxes.tolist()]).area()


@given(BOXES)
def test_free_boxes_are_what_is_not_taken(boxes: np.ndarray) -> None:
    def region(parts: Any) -> Any:
        return db.Region([db.Box(*part) for part in parts])

    free = free_boxes((0, 0, 8, 8), boxes)
    assert (region(free) ^ (region([(0, 0, 8, 8)]) - region(boxes.tolist()))).is_empty()
    assert sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in free) == region(free).area()  # none lies over another


@pytest.mark.parametrize("name", ["sg13g2", "sg13g2/rppd", "sg13g2/tapvia", "gf180mcu"])
def test_a_chip_has_the_densities_that_are_asked(name: str, tmp_path: Path) -> None:
    """But for what is left to the die: diffusion, which keeps away from poly, in the process that wants it."""
    chip = emitted(small(name, 24, 24), tmp_path, [(24, 24)] * 3)
    found, violated = densities(chip.technology, tmp_path)
    assert not violated
    assert {rule for rule, density in found.items() if not density.met} <= {"AFil.g"}


def test_density_is_what_klayout_measures(tmp_path: Path) -> None:
    technology = small("sg13g2", 6, 5)
    chip = emitted(technology, tmp_path, [(6, 5)] * 4)
    found, _ = densities(technology, tmp_path)
    file = db.Layout()
    file.read(str(tmp_path / "masks" / "chip.gds"))
    top = file.cell("chip")
    for rule, layers in {"M1.j": [(8, 0), (8, 22)], "GFil.g": [(5, 0), (5, 22)], "TM1.c": [(126, 22)]}.items():
        region = db.Region()
        for key in layers:
            region += db.Region(top.begin_shapes_rec(file.layer(*key)))
        assert found[rule].least == pytest.approx(region.area() / (chip.width * chip.height), rel=1e-12)


def test_a_large_chip_is_measured_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GF180MCU's rules have no windows, and the fill of a chip has more rectangles than are read at once."""
    technology = small("gf180mcu", 2, 2)
    wide = technology.chip.frame_margin.model_copy(update={"value": 600.0})
    technology = technology.model_copy(update={"chip": technology.chip.model_copy(update={"frame_margin": wide})})
    emitted(technology, tmp_path, [(2, 2)])
    monkeypatch.setattr(hierarchy, "_View", partial(hierarchy._View, shapes=1 << 19))
    found, _ = densities(technology, tmp_path)
    assert found["M3.4"].least == pytest.approx(4.0 * 2.0 / (5.2 * 3.2), rel=0.01)


def test_a_chip_that_is_too_empty_is_named(tmp_path: Path) -> None:
    technology = without_fill(small("sg13g2", 8, 8))
    chip = emitted(technology, tmp_path, [(8, 8)])
    check = check_rules(tmp_path, technology, records(chip), lambda _: None)
    found = {violated.rule for violated in check.violated}
    assert {"GFil.g", "M1.j", "M2.j", "M3.j", "M4.j", "M5.j", "TM1.c", "TM2.c"} == found
    assert not check.clean


def covering(folder: Path, *boxes: tuple[float, float, float, float]) -> None:
    """Draw metal 3 where a person with an editor would, in um."""
    path = folder / "masks" / "chip.gds"
    library = gdstk.read_gds(path)
    (chip,) = library.top_level()
    chip.add(*(gdstk.rectangle((x0, y0), (x1, y1), layer=30) for x0, y0, x1, y1 in boxes))
    library.write_gds(path)


def test_a_chip_that_is_too_full_is_named(tmp_path: Path) -> None:
    """A plate of metal 3, beside one with slanted edges, which is no rectangle."""
    technology = without_fill(small("sg13g2", 8, 8))
    chip = emitted(technology, tmp_path, [(8, 8)])
    width, height = chip.width / 1000, chip.height / 1000
    covering(tmp_path, (0.0, 0.0, width, 0.7 * height))
    found, violated = densities(technology, tmp_path)
    assert found["M3.k"].most == pytest.approx(0.7, abs=1e-4)
    assert "M3.k" in violated
    library = gdstk.read_gds(tmp_path / "masks" / "chip.gds")
    library.top_level()[0].add(gdstk.Polygon([(0, 0.7 * height), (width, 0.7 * height), (0, height)], layer=30))
    library.write_gds(tmp_path / "masks" / "chip.gds")
    assert densities(technology, tmp_path)[0]["M3.k"].most == pytest.approx(0.85, abs=1e-3)


def test_windows_that_are_too_full_or_too_empty_are_found(tmp_path: Path) -> None:
    """Half of a chip is covered, as the global rules ask, but all of it on one side."""
    technology = without_fill(small("sg13g2", 2, 2))
    wide = technology.chip.frame_margin.model_copy(update={"value": 700.0})
    technology = technology.model_copy(update={"chip": technology.chip.model_copy(update={"frame_margin": wide})})
    chip = emitted(technology, tmp_path, [(2, 2)])
    width, height = chip.width / 1000, chip.height / 1000
    covering(tmp_path, (0.0, 0.0, width / 2, height))
    found, violated = densities(technology, tmp_path)
    assert found["M3.j"].met
    assert found["M3.k"].met
    assert violated["M3Fil.k"].count == violated["M3Fil.h"].count == 3  # left and right column of windows
    assert found["M3Fil.k"].most == pytest.approx(min(1.0, width / 2 / 800))
    assert violated["M3Fil.k"].places[0].x == 400.0
    assert violated["M3Fil.h"].places[0].x == pytest.approx(width - 400.0, abs=1e-3)


def test_fill_is_alike_for_two_models_and_keeps_clear(tmp_path: Path) -> None:
    technology = small("sg13g2", 8, 8)
    regions = []
    for seed in (1, 2):
        emitted(technology, tmp_path / str(seed), [(8, 8)] * 5, seed)
        file = db.Layout()
        file.read(str(tmp_path / str(seed) / "masks" / "chip.gds"))
        top = file.cell("chip")
        regions.append(
            {
                (info.layer, info.datatype): db.Region(top.begin_shapes_rec(file.layer(info))).merged()
                for info in file.layer_infos()
            }
        )
    one, other = regions
    for fill in technology.chip.fill:
        drawn = one[fill.key]
        assert not drawn.is_empty()
        assert (drawn ^ other[fill.key]).is_empty()
        assert drawn.space_check(technology.grid.units(fill.space)).count() == 0
        if fill.clearance is not None:
            clearance = technology.grid.units(fill.clearance)
            for key in ((1, 0), (5, 0), (6, 0), (8, 0), (10, 0), (14, 0), (28, 0)):
                assert one[key].separation_check(drawn, clearance).count() == 0


def test_there_is_no_gate(tmp_path: Path) -> None:
    """All antenna rules are ratios to one; a transistor that somebody draws brings them back."""
    technology = small("sg13g2", 4, 4)
    chip = emitted(technology, tmp_path, [(4, 4)])
    path = tmp_path / "masks" / "chip.gds"
    library = gdstk.read_gds(path)
    library.top_level()[0].add(gdstk.rectangle((10.0, 8.0), (11.0, 9.0), layer=1))  # on a mark's arm
    library.top_level()[0].add(gdstk.rectangle((9.0, 8.2), (12.0, 8.8), layer=5))
    library.write_gds(path)
    check = check_rules(tmp_path, technology, records(chip), lambda _: None)
    assert "Ant.a to Ant.f" in {violated.rule for violated in check.violated}


# The foundries' own decks


def runner() -> ModuleType:
    found = importlib.util.spec_from_file_location("drc", Path(str(DECKS)) / "drc.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def deck_says(deck: Path, masks: Path, folder: Path) -> tuple[set[str], dict[str, float]]:
    """The rules that a deck finds violated, and the densities that it tells."""
    drc, report, log = runner(), folder / "report", folder / "log"
    shutil.copy(masks, folder / "in.gds")
    values = Path(str(DECKS)).resolve() / "sg13g2/drc/rule_decks/sg13g2_tech_default.json"
    options = {"input": folder / "in.gds", "topcell": "chip", "report": report, "log": log, "run_mode": "deep"}
    options |= {"threads": 1, "thr": 1, "drc_json": values, "drc_json_default": values, "metal_level": "5LM"}
    command = ["-b", "-zz", "-r", str(deck)]
    for key, value in options.items():
        command += ["-rd", f"{key}={value}"]
    if "gf180mcu" in deck.parts:  # any KLayout will do, but not one in a root of its own: it asks for pmap
        run = subprocess.run(["klayout", *command], capture_output=True, text=True, check=False)
    else:
        run = drc.klayout(command, folder)
    assert "ERROR" not in run.stdout + run.stderr, run.stderr
    told = re.findall(r"(\w+) +Density % = +([\d.]+)%", log.read_text()) if log.exists() else []
    return set(drc.violations(report)[1]), {layer: float(percent) / 100 for layer, percent in told}


@pytest.mark.parametrize(
    ("name", "unmet"),
    [
        ("sg13g2", {"AFil.g"}),
        pytest.param("sg13g2/slide", {"AFil.g"}, marks=pytest.mark.slow),
        pytest.param("sg13g2/compact", {"AFil.g"}, marks=pytest.mark.slow),
        pytest.param("sg13g2/rppd", {"AFil.g", "AFil.g2"}, marks=pytest.mark.slow),
        pytest.param("sg13g2/tapvia", {"AFil.g"}, marks=pytest.mark.slow),
        ("gf180mcu", set()),
    ],
)
@pytest.mark.foundry
@WITH_DECKS
def test_the_density_deck_says_the_same(name: str, unmet: set[str], tmp_path: Path) -> None:
    """Five tiles of the size that is shipped; what is unmet is what is left to the die."""
    chip = emitted(small(name, 64, 64), tmp_path, [(64, 64)] * 5)
    process = name.partition("/")[0]
    deck = Path(str(DECKS)).resolve() / process / "drc/rule_decks/density.drc"
    said, told = deck_says(deck, tmp_path / "masks" / "chip.gds", tmp_path)
    found, violated = densities(chip.technology, tmp_path)
    assert not violated
    assert said == unmet == {rule for rule, density in found.items() if not density.met}
    for rule, layer in {"AFil.g": "Activ", "GFil.g": "GatPoly", "M1.j": "Metal1", "M3.j": "Metal3"}.items():
        if process == "sg13g2":
            assert found[rule].least == pytest.approx(told[layer], abs=6e-5)


@pytest.mark.foundry
@WITH_DECKS
def test_the_antenna_deck_is_clean(tmp_path: Path) -> None:
    """SG13G2's rules of poly, contacts and diodes; those of metal need a KLayout newer than 0.30.0."""
    emitted(small("sg13g2", 8, 8), tmp_path, [(8, 8)])
    text = (Path(str(DECKS)) / "sg13g2/drc/rule_decks/antenna.drc").read_text()
    begin, end = text.index("# Cumulative Antenna Ratio Calculations"), text.index("# Rule Ant.g")
    (tmp_path / "antenna.drc").write_text(text[:begin] + text[end:])
    said, _ = deck_says(tmp_path / "antenna.drc", tmp_path / "masks" / "chip.gds", tmp_path)
    assert said == set()
