"""Pictures of a bundle: what lies in the masks, what the masks compute, and where tiles stand."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Int
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pfmc.errors import printable
from pfmc.technology.schema import Technology

# Fill and opacity by the layer's role, drawn in this order; the personalised mask is the one that stands out.
STYLE: Final = {
    "poly": ("#c0392b", 0.75),
    "block": ("#f1c40f", 0.60),
    "contact": ("#1b1f24", 0.95),
    "metal1": ("#2e86c1", 0.55),
    "via1": ("#6c3483", 0.95),
    "metal2": ("#27ae60", 0.16),
}


@dataclass(frozen=True)
class Picture:
    """A PNG image as base64 text, and what it shows."""

    caption: str
    data: str

    @classmethod
    def of(cls, caption: str, png: bytes) -> Picture:
        """Encode it."""
        return cls(caption, base64.b64encode(png).decode("ascii"))


def mask_picture(
    technology: Technology, shapes: dict[str, Int[np.ndarray, "n 4"]], window: tuple[int, int, int, int]
) -> bytes:
    """The drawn shapes of a few weights, as PNG; coordinates in micrometres from the tile's origin."""
    figure = Figure(figsize=(8, 9), layout="constrained")
    axes = figure.add_subplot()
    to_um = technology.grid.database_unit.si * 1e6
    legend = []
    for role, (colour, opacity) in STYLE.items():
        layer = getattr(technology.layers, role)
        boxes = shapes.get(layer.name, np.zeros((0, 4), dtype=np.int64)) * to_um
        corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
        axes.add_collection(PolyCollection(list(corners), facecolor=colour, edgecolor="none", alpha=opacity))
        legend.append(Patch(facecolor=colour, alpha=opacity, label=f"{layer.name} {layer}"))
    axes.set_xlim(window[0] * to_um, window[2] * to_um)
    axes.set_ylim(window[1] * to_um, window[3] * to_um)
    axes.set_aspect("equal")
    axes.set_xlabel("µm")
    axes.set_ylabel("µm")
    figure.legend(handles=legend, loc="outside upper center", ncols=6, frameon=False, columnspacing=1)
    return _png(figure)


def matrix_picture(matrix: Float[np.ndarray, "rows columns"], title: str) -> bytes:
    """A matrix as a map of colours, as PNG."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.add_subplot()
    reach = float(np.abs(matrix[np.isfinite(matrix)]).max(initial=1e-12))
    image = axes.imshow(matrix, cmap="RdBu", vmin=-reach, vmax=reach, interpolation="nearest")
    figure.colorbar(image, ax=axes, shrink=0.8)
    axes.set_title(title)
    axes.set_xlabel("column")
    axes.set_ylabel("row")
    return _png(figure)


def floor_plan(nodes: Sequence[str], corners: Float[np.ndarray, "tiles 2"], size: tuple[float, float]) -> bytes:
    """Where tiles stand, coloured by the contraction that they belong to, as PNG.

    Args:
        nodes: name of each tile's contraction.
        corners: lower left, x and y, metres.
        size: width and height of a tile, metres.
    """
    figure = Figure(figsize=(7, 7), layout="constrained")
    axes = figure.add_subplot()
    steps = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * np.array(size)
    numbers = {node: i for i, node in enumerate(dict.fromkeys(nodes))}
    boxes = PolyCollection(list(1e3 * (corners[:, None] + steps)), cmap="turbo", edgecolor="white", linewidth=0.3)
    boxes.set_array(np.array([numbers[node] for node in nodes], dtype=float))
    axes.add_collection(boxes)
    axes.autoscale_view()
    axes.set_aspect("equal")
    axes.set_xlabel("mm")
    axes.set_ylabel("mm")
    return _png(figure)


def index_picture(index_change: Float[np.ndarray, "layers y x"], voxel: float, layer: float) -> bytes:
    """The middle layer of a volume and a cut along the light through its middle, as PNG; sizes in metres."""
    layers, height, width = index_change.shape
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    across, along = figure.subplots(1, 2, width_ratios=(1, 1.4))
    reach = float(np.abs(index_change).max()) or 1.0
    low = -reach if (index_change < 0).any() else 0.0
    style: dict[str, Any] = {
        "cmap": "RdBu" if low < 0 else "viridis",
        "vmin": low,
        "vmax": reach,
        "interpolation": "nearest",
    }
    x, y, z = width * voxel * 1e6, height * voxel * 1e6, layers * layer * 1e6
    across.imshow(index_change[layers // 2], extent=(0, x, 0, y), origin="lower", **style)
    across.set_xlabel("x, µm")
    across.set_ylabel("y, µm")
    cut = index_change[:, height // 2].T
    image = along.imshow(cut, extent=(0, z, 0, x), origin="lower", aspect="auto", **style)
    along.set_xlabel("z, µm (the light's way)")
    along.set_ylabel("x, µm")
    figure.colorbar(image, ax=along, label="index change")
    return _png(figure)


def energy_picture(joules: Mapping[str, Mapping[str, float]]) -> bytes:
    """Bars of what takes energy in an inference, by contraction and kind, as PNG; the first contraction at the top."""
    figure = Figure(figsize=(8, 1.2 + 0.28 * len(joules)), layout="constrained")
    axes = figure.add_subplot()
    place = np.arange(len(joules))
    left = np.zeros(len(joules))
    for kind in next(iter(joules.values())):
        width = np.array([parts[kind] for parts in joules.values()]) * 1e9
        axes.barh(place, width, left=left, label=kind)
        left += width
    axes.set_yticks(place, [printable(name, 40) for name in joules], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("nJ per inference")
    figure.legend(loc="outside upper center", ncols=5, frameon=False)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()
