"""How fast masks are read back, and in how much memory; gdstk and KLayout load the same file in the same run.

Each job is a process of its own, so that its peak memory is its own and no type checks slow it down. The peers only
load the file; measuring the strips would come on top.
"""

from __future__ import annotations

from pathlib import Path

from measuring import measured, shown

START = """
import json, resource, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from crossbars import layout, records
from pfmc.technology.loader import load
from pfmc_backends.crossbar_gdsii import BACKEND
folder, blocks = Path(sys.argv[2]), int(sys.argv[3])
technology = load("sg13g2")
chip = layout(technology, [(64, 64)] * blocks)
"""

EMIT = """
BACKEND.emit(chip, folder, lambda done: None)
seconds = 1.0
"""

READ = """
tiles = records(chip)
start = time.perf_counter()
found = sum(built.found for built in BACKEND.read(folder, technology, tiles, lambda done: None))
seconds = time.perf_counter() - start
assert found == blocks * 8192
"""

GDSTK = """
import gdstk
start = time.perf_counter()
library = gdstk.read_gds(folder / "masks" / "chip.gds")
seconds = time.perf_counter() - start
"""

KLAYOUT = """
import klayout.db
start = time.perf_counter()
masks = klayout.db.Layout()
masks.read(str(folder / "masks" / "chip.gds"))
seconds = time.perf_counter() - start
"""


def test_reading_beside_gdstk_and_klayout(tmp_path: Path) -> None:
    """A million weights: every resistance from the geometry by pfmc, the structures alone by the others."""
    measured(START + EMIT, tmp_path, 256)
    ours = measured(START + READ, tmp_path, 256)
    print()
    shown("pfmc, file to resistances, 1 M weights", ours)
    gdstk = measured(START + GDSTK, tmp_path, 256)
    shown("gdstk, file to structures, 1 M weights", gdstk)
    shown("KLayout, file to structures, 1 M weights", measured(START + KLAYOUT, tmp_path, 256))
    assert ours["weights_per_second"] > 0.5e6
    assert ours["peak_mib"] < gdstk["peak_mib"]


def test_a_layer_of_4096_by_4096(tmp_path: Path) -> None:
    """A file of a gigabyte, in less than a gibibyte of memory."""
    measured(START + EMIT, tmp_path, 4096)
    result = measured(START + READ, tmp_path, 4096)
    print()
    shown("pfmc, file to resistances, 4096 x 4096", result)
    assert result["weights_per_second"] > 0.5e6
    assert result["peak_mib"] < 1024
