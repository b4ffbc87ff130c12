"""What of a matrix is drawn, and in which order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True, eq=False)
class Arrangement:
    """What the host does between the model's vectors and those of the matrix that is drawn.

    Attributes:
        inputs: how many entries the model's vector has.
        rows: which of them each row takes.
        columns: which column each of the model's outputs is read from.
        gains: what that is multiplied by; 0: the model's column is all zero.
    """

    inputs: int
    rows: Int[np.ndarray, " rows"]
    columns: Int[np.ndarray, " outputs"]
    gains: Float[np.ndarray, " outputs"]

    def taken(self, vectors: Float[np.ndarray, "vectors inputs"]) -> Float[np.ndarray, "vectors rows"]:
        """What the rows are given."""
        return np.asarray(vectors[:, self.rows])
