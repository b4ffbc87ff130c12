"""Homodyne detection against what quantum optics says, and the units of what comes out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pfmc.physics.homodyne import (
    CHARGE,
    amplitude_noise,
    current_per_amplitude,
    passive_gain,
    photon_energy,
    power_for_bits,
)

WAVELENGTH, BANDWIDTH = 1e-6, 1e8
PERFECT = CHARGE / photon_energy(WAVELENGTH)  # responsivity of a detector that counts every photon, A/W


def test_the_current_is_that_of_two_photodiodes_behind_a_beam_splitter() -> None:
    responsivity, oscillator, signal = 0.7, 1e-3, 2e-9
    field = math.sqrt(signal) * np.exp(0.4j)
    sums = [(math.sqrt(oscillator) + sign * field) / math.sqrt(2) for sign in (1, -1)]
    difference = responsivity * (abs(sums[0]) ** 2 - abs(sums[1]) ** 2)
    read = current_per_amplitude(responsivity, oscillator) * field.real
    assert read == pytest.approx(difference, rel=1e-12)


def test_a_perfect_receiver_has_the_noise_of_half_a_photon_per_reading() -> None:
    """In a time of 1 / (2 B) the vacuum's quadrature has the energy of a quarter photon: h f / 4 of one quadrature."""
    noise = amplitude_noise(PERFECT, 1.0, 0.0, BANDWIDTH)
    assert noise**2 / (2 * BANDWIDTH) == pytest.approx(photon_energy(WAVELENGTH) / 4, rel=1e-12)


def test_shot_noise_is_that_of_counted_photons() -> None:
    """Photons that arrive at random: the variance of their difference is the number of all of them."""
    oscillator, time = 1e-9, 1 / (2 * BANDWIDTH)
    mean = oscillator * time / photon_energy(WAVELENGTH) / 2
    counts = np.random.default_rng(1).poisson(mean, (2, 100_000))
    current = CHARGE * (counts[0] - counts[1]) / time
    expected = amplitude_noise(PERFECT, oscillator, 0.0, BANDWIDTH) * current_per_amplitude(PERFECT, oscillator)
    assert current.std() == pytest.approx(expected, rel=0.02)


def test_a_weak_oscillator_leaves_the_amplifiers_noise() -> None:
    shot, both = (amplitude_noise(0.7, 1e-6, noise, BANDWIDTH) for noise in (0.0, 5e-12))
    assert both > 3 * shot
    assert amplitude_noise(0.7, 1.0, 5e-12, BANDWIDTH) == pytest.approx(
        amplitude_noise(0.7, 1.0, 0.0, BANDWIDTH), rel=1e-3
    )


def test_power_for_bits_is_the_way_back() -> None:
    noise, gain = amplitude_noise(0.7, 1e-3, 5e-12, BANDWIDTH), 0.05
    needed = power_for_bits(6.0, noise, gain)
    assert gain * math.sqrt(needed) / noise == pytest.approx(2**6, rel=1e-12)


@pytest.mark.parametrize(("rows", "columns"), [(64, 10), (100, 100), (30, 400)])
def test_a_random_matrix_at_the_passive_gain_amplifies_nothing(rows: int, columns: int) -> None:
    matrix = passive_gain(rows, columns) * np.random.default_rng(2).normal(size=(rows, columns))
    assert np.linalg.norm(matrix, 2) == pytest.approx(1, abs=0.08)
