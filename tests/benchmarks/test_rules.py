"""Benchmark: the rule check of whole chips, and of one tile by KLayout alone, flat."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

JOB = """
import json, sys, tempfile, time
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from crossbars import layout, records, small
from klayout import db
from pfmc_backends.crossbar_gdsii import BACKEND
from pfmc_backends.crossbar_gdsii.rule_kinds import Masks, violations
from pfmc_backends.crossbar_gdsii.rules import check_rules

name, tiles = sys.argv[2], int(sys.argv[3])
chip = layout(small(name, 64, 64), [(64, 64)] * tiles)
with tempfile.TemporaryDirectory() as folder:
    start = time.perf_counter()
    BACKEND.emit(chip, Path(folder), lambda _: None)
    emit = time.perf_counter() - start
    times = [time.perf_counter()]
    check = check_rules(Path(folder), chip.technology, records(chip), lambda _: times.append(time.perf_counter()))
    ours = {"emit": emit, "first": times[1] - times[0], "all": times[-1] - times[0], "clean": check.clean}
    ours["last"] = (times[-1] - times[-1 - tiles // 4]) / (tiles // 4)
    one = layout(chip.technology, [(64, 64)])
    BACKEND.emit(one, Path(folder), lambda _: None)
    start = time.perf_counter()
    file = db.Layout()
    file.read(folder + "/masks/chip.gds")
    top = file.cell("chip")
    masks = Masks(chip.technology, lambda key: db.Region(top.begin_shapes_rec(file.layer(*key))))
    found = sum(1 for rule in chip.technology.design_rules.local for _ in violations(rule, masks))
    ours["flat"] = time.perf_counter() - start
    assert found == 0
print(json.dumps(ours))
"""


@pytest.mark.parametrize("name", ["sg13g2", "sg13g2/slide", "gf180mcu"])
def test_chips_of_64_tiles(name: str) -> None:
    command = [sys.executable, "-c", JOB, Path(__file__).parent.parent, name, "64"]
    took = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert took["clean"]
    print(f"\n{name:14} 64 tiles {took['all']:5.2f} s: first {took['first']:5.2f} s, last {took['last']:5.3f} s each;")
    print(f"{'':14} emit {took['emit'] / 64:5.3f} s a tile; KLayout alone, flat {took['flat']:5.2f} s a tile")
    assert took["last"] < took["flat"] / 10
