"""What a converter's range costs: the coarser its steps, the less it cuts off, and the other way round."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float, Int

SHRINK: Final = 0.9  # from one candidate to the next
CANDIDATES: Final = 20  # the least is an eighth of the largest value
SLACK: Final = 1.25  # in mean square, for a wider range: values that were not seen go further. More than 1 / SHRINK²


def candidates(largest: float) -> Float[np.ndarray, " candidates"]:
    """Ranges to choose from, the largest first."""
    return largest * SHRINK ** np.arange(CANDIDATES)


def promising(limits: Float[np.ndarray, " candidates"], largest: float, highest: int, count: int) -> int:
    """How many of the candidates can have a smaller squared error than the first, for so many values.

    What that one rounds off is at most half a step of each value; the others cut that much of the largest value off.
    """
    worst = count * (0.5 * limits[0] / highest) ** 2
    return int(np.count_nonzero(np.square(np.maximum(largest - limits, 0.0)) <= worst))


def widest_of_the_best(squares: Float[np.ndarray, " candidates"]) -> int:
    """Which candidate to take: the widest whose mean square error is near the least.

    It is never worse than the largest range, for that is the widest.
    """
    return int(np.argmax(squares <= SLACK * squares.min()))


def squared_errors(
    values: Float[np.ndarray, " n"], limits: Float[np.ndarray, " candidates"], codes: tuple[int, int]
) -> Float[np.ndarray, " candidates"]:
    """Sum of the squares of what a converter rounds off and cuts off, for each range that it could have.

    Args:
        limits: what the highest code stands for.
        codes: lowest and highest.
    """
    low, high = codes
    scaled = np.asarray(values / limits[0], dtype=np.float32)
    found, exact, code = np.empty(len(limits)), np.empty_like(scaled), np.empty_like(scaled)
    for i, limit in enumerate(limits):
        np.multiply(scaled, np.float32(high * (limits[0] / limit)), out=exact)
        np.clip(np.rint(exact, out=code), low, high, out=code)
        code -= exact
        found[i] = np.dot(code, code) * (limit / limits[0]) ** 2
    return np.asarray(found * (limits[0] / high) ** 2)


def beyond(values: Float[np.ndarray, " n"], limits: Float[np.ndarray, " candidates"]) -> Int[np.ndarray, " candidates"]:
    """How many values lie beyond each limit, in magnitude."""
    magnitudes = np.abs(values)
    return np.array([np.count_nonzero(magnitudes > limit) for limit in limits])
