"""Small graphs for tests, with weights in files as the frontend leaves them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pfmc.ir.graph import Gemm, Graph, MatMul
from pfmc.ir.weights import Weight
from pfmc.passmanager import Context
from pfmc.technology.schema import Technology


def weight(folder: Path, name: str, values: np.ndarray) -> Weight:
    """A reference to an array, written to a file of its own after some bytes that do not belong to it."""
    path = folder / f"{name}.bin"
    path.write_bytes(b"not this" + np.ascontiguousarray(values).tobytes())
    return Weight(name, values.shape, values.dtype.name, path, 8)


def perceptron(folder: Path, rng: np.random.Generator, sizes: Sequence[int] = (6, 5, 3)) -> Graph:
    """Two layers: a MatMul and a Gemm."""
    first = rng.standard_normal((sizes[0], sizes[1])).astype(np.float32)
    second = rng.standard_normal((sizes[2], sizes[1])).astype(np.float32)
    bias = rng.standard_normal(sizes[2])
    nodes = (
        MatMul("fc1", "x", "h", weight(folder, "fc1.weight", first), None, ("fc1",)),
        Gemm("fc2", "h", "y", weight(folder, "fc2.weight", second), bias, ("fc2",), alpha=2.0, transposed=True),
    )
    shapes = {"x": (None, sizes[0]), "h": (None, sizes[1]), "y": (None, sizes[2])}
    return Graph("perceptron", ("x",), ("y",), nodes, shapes)


def context(technology: Technology, values: dict[str, np.ndarray]) -> Context:
    """A context whose calibration data are one batch of given values."""

    def activations(names: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        yield {name: values[name] for name in names}

    return Context(technology, activations, "title")
