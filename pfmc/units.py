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
    "bit": ("bits", 1.0),
    "1": ("count", 1.0),
}

MICROMETRE: Final = 1e-6


def engineering(value: float, unit: str) -> str:
    """A number with an SI prefix, for people: ``engineering(3277, "Ω") == "3.28 kΩ"``."""
    if value == 0:
        return f"0 {unit}"
    prefixes = {-15: "f", -12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T"}
    exponent = max(-15, min(12, 3 * int(f"{value:e}".split("e")[1]) // 3 // 3 * 3))
    return f"{value / 10.0**exponent:.3g} {prefixes[exponent]}{unit}"
