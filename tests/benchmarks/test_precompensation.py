"""What wires cost a tile: scale, error after compensation and after rounding, time; beside no compensation."""

from __future__ import annotations

import time

import numpy as np
import pytest

from pfmc.physics.network import Wires
from pfmc.physics.precompensation import PairArray, precompensate, relative_error
from pfmc.primitives.crossbar import CrossbarTile
from pfmc.technology.loader import load

HIGH = 1e-4


@pytest.mark.parametrize(
    ("n", "x", "low"),
    [(n, x, 0.01) for n in (64, 128) for x in (0.01, 0.1, 1.0)]
    + [(n, x, 0.12) for n in (64, 128) for x in (0.01, 0.1)]
    + [(256, 0.01, 0.01)],
)
def test_unrounded(n: int, x: float, low: float) -> None:
    """Evaluations and the share of the scale; x = r · G_max · n."""
    target = np.random.default_rng(n).standard_normal((n, n))
    array = PairArray(Wires(x / HIGH / n, x / HIGH / n), n, n)
    start = time.perf_counter()
    found = precompensate(target, array, conductance_min=low * HIGH, conductance_max=HIGH)
    seconds = time.perf_counter() - start
    assert found.residual <= 1e-6
    ignored = low * HIGH + found.scale * np.maximum(np.stack([target, -target], axis=-1), 0)
    without = relative_error(array.effective(ignored), found.scale * target)
    share = found.scale / found.ideal_scale
    print(
        f"\n{n}² x={x:<4} G_min={low} G_max: scale {share:.4f} of ideal, {found.evaluations} solutions, "
        f"residual {found.residual:.0e}, {seconds * 1e3:.0f} ms; without compensation {without:.1e}",
        end="",
    )


@pytest.mark.parametrize(("levels", "most"), [(400, 2e-4), (2000, 4e-5)])
def test_rounded(levels: int, most: float) -> None:
    """Levels of equally spaced resistance, 10 kΩ to 300 kΩ, at 128² and x = 0.01."""
    n, low, slope = 128, 10e3, 290e3 / (levels - 1)
    wires = Wires(0.01 * low / n, 0.01 * low / n)
    tile = CrossbarTile("levels", n, n, 1, 0, levels - 1, levels - 1, low, slope, wires)
    block = np.random.default_rng(levels).standard_normal((n, n))
    scale = tile.feasible_scale(block)
    programmed = tile.program(block, scale, compensate=True)
    nearest = np.rint((programmed.wanted - tile.resistance_at_zero) / tile.resistance_slope)
    rounded_alone = relative_error(tile.pairs.effective(1 / tile.resistance(nearest.astype(np.int32))), scale * block)
    print(f"\n{levels} levels: {programmed.residual:.1e}; nearest levels {rounded_alone:.1e}", end="")
    assert programmed.residual < most


@pytest.mark.parametrize("name", ["sg13g2", "sg13g2/slide", "sg13g2/rppd", "gf180mcu", "generic"])
def test_technologies(name: str) -> None:
    """A full tile of normal weights as the compiler makes it."""
    tile = CrossbarTile.of(load(name))
    block = np.random.default_rng(1).standard_normal((tile.rows, tile.columns))
    start = time.perf_counter()
    scale = tile.feasible_scale(block)
    middle = time.perf_counter()
    programmed = tile.program(block, scale, compensate=True)
    end = time.perf_counter()
    without = tile.program(block, scale, compensate=False)
    share = scale / tile.scale(float(np.abs(block).max()))
    print(
        f"\n{name}: scale {share:.3f} of ideal in {1e3 * (middle - start):.0f} ms, lengths in "
        f"{1e3 * (end - middle):.0f} ms, error {programmed.residual:.1e}; "
        f"without compensation {without.residual:.1e}",
        end="",
    )
    assert programmed.residual < without.residual / 100
