"""The foundries' own rule decks on chips with random devices: wires, pins, labels, frame and marks included."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from crossbars import layout, small
from pfmc_backends.crossbar_gdsii import BACKEND

DECKS = os.environ.get("PFMC_FOUNDRY_DECKS")
CELLS = ["sg13g2", "sg13g2/slide", "sg13g2/compact", "sg13g2/rppd", "sg13g2/tapvia", "gf180mcu"]

pytestmark = [
    pytest.mark.foundry,
    pytest.mark.skipif(DECKS is None, reason="PFMC_FOUNDRY_DECKS does not name the folder with the foundries' decks"),
]


@pytest.mark.parametrize("size", [8, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CELLS)
def test_a_chip_is_clean(name: str, size: int, tmp_path: Path) -> None:
    """A full tile whose lengths lie anywhere in the range, and one with unused strips; each foundry has two decks."""
    chip = layout(small(name, size, size), [(size, size), (size // 2, size - 3)])
    BACKEND.emit(chip, tmp_path, lambda _done: None)
    command = [sys.executable, Path(str(DECKS)) / "drc.py", name.partition("/")[0], tmp_path / "masks" / "chip.gds"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    print(run.stdout)
    reports = run.stdout.strip().splitlines()
    assert run.returncode == 0, run.stdout + run.stderr
    assert len(reports) == 2
    assert all(report.endswith("rule categories, clean") for report in reports)
