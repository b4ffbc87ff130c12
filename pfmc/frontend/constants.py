"""The trained constants of a model, as references to files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import ml_dtypes  # noqa: F401  numpy learns bfloat16 from it
import numpy as np
import onnx
from jaxtyping import Float
from onnx import helper, numpy_helper

from pfmc.errors import ImportModelError
from pfmc.ir.weights import Quantisation, Weight

CHUNK: Final = 1 << 20  # elements looked at at a time
ALIGNMENT: Final = 8  # bytes
FLOATS: Final = ("float32", "float16", "bfloat16", "float64")


class Constants:
    """Initialisers of a folded model, and what its nodes only rearrange or make floating-point of them.

    ONNX Runtime has made initialisers of its Constant nodes, and computed what it can; it leaves quantised weights
    quantised. Small initialisers are stored in the model itself; they are written to a file of their own when they are
    asked for as a weight, so that every weight is a reference.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        self._folder = folder
        self._tensors: dict[str, onnx.TensorProto] = {}
        self._weights: dict[str, Weight] = {}
        self.store(model.graph.initializer)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors or name in self._weights

    def store(self, tensors: Iterable[onnx.TensorProto]) -> None:
        """Know these too."""
        self._tensors.update((tensor.name, tensor) for tensor in tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a constant."""
        return tuple(self._tensors[name].dims) if name in self._tensors else self._weights[name].shape

    def dtype(self, name: str) -> str:
        """Type of a constant, as numpy or ml_dtypes name it."""
        if name in self._tensors:
            return helper.tensor_dtype_to_np_dtype(self._tensors[name].data_type).name
        return self._weights[name].dtype

    def values(self, name: str) -> Float[np.ndarray, ...]:
        """A small constant, as float64."""
        tensor = self._tensors.get(name)
        if tensor is not None and tensor.data_location != onnx.TensorProto.EXTERNAL:
            return np.asarray(numpy_helper.to_array(tensor), dtype=np.float64)
        weight = self.weight(name)
        return weight.take(np.arange(weight.size)).reshape(weight.shape)

    def weight(self, name: str) -> Weight:
        """A reference to a constant."""
        if name not in self._weights:
            self._weights[name] = self._reference(name)
        return self._weights[name]

    def learn(self, node: onnx.NodeProto) -> bool:
        """Whether what a node makes is a constant too: then it is known from here on, and no number has been read."""
        if node.op_type not in _DERIVED or not all(name in self for name in node.input if name):
            return False
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        found = _DERIVED[node.op_type](self, node, attributes)
        if found is None:
            return False
        self._weights[node.output[0]] = found
        return True

    def _reference(self, name: str) -> Weight:
        tensor = self._tensors[name]
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            path, offset = self._folder / entries["location"], int(entries.get("offset", "0"))
        else:
            path = self._folder / "constants.bin"
            with path.open("ab") as f:
                offset = f.tell()
                stored = _bytes(tensor)
                f.write(stored + bytes(-len(stored) % ALIGNMENT))
        return Weight(name, self.shape(name), self.dtype(name), path, offset)


def _bytes(tensor: onnx.TensorProto) -> bytes:
    """The numbers as ``raw_data`` has them: those of fewer than 8 bits packed."""
    return tensor.raw_data or numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data


def _dequantised(constants: Constants, node: onnx.NodeProto, attributes: dict[str, Any]) -> Weight | None:
    """What DequantizeLinear makes."""
    stored, scale = constants.weight(node.input[0]), constants.weight(node.input[1])
    zero = constants.weight(node.input[2]) if len(node.input) > 2 and node.input[2] else 0.0
    if stored.quantisation is not None or stored.axes:
        return None
    axis, rank = int(attributes.get("axis", 1)), len(stored.shape)
    block = int(attributes.get("block_size", 0))
    if scale.size == 1:
        extent, inner, block = 1, 1, 0
    else:
        axis += rank if axis < 0 else 0
        extent, inner = stored.shape[axis], math.prod(stored.shape[axis + 1 :])
    return replace(
        stored,
        dtype=_float_type(attributes.get("output_dtype", 0)) or scale.dtype,
        stored=stored.dtype,
        quantisation=Quantisation(scale, zero, extent, inner, block),
    )


def _transposed(constants: Constants, node: onnx.NodeProto, attributes: dict[str, Any]) -> Weight | None:
    weight = constants.weight(node.input[0])
    return weight.transposed(attributes.get("perm") or range(len(weight.shape))[::-1])


def _reshaped(constants: Constants, node: onnx.NodeProto, attributes: dict[str, Any]) -> Weight | None:
    weight = constants.weight(node.input[0])
    wanted = [int(extent) for extent in constants.values(node.input[1])]
    if attributes.get("allowzero", 0) and 0 in wanted:
        return None
    shape = [weight.shape[i] if extent == 0 else extent for i, extent in enumerate(wanted)]
    if -1 in shape:
        rest = -math.prod(shape)
        shape[shape.index(-1)] = weight.size // rest if rest else 0
    return weight.reshaped(shape)


def _cast(constants: Constants, node: onnx.NodeProto, attributes: dict[str, Any]) -> Weight | None:
    """A floating-point weight keeps its numbers, as if they were not rounded to what it is cast to."""
    weight, dtype = constants.weight(node.input[0]), _float_type(attributes["to"])
    if weight.dtype not in FLOATS or dtype is None:
        return None
    return replace(weight, dtype=dtype, stored=weight.stored or weight.dtype)


def _same(constants: Constants, node: onnx.NodeProto, attributes: dict[str, Any]) -> Weight | None:
    return constants.weight(node.input[0])


def _float_type(data_type: int) -> str | None:
    if not data_type:
        return None
    name: str = helper.tensor_dtype_to_np_dtype(data_type).name
    return name if name in FLOATS else None


_DERIVED: Final[dict[str, Callable[[Constants, onnx.NodeProto, dict[str, Any]], Weight | None]]] = {
    "DequantizeLinear": _dequantised,
    "Transpose": _transposed,
    "Reshape": _reshaped,
    "Cast": _cast,
    "Identity": _same,
}


def check_finite(weight: Weight, where: str) -> None:
    """Look at every number of a weight, in bounded memory.

    Raises:
        ImportModelError: if one is NaN or infinite.
    """
    if weight.quantisation is not None and weight.stored.startswith(("int", "uint")):
        weight = weight.quantisation.scale
    for start in range(0, weight.size, CHUNK):
        if not np.isfinite(weight.take(np.arange(start, min(start + CHUNK, weight.size)))).all():
            raise ImportModelError(f"the weight {weight.name} holds NaN or infinity", where)
