"""Constants that a model has more than once: branches of an If often have copies of their own."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import numpy_helper

from pfmc.frontend.bodies import replace_all
from pfmc.frontend.building import graphs_of

SMALLEST_BYTES: Final = 1024  # of numbers that are worth a look


def merge_equal(graph: onnx.GraphProto, folder: Path) -> None:
    """Keep the first of each set of equal constants of a flat model; ``folder`` has its external data."""
    fixed = {value.name for values in (graph.input, graph.output) for value in values}
    alike: dict[tuple[int, ...], list[onnx.TensorProto]] = defaultdict(list)
    for tensor in graph.initializer:
        if tensor.name not in fixed:
            alike[tensor.data_type, *tensor.dims].append(tensor)
    kept: dict[str, str] = {}
    for tensors in alike.values():
        first: dict[bytes, str] = {}
        for tensor in tensors if len(tensors) > 1 else ():
            numbers = _bytes(tensor, folder)
            if numbers.size >= SMALLEST_BYTES:
                kept[tensor.name] = first.setdefault(hashlib.sha256(numbers.data).digest(), tensor.name)
    for part in graphs_of(graph):
        for node in part.node:
            replace_all(node.input, [kept.get(name, name) for name in node.input])
    replace_all(
        graph.initializer, [tensor for tensor in graph.initializer if kept.get(tensor.name, tensor.name) == tensor.name]
    )


def _bytes(tensor: onnx.TensorProto, folder: Path) -> np.ndarray:
    """The numbers of a tensor; those of external data are mapped."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return np.frombuffer(tensor.raw_data or numpy_helper.to_array(tensor).tobytes(), np.uint8)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    offset, length = int(entries.get("offset", "0")), int(entries["length"])
    return np.memmap(folder / entries["location"], np.uint8, "r", offset, (length,))
