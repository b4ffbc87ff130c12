"""What a crossbar of resistor pairs computes: I = W_effᵀ V, with every wire segment counted."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from pfmc.physics.network import Wires, transfer_matrix

IDEAL = Wires(0.0, 0.0)


def effective_matrix(
    conductance: Float[np.ndarray, "*batch rows columns 2"], wires: Wires = IDEAL, used: tuple[int, int] | None = None
) -> Float[np.ndarray, "*batch used_rows used_columns"]:
    """Current of a column pair, + less −, per volt on a row, in siemens; all other rows at 0 V.

    The wires of + and − alternate: the network has 2 · columns columns.

    Args:
        conductance: siemens, of the + and − device of each weight (last axis).
        wires: what lies around the devices, broadcast to rows × 2 · columns crossings; ideal ones if left out.
        used: how many of the first rows and column pairs are wanted, if not all; the others load the wires anyway.
    """
    *batch, rows, columns, _ = conductance.shape
    used_rows, used_columns = used or (rows, columns)
    currents = conductance[..., :used_rows, :used_columns, :]
    if wires is not IDEAL:
        crossings = conductance.reshape(*batch, rows, 2 * columns)
        currents = transfer_matrix(crossings, wires, (used_rows, 2 * used_columns)).reshape(currents.shape)
    return np.asarray(currents[..., 0] - currents[..., 1])
