"""The rule that turns a convolution into matrix × vector: which inputs each output position sees."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Shaped


@dataclass(frozen=True)
class Windows:
    """Sliding windows over the spatial axes of an N × C × spatial tensor; every field has one entry per axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]

    @classmethod
    def single(cls, axes: int) -> Windows:
        """Single positions."""
        ones, zeros = (1,) * axes, (0,) * axes
        return cls(ones, ones, ones, zeros, zeros)

    def __call__(self, x: Shaped[np.ndarray, "batch channels *spatial"]) -> Shaped[np.ndarray, "batch *positions rows"]:
        """The windows of ``x`` as vectors: channel slowest, then the kernel's axes, as ONNX stores a Conv's weights."""
        view, axes = self._view(x), len(self.kernel)
        return view.reshape(*view.shape[: 1 + axes], -1)

    def count(self, x: Shaped[np.ndarray, "batch channels *spatial"]) -> int:
        """How many windows ``x`` has."""
        padded = (n + a + b for n, a, b in zip(x.shape[2:], self.pads_begin, self.pads_end, strict=True))
        along = zip(padded, self.kernel, self.dilations, self.strides, strict=True)
        return len(x) * math.prod(int(n - d * (k - 1) - 1) // s + 1 for n, k, d, s in along)

    def some(
        self, x: Shaped[np.ndarray, "batch channels *spatial"], chosen: Int[np.ndarray, " chosen"]
    ) -> Shaped[np.ndarray, "chosen rows"]:
        """Some of the windows of ``x``, by their place among all; the others take no memory."""
        view = self._view(x)
        found = view[np.unravel_index(chosen, view.shape[: 1 + len(self.kernel)])]
        return found.reshape(len(chosen), math.prod(found.shape[1:]))

    def _view(self, x: Shaped[np.ndarray, "batch channels *spatial"]) -> Shaped[np.ndarray, ...]:
        """Batch, positions, channel, and the kernel's axes; nothing is copied but for the padding."""
        axes = len(self.kernel)
        x = np.pad(x, [(0, 0), (0, 0), *zip(self.pads_begin, self.pads_end, strict=True)])
        reach = tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True))
        view = np.lib.stride_tricks.sliding_window_view(x, reach, axis=tuple(range(2, 2 + axes)))
        steps = tuple(slice(None, None, s) for s in self.strides)
        taps = tuple(slice(None, None, d) for d in self.dilations)
        view = view[(slice(None), slice(None), *steps, *taps)]
        return view.transpose(0, *range(2, 2 + axes), 1, *range(2 + axes, 2 + 2 * axes))

    def __str__(self) -> str:
        def sizes(values: tuple[int, ...]) -> str:
            return "x".join(map(str, values))

        parts = [f"kernel={sizes(self.kernel)}", f"strides={sizes(self.strides)}"]
        if any(d != 1 for d in self.dilations):
            parts.append(f"dilations={sizes(self.dilations)}")
        if any(self.pads_begin) or any(self.pads_end):
            parts.append(f"pads={sizes(self.pads_begin)}:{sizes(self.pads_end)}")
        return f"windows({' '.join(parts)})"
