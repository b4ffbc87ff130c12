"""The trained constants of a model, as references to files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import ml_dtypes  # noqa: F401  numpy learns bfloat16 from it
import numpy as np
import onnx
from jaxtyping import Float
from onnx import helper, numpy_helper

from pfmc.errors import ImportModelError
from pfmc.ir.weights import Weight

CHUNK: Final = 1 << 22  # elements looked at at a time
ALIGNMENT: Final = 8  # bytes


class Constants:
    """Initialisers of a folded model; ONNX Runtime has made initialisers of its Constant nodes.

    Small ones are stored in the model itself; they are written to a file of their own when they are asked for as a
    weight, so that every weight is a reference.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        self._folder = folder
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._weights: dict[str, Weight] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a constant."""
        return tuple(self._tensors[name].dims)

    def dtype(self, name: str) -> str:
        """Type of a constant, as numpy or ml_dtypes name it."""
        return helper.tensor_dtype_to_np_dtype(self._tensors[name].data_type).name

    def values(self, name: str) -> Float[np.ndarray, ...]:
        """A small constant, as float64."""
        tensor = self._tensors[name]
        external = tensor.data_location == onnx.TensorProto.EXTERNAL
        stored = self.weight(name).map() if external else numpy_helper.to_array(tensor)
        return np.asarray(stored, dtype=np.float64)

    def weight(self, name: str) -> Weight:
        """A reference to a constant."""
        if name not in self._weights:
            self._weights[name] = self._reference(name)
        return self._weights[name]

    def _reference(self, name: str) -> Weight:
        tensor = self._tensors[name]
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            path, offset = self._folder / entries["location"], int(entries.get("offset", "0"))
        else:
            path = self._folder / "constants.bin"
            with path.open("ab") as f:
                offset = f.tell()
                stored = numpy_helper.to_array(tensor).tobytes()
                f.write(stored + bytes(-len(stored) % ALIGNMENT))
        return Weight(name, self.shape(name), self.dtype(name), path, offset)


def check_finite(weight: Weight, where: str) -> None:
    """Look at every number of a weight, in bounded memory.

    Raises:
        ImportModelError: if one is NaN or infinite.
    """
    flat = weight.map().reshape(-1)
    for start in range(0, flat.size, CHUNK):
        if not np.isfinite(flat[start : start + CHUNK]).all():
            raise ImportModelError(f"the weight {weight.name} holds NaN or infinity", where)
