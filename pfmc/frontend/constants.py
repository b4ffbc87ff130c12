"""The trained constants of a model, as references to files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import ml_dtypes  # noqa: F401  numpy learns bfloat16 from it
import numpy as np
import onnx
from onnx import helper, numpy_helper

from pfmc.errors import ImportModelError
from pfmc.ir.weights import Weight

SMALL_BYTES: Final = 1 << 20  # tensors that are stored in the model are read at once up to this size
CHUNK: Final = 1 << 22  # elements looked at at a time


class Constants:
    """Initialisers and Constant nodes of a folded model.

    Those stored in the model itself are written to a file of their own when they are asked for as a weight, so that
    every weight is a reference.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        self._folder = folder
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                value = next((a.t for a in node.attribute if a.name == "value"), None)
                if value is not None:
                    self._tensors[node.output[0]] = value
        self._weights: dict[str, Weight] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Of all constants."""
        return tuple(self._tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a constant."""
        return tuple(self._tensors[name].dims)

    def dtype(self, name: str) -> str:
        """Type of a constant, as numpy or ml_dtypes name it."""
        return helper.tensor_dtype_to_np_dtype(self._tensors[name].data_type).name

    def values(self, name: str) -> np.ndarray:
        """A small constant, as float64."""
        return np.asarray(self.weight(name).map(), dtype=np.float64)

    def weight(self, name: str) -> Weight:
        """A reference to a constant."""
        if name not in self._weights:
            self._weights[name] = self._reference(name)
        return self._weights[name]

    def check_finite(self, weight: Weight, where: str) -> None:
        """Look at every number of a weight, in bounded memory.

        Raises:
            ImportModelError: if one is NaN or infinite.
        """
        flat = weight.map().reshape(-1)
        for start in range(0, flat.size, CHUNK):
            if not np.isfinite(flat[start : start + CHUNK].astype(np.float32)).all():
                raise ImportModelError(f"the weight {weight.name} holds NaN or infinity", where)

    def _reference(self, name: str) -> Weight:
        tensor = self._tensors[name]
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            path, offset = self._folder / entries["location"], int(entries.get("offset", "0"))
        else:
            path, offset = self._folder / f"constant-{len(self._weights)}.bin", 0
            path.write_bytes(np.ascontiguousarray(numpy_helper.to_array(tensor)).tobytes())
        return Weight(name, self.shape(name), self.dtype(name), path, offset)
