"""Units. Physics is in SI and float64; geometry is in integer database units; files say which they use."""

from __future__ import annotations

from typing import Final

# Multipliers to SI of the unit names that a technology file may use, with the dimension each one measures.
UNITS: Final[dict[str, tuple[str, float]]] = {
    "nm": ("length", 1e-9),
    "um": ("length", 1e-6),
    "mm": ("length", 1e-3),
    "m": ("length", 1.0),
    "ohm": ("resistance", 1.0),
    "kohm": ("resistance", 1e3),
    "ohm/sq": ("sheet resistance", 1.0),
    "ohm*m": ("resistance times width", 1.0),
    "ohm*um": ("resistance times width", 1e-6),
    "V": ("voltage", 1.0),
    "mV": ("voltage", 1e-3),
    "A": ("current", 1.0),
    "mA": ("current", 1e-3),
    "A/m": ("current per width", 1.0),
    "mA/um": ("current per width", 1e3),
    "J": ("energy", 1.0),
    "pJ": ("energy", 1e-12),
    "fJ": ("energy", 1e-15),
    "W": ("power", 1.0),
    "uW": ("power", 1e-6),
    "s": ("time", 1.0),
    "ns": ("time", 1e-9),
    "Hz": ("frequency", 1.0),
    "MHz": ("frequency", 1e6),
    "m2": ("area", 1.0),
    "mm2": ("area", 1e-6),
    "um2": ("area", 1e-12),
    "bit": ("bits", 1.0),
    "1": ("count", 1.0),
    "%": ("ratio", 1e-2),
    "ppm": ("ratio", 1e-6),
    "%/mm": ("ratio per length", 10.0),
    "%*um": ("ratio times length", 1e-8),
    "um^1.5": ("length to the power of 1.5", 1e-9),
    "step": ("converter steps", 1.0),
    "degC": ("temperature", 1.0),
    "ppm/K": ("temperature coefficient", 1e-6),
    "ppm/K2": ("quadratic temperature coefficient", 1e-6),
}
