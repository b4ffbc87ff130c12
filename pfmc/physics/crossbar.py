"""The crossbar tile as a linear network."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def effective_matrix(
    conductance: Float[np.ndarray, "*batch rows columns 2"],
) -> Float[np.ndarray, "*batch rows columns"]:
    """Current out of each column pair per volt on each row, in siemens, with ideal wires: W_eff = G+ − G−.

    Args:
        conductance: siemens, of the + and − device of each weight (last axis).
    """
    return np.asarray(conductance[..., 0] - conductance[..., 1])
