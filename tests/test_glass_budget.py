"""Light that a layer needs: what noise asks for, and how it falls with the layer's width."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pfmc.glass_budget import photons_by_width, read_time, receiver_noise
from pfmc.physics.homodyne import photon_energy
from pfmc.technology.glass import GlassTechnology
from pfmc.technology.kinds import glass
from pfmc.technology.loader import load


def with_tiles(rows: int, columns: int) -> GlassTechnology:
    technology = glass(load("fused-silica"), "fused-silica")
    sizes = {
        key: getattr(technology.tile, key).model_copy(update={"value": float(value)})
        for key, value in (("rows", rows), ("columns", columns))
    }
    return technology.model_copy(update={"tile": technology.tile.model_copy(update=sizes)})


def test_within_a_tile_light_falls_as_the_inverse_of_the_width() -> None:
    """The scaling of Anderson et al., Optical Transformers, arXiv:2302.10360, and an end of it where tiles end."""
    photons = photons_by_width(with_tiles(256, 256), 8, 4.0)
    widths = np.array(list(photons))
    np.testing.assert_allclose(np.array(list(photons.values())) * widths, photons[4] * 4, rtol=1e-12)
    small = photons_by_width(with_tiles(16, 16), 8, 4.0)
    assert list(small) == [4, 8, 16] and small[16] == photons[16]


def test_so_many_photons_leave_the_noise_that_was_asked_for() -> None:
    """A hundred random vectors through a random matrix, as strong as a passive piece of glass can be."""
    technology, bits, crest, width = with_tiles(64, 64), 6, 4.0, 64
    rng = np.random.default_rng(3)
    matrix = rng.normal(size=(width, width))
    matrix /= np.linalg.norm(matrix, 2)
    photons = photons_by_width(technology, bits, crest)[width] * width  # per input and reading
    amplitude = math.sqrt(photons * photon_energy(technology.light.wavelength.si) / read_time(technology, bits))
    outputs = amplitude * rng.normal(size=(100, width)) @ matrix
    assert crest * outputs.std() / receiver_noise(technology) == pytest.approx(2**bits, rel=0.05)
