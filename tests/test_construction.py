"""From a matrix to levels: what was asked for is what light does in them, on an independent and finer grid too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pfmc.errors import UsageError
from pfmc.physics.construction import Constructed, Ports, construct
from pfmc.physics.diffraction import gaussian_modes, spot_centres
from pfmc.physics.polish import polish
from pfmc.physics.volume import Volume, transfer_matrix

VOLUME = Volume(12, 12, 12, 2e-6, 40e-6, 1e-6, 1.45, spread=1e-6, samples=2, steps=16)
PORTS = Ports(spot_centres(2, 2, 8e-6), spot_centres(1, 3, 6e-6), 2.5e-6)
W = np.array([[1.0, -0.5, 0.3, 0.8], [0.2, 0.9, -1.0, 0.1], [-0.6, 0.4, 0.7, -0.2]])


def judged(found: Constructed, table: np.ndarray, volume: Volume) -> float:
    """Relative error, at the gain that was promised, where light is computed more finely than for the construction."""
    finer = replace(volume, samples=3, steps=24, padding=32e-6)
    modes = [gaussian_modes(centres, PORTS.waist, finer.grid) for centres in (PORTS.inputs, PORTS.outputs)]
    light = transfer_matrix(table[found.levels], modes[0], modes[1], finer)
    return float(np.linalg.norm(light.real / found.gain - W) / np.linalg.norm(W))


@pytest.mark.parametrize(
    "table",
    [np.linspace(0, 5e-3, 16), np.linspace(0, -5e-3, 16), np.array([-2.5e-3, -1e-3, 0.5e-3, 2.5e-3])],
    ids=["positive", "negative", "both, uneven"],
)
def test_light_in_the_levels_computes_the_matrix(table: np.ndarray) -> None:
    found = construct(W, PORTS, VOLUME, table, np.random.default_rng(0))
    assert found.error < 0.01
    assert judged(found, table, VOLUME) < 0.012
    assert found.gain * np.linalg.norm(W, 2) > 0.3  # of what a passive piece of glass can do at most
    assert found.crosstalk == pytest.approx(found.error * np.sqrt(np.mean(W**2)) / np.abs(W).max())
    again = construct(W, PORTS, VOLUME, table, np.random.default_rng(0))
    assert np.array_equal(again.levels, found.levels)


def test_torch_may_send_the_light() -> None:
    torch = pytest.importorskip("torch")
    volume, table = replace(VOLUME, layers=6, padding=12e-6), np.linspace(0, 5e-3, 16)
    rows, ports = W[:2], replace(PORTS, outputs=PORTS.outputs[:2])
    found = construct(rows, ports, volume, table, np.random.default_rng(0), place=torch.asarray)
    own = construct(rows, ports, volume, table, np.random.default_rng(0))
    assert found.error < 0.02
    assert found.gain == pytest.approx(own.gain, rel=0.05)


def test_a_miss_is_told() -> None:
    """Two layers cannot do it: the error that is given is what light does, not what was hoped for."""
    volume, table = replace(VOLUME, layers=2), np.linspace(0, 5e-3, 2)
    found = construct(W, PORTS, volume, table, np.random.default_rng(0))
    assert found.error > 0.02
    assert judged(found, table, volume) == pytest.approx(found.error, rel=0.1)


def test_polish_goes_far_below_rounding() -> None:
    rng = np.random.default_rng(3)
    slopes, table = rng.normal(size=(2000, 60)).astype(np.float32), np.linspace(0, 1, 16)
    levels = rng.integers(0, 16, 2000)
    wanted = rng.uniform(0, 1, 2000)
    levels = np.rint(15 * wanted).astype(np.int64)
    residual = (wanted - table[levels]) @ slopes
    left = polish(slopes, levels, table, residual, 0.0, rng)
    assert np.linalg.norm(left) < np.linalg.norm(residual) / 4
    np.testing.assert_allclose(left, (wanted - table[levels]) @ slopes, atol=1e-4)
    assert levels.min() >= 0
    assert levels.max() <= 15


def test_what_cannot_be_asked_for_is_refused() -> None:
    table, rng = np.linspace(0, 5e-3, 16), np.random.default_rng(0)
    with pytest.raises(UsageError, match="outputs x inputs"):
        construct(W.T, PORTS, VOLUME, table, rng)
    with pytest.raises(UsageError, match="zero"):
        construct(0 * W, PORTS, VOLUME, table, rng)
    with pytest.raises(UsageError, match="monotonic"):
        construct(W, PORTS, VOLUME, np.array([0.0, 2e-3, 1e-3]), rng)
