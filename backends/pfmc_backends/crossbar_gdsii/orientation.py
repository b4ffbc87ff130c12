"""How a reference turns what it places: mirrored, rotated, magnified."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class Orientation:
    """Mirrored about the x axis first, then magnified and rotated counter-clockwise by quarter turns.

    ``skew`` marks a rotation that is no multiple of a quarter turn, or a magnification that is no positive number: what
    such a reference places cannot be followed, only surrounded.
    """

    mirrored: bool = False
    quarter_turns: int = 0
    magnification: float = 1.0
    skew: bool = False

    @classmethod
    def of(cls, mirrored: bool, magnification: float, degrees: float) -> Orientation:
        """From the numbers of a GDSII reference."""
        turns = degrees / 90.0
        whole = math.isfinite(turns) and abs(turns - round(turns)) < 1e-9
        if not (whole and 0.0 < magnification < 1e6):
            reach = magnification if 0.0 < magnification < 1e6 else 1.0
            return cls(magnification=reach, skew=True)
        return cls(mirrored, round(turns) % 4, magnification)

    def then(self, outer: Orientation) -> Orientation:
        """Both, this one inside of ``outer``."""
        turns = -self.quarter_turns if outer.mirrored else self.quarter_turns
        return Orientation(
            self.mirrored != outer.mirrored,
            (outer.quarter_turns + turns) % 4,
            self.magnification * outer.magnification,
            self.skew or outer.skew,
        )

    def inverse(self) -> Orientation:
        """What undoes this one."""
        turns = self.quarter_turns if self.mirrored else -self.quarter_turns % 4
        return Orientation(self.mirrored, turns, 1.0 / self.magnification, self.skew)

    def points(self, xy: Int[np.ndarray, "n 2"]) -> Int[np.ndarray, "n 2"]:
        """Points turned about the origin, rounded to whole units."""
        if self == IDENTITY:
            return xy
        x, y = xy[:, 0], -xy[:, 1] if self.mirrored else xy[:, 1]
        for _ in range(self.quarter_turns):
            x, y = -y, x
        turned = np.stack([x, y], axis=1)
        if self.magnification != 1.0:
            turned = np.rint(turned * self.magnification).astype(xy.dtype)
        return turned

    def boxes(self, boxes: Int[np.ndarray, "n 4"]) -> Int[np.ndarray, "n 4"]:
        """Boxes (x0, y0, x1, y1) turned about the origin; a skew orientation gives the square that holds every turn."""
        if self == IDENTITY:
            return boxes
        if self.skew:
            reach = np.ceil(np.abs(boxes).max(axis=1) * (math.sqrt(2.0) * self.magnification)).astype(boxes.dtype)
            return np.stack([-reach, -reach, reach, reach], axis=1)
        a, b = self.points(boxes[:, :2]), self.points(boxes[:, 2:])
        return np.concatenate([np.minimum(a, b), np.maximum(a, b)], axis=1)


IDENTITY: Final = Orientation()
