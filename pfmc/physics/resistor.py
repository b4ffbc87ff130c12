"""Resistance of a partly silicided poly strip between two contacts."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def strip_resistance(
    blocked_length: Float[np.ndarray, "*n"],
    silicided_length: Float[np.ndarray, "*n"],
    *,
    sheet_resistance: float,
    silicide_sheet_resistance: float,
    drawn_width: Float[np.ndarray, "*n"],
    width_reduction: float,
    terminal_resistance: float,
    terminal_width_reduction: float,
) -> Float[np.ndarray, "*n"]:
    """Resistance of strips, in ohms: unsalicided body, silicided remainder and two terminals in series.

    R = ρ·L/(W − ΔW) + ρ_s·L_s/W + 2·t/(W − ΔW_t): the body as the foundries' compact models have it (r3_cmc with ideal
    temperature and voltage coefficients), the silicided part at its own sheet resistance over the drawn width.

    Args:
        blocked_length: metres covered by the salicide block, the sum where a strip has several bodies.
        silicided_length: metres of silicided poly between the contacts, less the heads that a terminal includes.
        sheet_resistance: ρ, ohms per square of the unsalicided poly.
        silicide_sheet_resistance: ρ_s, ohms per square.
        drawn_width: W, metres.
        width_reduction: ΔW, metres.
        terminal_resistance: t, ohm·metres, of one end.
        terminal_width_reduction: ΔW_t, metres: zero where the model divides by the drawn width.
    """
    body = sheet_resistance * blocked_length / (drawn_width - width_reduction)
    remainder = silicide_sheet_resistance * silicided_length / drawn_width
    return np.asarray(body + remainder + 2.0 * terminal_resistance / (drawn_width - terminal_width_reduction))
