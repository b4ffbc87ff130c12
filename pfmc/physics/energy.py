"""Power, currents and times of a crossbar that is read: what a chip draws, and what its wires must carry.

The inputs are described by their mean squares alone. With wire resistance the power P = E[vᵀ G_in v], G_in the input
admittance of the rows, lies between two sums over the rows: :func:`least_power` ≤ P ≤ :func:`resistive_power`. The
upper one is the power with ideal wires: resistance added in series never raises what fixed voltages deliver (Rayleigh's
monotonicity law; P. Doyle, J. Snell, Random Walks and Electric Networks, 1984). The lower one leaves out what flows
between rows at different voltages: vᵀ G_in v = Σ_i v_i² Σ_j T_ij + ½ Σ_ik c_ik (v_i − v_k)², with T the currents into
the sense nodes and c_ik ≥ 0 what rows exchange; it is exact where all rows have one voltage. In the samples' tiles the
upper one is 1 to 7 % too high with the wires of sg13g2 and 4 to 20 % with those of gf180mcu.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float


def resistive_power(conductance: Float[np.ndarray, "rows columns"], mean_square: Float[np.ndarray, " rows"]) -> float:
    """Power that drivers deliver into the array, at most, in watts: exact with ideal wires, sense nodes at ground.

    Args:
        conductance: of all devices on the driven rows, siemens; both devices of a pair are columns.
        mean_square: of the rows' voltages, V².
    """
    return float(mean_square @ conductance.sum(axis=1))


def least_power(transfer: Float[np.ndarray, "rows columns"], mean_square: Float[np.ndarray, " rows"]) -> float:
    """Power that drivers deliver into the array with its wires, at least, in watts.

    Args:
        transfer: current into each column's sense node per volt on each row, siemens
            (:func:`pfmc.physics.network.transfer_matrix`).
        mean_square: of the rows' voltages, V².
    """
    return float(mean_square @ transfer.sum(axis=1))


def supply_power(
    conductance: Float[np.ndarray, "rows columns"], mean_square: Float[np.ndarray, " rows"], supply_voltage: float
) -> float:
    """Power that the array's currents draw from the supply, at most, in watts.

    A row's current flows from the supply through the driver's output stage, the array and the amplifiers' output stages
    to ground, whatever the row's own small voltage is. E|v| ≤ √E[v²] bounds the mean current; currents of opposite sign
    that meet in the array would draw less.

    Args:
        conductance: of all devices on the driven rows, siemens.
        mean_square: of the rows' voltages, V².
        supply_voltage: volts.
    """
    rows, _ = wire_current(conductance, np.sqrt(mean_square))
    return supply_voltage * float(rows.sum())


def wire_current(
    conductance: Float[np.ndarray, "rows columns"], voltage: Float[np.ndarray, " rows"]
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " columns"]]:
    """Largest current in each row wire (at its driver) and in each column wire (at its sense node), amperes.

    With ideal wires. With root mean squares as voltages these are bounds of the root mean squares of the currents, and
    so of their averages, however the rows' voltages are correlated (Minkowski's inequality).

    Args:
        conductance: of all devices on the driven rows, siemens.
        voltage: of the rows, ≥ 0: full scale, or root mean squares.
    """
    return voltage * conductance.sum(axis=1), voltage @ conductance


def settling_time(bandwidth: float, bits: int) -> float:
    """Seconds in which one pole of ``bandwidth`` hertz settles to half a step of ``bits`` bits: (bits + 1) ln 2 / 2πf.

    The array itself is faster: its wires have ohms and fractions of a picofarad, its columns a hundred ohms.
    """
    return (bits + 1) * math.log(2.0) / (2.0 * math.pi * bandwidth)


def conversion_energy(energy_per_step: float, bits: int) -> float:
    """Joules of one conversion, F · 2^bits: Walden's figure of merit (IEEE JSAC 17, 1999), all bits taken as effective.

    Args:
        energy_per_step: F, joules.
        bits: resolution.
    """
    return energy_per_step * 2.0**bits
