"""A hundred made chips of the digits CNN, beside as many plain runs of ONNX Runtime and solutions of every tile.

Chips share the cores, and what they are compared with has one. The ratio of the times that the cores worked tells, also
where the machine has other work, what a machine with so many free cores would come to: on two, no longer is asked for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

import pfmc
from pfmc.bundle import read_tiles
from pfmc.check.monte_carlo import Fabrication, monte_carlo
from pfmc.data import load_dataset, load_values
from pfmc.frontend.runtime import Runtime
from pfmc.physics.crossbar import effective_matrix

SAMPLE = Path(__file__).parent.parent.parent / "samples" / "digits_cnn"
RUNS = 100
WORK = 2.2  # times that of plain runs and solutions, at most; 2, two cores, is wanted, the rest is for other work


def seconds(job: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Of one call."""
    start = clock()
    job()
    return clock() - start


def test_monte_carlo(tmp_path: Path) -> None:
    bundle = pfmc.compile(SAMPLE / "model.onnx", tmp_path / "chip", calibration=SAMPLE / "calibration.npz")
    manifest = bundle.manifest
    original = Runtime(manifest.path_of(bundle.path, "model"))
    as_fabricated = Runtime(bundle.path / "as_fabricated.onnx")
    dataset = load_dataset(SAMPLE / "test.npz", original.inputs)
    tiles = list(bundle.read_back())
    made = Fabrication.of(
        manifest.technology,
        manifest.path_of(bundle.path, "host"),
        read_tiles(manifest.path_of(bundle.path, "tiles")),
        tiles,
        load_values(manifest.path_of(bundle.path, "input-values"), original.inputs),
        seed=0,
        trim=False,
    )
    wanted = original.run(dataset)

    def solve() -> None:
        for tile in tiles:
            effective_matrix(1 / tile.resistance, tile.wires)

    def chips() -> None:
        monte_carlo(made, dataset, wanted, runs=RUNS, tolerance=0.05, progress=lambda _done: None)

    with threadpool_limits(limits=1, user_api="blas"):
        solve()
        plain, fabricated, solved = (
            float(np.median([seconds(job) for _ in range(20)])) * RUNS
            for job in (lambda: original.run(dataset), lambda: as_fabricated.run(dataset), solve)
        )
        took = float(np.median([seconds(chips) for _ in range(3)]))
        worked = seconds(chips, time.process_time)
        plain_work, solved_work = (
            float(np.median([seconds(job, time.process_time) for _ in range(20)])) * RUNS
            for job in (lambda: original.run(dataset), solve)
        )
    cores = os.cpu_count() or 1
    print(
        f"{RUNS} made chips of digits_cnn, {len(tiles)} tiles, {dataset.samples} samples: {took:.2f} s; "
        f"{RUNS} runs of the original model {plain:.2f} s, as fabricated {fabricated:.2f} s, "
        f"{RUNS} solutions of every tile {solved:.2f} s; "
        f"ratio {took / (plain + solved):.2f} (original), {took / (fabricated + solved):.2f} (as fabricated); "
        f"of the work {worked / (plain_work + solved_work):.2f}, "
        f"on {cores} cores: {worked / (plain_work + solved_work) / cores:.2f}"
    )
    assert worked < WORK * (plain_work + solved_work)
