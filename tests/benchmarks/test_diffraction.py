"""How fast light is propagated on one core, beside torchoptics in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from pfmc.physics.diffraction import Grid, propagate
from pfmc.physics.volume import Volume, propagate_volume


def milliseconds(work: Callable[[], object]) -> float:
    """Least of three repeats, after a first one."""
    work()
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return 1e3 * min(taken)


def test_six_propagations_of_64_fields() -> None:
    grid = Grid(128, 128, 2e-6, 1e-6, 1.45)
    fields = np.random.default_rng(1).normal(size=(64, 128, 128)).astype(np.complex64)

    def own() -> None:
        light = fields
        for _ in range(6):
            light = propagate(light, grid, 40e-6)

    slabs = milliseconds(own)
    volume = Volume(6, 64, 64, 1e-6, 40e-6, 1e-6, 1.45, samples=1, steps=1, padding=32e-6)
    delta_n = np.random.default_rng(2).normal(size=volume.shape).astype(np.float32) * 1e-3
    assert (volume.grid.rows, volume.grid.columns) == (128, 128)
    written = milliseconds(lambda: propagate_volume(fields, delta_n, volume))
    print(f"\n64 fields of 128², 6 slabs: {slabs:.0f} ms; 6 written layers: {written:.0f} ms", end="")
    torch = pytest.importorskip("torch")
    torchoptics = pytest.importorskip("torchoptics")
    torch.set_num_threads(1)

    def peer() -> None:
        light = torchoptics.Field(torch.asarray(fields), grid.wavelength / grid.index, 0, grid.pixel)
        for i in range(6):
            light = light.propagate_to_z((i + 1) * 40e-6, propagation_method="ASM", asm_pad=0)

    with torch.no_grad():
        theirs = milliseconds(peer)
    print(f"; torchoptics without padding {theirs:.0f} ms, {theirs / slabs:.1f} times as long")
    assert slabs < theirs
