"""Balanced homodyne detection: what of a field is read, and how well the light's own noise lets it be read.

A field of amplitude E (square root of watts) meets a local oscillator of power P_LO on two photodiodes; the difference
of their currents is i = 2 R √P_LO · Re(E · exp(−iφ)), R the responsivity and φ the oscillator's phase. Its noise is the
shot noise of the local oscillator, 2 q R P_LO B (one-sided, bandwidth B), and that of the amplifier, i_n² B
(H. P. Yuen, V. W. S. Chan, Opt. Lett. 8, 177, 1983; H.-A. Bachor, T. C. Ralph, A Guide to Experiments in Quantum
Optics, 2004, section 8.1).
"""

from __future__ import annotations

import math
from typing import Final

CHARGE: Final = 1.602176634e-19  # coulomb, exact: the SI's definition
PLANCK_TIMES_LIGHT: Final = 6.62607015e-34 * 299792458.0  # joule metres, exact


def current_per_amplitude(responsivity: float, oscillator_power: float) -> float:
    """Amperes per square root of a watt of the quadrature that is read.

    Args:
        responsivity: of the photodiodes, A/W.
        oscillator_power: of the local oscillator, watts.
    """
    return 2 * responsivity * math.sqrt(oscillator_power)


def amplitude_noise(responsivity: float, oscillator_power: float, receiver_noise: float, bandwidth: float) -> float:
    """Root mean square of the noise of a reading, as an amplitude, √W.

    With a strong local oscillator and a quiet amplifier √(q B / 2 R): half a photon's energy per mode at R = q λ / h c.

    Args:
        responsivity: A/W.
        oscillator_power: watts.
        receiver_noise: of the amplifier referred to its input, A/√Hz.
        bandwidth: Hz.
    """
    shot = 2 * CHARGE * responsivity * oscillator_power * bandwidth
    return math.sqrt(shot + receiver_noise**2 * bandwidth) / current_per_amplitude(responsivity, oscillator_power)


def photon_energy(wavelength: float) -> float:
    """Joules of a photon; wavelength in vacuum, metres."""
    return PLANCK_TIMES_LIGHT / wavelength


def passive_gain(rows: int, columns: int) -> float:
    """Largest gain at which glass, which amplifies nothing, can be a random matrix of this size.

    Of independent weights with mean 0 and standard deviation 1: the largest singular value, which is not far from
    √rows + √columns (Z. D. Bai, Y. Q. Yin, Ann. Probab. 21, 1275, 1993), times the gain must not exceed 1.
    """
    return 1.0 / (math.sqrt(rows) + math.sqrt(columns))


def power_for_bits(bits: float, noise: float, gain: float) -> float:
    """Power at an input at which one output's full scale is 2^bits of its noise's standard deviation, watts.

    Args:
        bits: of the reading, zero to peak.
        noise: as an amplitude, √W.
        gain: amplitude at the output at full scale per amplitude at an input at full scale.
    """
    return float((2.0**bits * noise / gain) ** 2)
