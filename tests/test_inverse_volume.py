"""From a matrix to voxels: what was asked for is what light does, also on a finer grid than it was solved on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pfmc.errors import UsageError
from pfmc.physics.diffraction import gaussian_modes, spot_centres
from pfmc.physics.inverse_volume import Problem, correct, index_of, match_wavefronts, solve
from pfmc.physics.volume import Volume, transfer_matrix

COARSE = Volume(10, 10, 10, 2e-6, 40e-6, 1e-6, 1.45, spread=1e-6, samples=2, steps=3)
CONTRAST = 5e-3
W = np.array([[1.0, -0.5, 0.3, 0.8], [0.2, 0.9, -1.0, 0.1], [-0.6, 0.4, 0.7, -0.2]])


def problem(volume: Volume) -> Problem:
    inputs = gaussian_modes(spot_centres(2, 2, 8e-6), 2.5e-6, volume.grid)
    return Problem(W, inputs, gaussian_modes(spot_centres(1, 3, 6e-6), 2.5e-6, volume.grid), volume, CONTRAST)


def test_light_computes_the_matrix_on_a_finer_grid() -> None:
    coarse, fine = problem(COARSE), problem(replace(COARSE, samples=3, steps=8))
    matched = match_wavefronts(coarse, np.random.default_rng(0).uniform(-0.5, 0.5, COARSE.shape))
    assert matched.error < 0.9
    solved = solve(coarse, matched, 0.7 * matched.gain)
    assert solved.error < 1e-3
    corrected = correct(coarse, fine, solved)
    assert corrected.error < 1e-3
    delta_n = index_of(corrected.variable, CONTRAST)
    assert np.abs(delta_n).max() <= CONTRAST / 2
    finest = problem(replace(COARSE, samples=4, steps=16, padding=24e-6))
    light = transfer_matrix(delta_n, finest.inputs, finest.outputs, finest.volume)
    assert np.linalg.norm(light.real / corrected.gain - W) / np.linalg.norm(W) < 6e-3


def test_what_cannot_be_asked_for_is_refused() -> None:
    coarse = problem(COARSE)
    with pytest.raises(UsageError, match="outputs x inputs"):
        replace(coarse, target=W.T)
    with pytest.raises(UsageError, match="zero"):
        replace(coarse, target=0 * W)
    with pytest.raises(UsageError, match="contrast of 0"):
        replace(coarse, contrast=0.0)
    start = match_wavefronts(coarse, np.zeros(COARSE.shape) + 0.1, sweeps=1)
    with pytest.raises(UsageError, match="gain of -1"):
        solve(coarse, start, -1.0)
