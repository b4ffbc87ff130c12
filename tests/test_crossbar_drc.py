"""The foundries' own decks on chips with random devices: wires, pins, labels, rings, frame and marks included."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from crossbars import layout, small
from pfmc_backends.crossbar_gdsii import BACKEND

from pfmc.layout.layout import Layout

DECKS = os.environ.get("PFMC_FOUNDRY_DECKS")
CELLS = ["sg13g2", "sg13g2/slide", "sg13g2/compact", "sg13g2/rppd", "sg13g2/tapvia", "gf180mcu"]
QUICK = {"sg13g2", "gf180mcu"}  # the others are slow tests

pytestmark = [
    pytest.mark.foundry,
    pytest.mark.skipif(DECKS is None, reason="PFMC_FOUNDRY_DECKS does not name the folder with the foundries' decks"),
]


def judged(chip: Layout, folder: Path) -> tuple[int, str]:
    """Exit status of the decks' runner on the masks of a layout, and what it says."""
    BACKEND.emit(chip, folder, lambda _done: None)
    process = chip.technology.name.partition("/")[0]
    command = [sys.executable, Path(str(DECKS)) / "drc.py", process, folder / "masks" / "chip.gds"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    print(run.stdout)
    return run.returncode, run.stdout + run.stderr


@pytest.mark.parametrize("size", [8, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CELLS]
)
def test_a_chip_is_clean(name: str, size: int, tmp_path: Path) -> None:
    """A full tile whose lengths lie anywhere in the range, and one with unused strips; each foundry has two decks."""
    assert_clean(layout(small(name, size, size), [(size, size), (size // 2, size - 3)]), tmp_path)


@pytest.mark.parametrize("name", ["sg13g2", pytest.param("sg13g2/tapvia", marks=pytest.mark.slow), "gf180mcu"])
def test_a_chip_with_wider_wires_is_clean(name: str, tmp_path: Path) -> None:
    technology = small(name, 8, 8)
    assert_clean(layout(technology.with_wires(technology.cell.wider_wires[0]), [(8, 8), (4, 5)]), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(QUICK))
def test_a_chip_of_20000_weights_is_clean(name: str, tmp_path: Path) -> None:
    assert_clean(layout(small(name, 64, 64), [(64, 64)] * 5), tmp_path)


def assert_clean(chip: Layout, folder: Path) -> None:
    status, said = judged(chip, folder)
    reports = said.strip().splitlines()
    assert status == 0, said
    assert len(reports) == 2
    assert all(report.endswith("rule categories, clean") for report in reports)


@pytest.mark.parametrize("name", [name for name in CELLS if name.startswith("sg13g2")])
def test_the_foundrys_extractor_finds_every_strip_as_programmed(name: str, tmp_path: Path) -> None:
    """Its layout-versus-schematic deck, up to the netlist: model, length, wires at both ends, and the ring as body."""
    technology = small(name, 2, 2)
    chip = layout(technology, [(2, 2)])
    BACKEND.emit(chip, tmp_path, lambda _done: None)
    (tmp_path / "none.cir").write_text(".subckt none\n.ends\n")
    runner = importlib.util.spec_from_file_location("drc", Path(str(DECKS)) / "drc.py")
    assert runner is not None and runner.loader is not None
    drc = importlib.util.module_from_spec(runner)
    runner.loader.exec_module(drc)
    options = {
        "input": tmp_path / "masks" / "chip.gds",
        "topcell": chip.tiles[0].tile.name,
        "schematic": tmp_path / "none.cir",
        "report": tmp_path / "report",
        "log": tmp_path / "log",
        "target_netlist": tmp_path / "found.cir",
        "run_mode": "flat",
        "net_only": "true",
    }
    command = ["-b", "-zz", "-r", f"{Path(str(DECKS)).resolve()}/sg13g2/lvs/sg13g2.lvs"]
    for key, value in options.items():
        command += ["-rd", f"{key}={value}"]
    drc.klayout(command, tmp_path)
    line = re.compile(r"^R\S+ (\w+) (\w+) sub (\w+) w=(\S+)u l=(\S+)u ", re.MULTILINE)
    found = {}
    for one, other, *device in line.findall((tmp_path / "found.cir").read_text()):
        row, column = sorted((one, other), reverse=True)
        if row.startswith("row"):  # in a chain, not what lies beyond the tap
            found[row, column] = (device[0], *map(float, device[1:]))
    lengths = chip.programme.devices(chip.tiles[0].tile).lengths
    width = technology.cell.strip_width.value
    assert found == {
        (f"row{r}", f"col{c}{'pn'[p]}"): (technology.resistor.name, width, lengths[r, c, p] / 1000)
        for r, c, p in np.ndindex(lengths.shape)
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("smaller", "rule"),
    [
        ({"strip_pitch": 0.89, "block_overhang": 0.195}, "Sal.c"),
        ({"row_pitch": 11.03}, "Gat.b"),
        ({"row_pitch": 11.02, "head_length": 0.42}, "CntB.d"),
        ({"row_pitch": 11.02, "head_length": 0.42, "contact_distance": 0.19}, "Rhi.d"),
        ({"strip_pitch": 0.89, "strip_width": 0.49, "contact_width": 0.35}, "Rhi.a"),
    ],
)
def test_a_strip_can_be_no_smaller(smaller: dict[str, float], rule: str, tmp_path: Path) -> None:
    """The pitch is the foundry's: 10 nm less of what it is made of, and its deck says which rule that breaks."""
    technology = small("sg13g2", 4, 4)
    cell = technology.cell
    changed = {key: getattr(cell, key).model_copy(update={"value": value}) for key, value in smaller.items()}
    technology = technology.model_copy(update={"cell": cell.model_copy(update=changed)})
    status, said = judged(layout(technology, [(4, 4)]), tmp_path)
    assert status == 1
    assert f"'{rule}'" in said
