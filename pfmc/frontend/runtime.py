"""ONNX Runtime: what a model computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime as ort

from pfmc.data import Dataset, InputSpec
from pfmc.errors import DataError, ImportModelError

_FATAL: Final = 4  # ONNX Runtime's log level: what goes wrong is raised, not printed
_DTYPES: Final = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    **{f"tensor({kind}{bits})": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}


class Runtime:
    """A model that is loaded and can be run.

    Attributes:
        inputs: what it reads.
        outputs: names of what it gives.

    Raises:
        ImportModelError: if ONNX Runtime cannot load it.
    """

    def __init__(self, model: Path | bytes, name: str = "") -> None:
        options = ort.SessionOptions()
        options.log_severity_level = _FATAL
        self._name = name or (str(model) if isinstance(model, Path) else "model")
        source = str(model) if isinstance(model, Path) else model
        try:
            self._session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as e:
            raise ImportModelError(f"ONNX Runtime cannot load it: {first_line(e)}", self._name) from None
        self.inputs = tuple(_spec(value, self._name) for value in self._session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(value.name for value in self._session.get_outputs())

    def run(self, dataset: Dataset, batch: int) -> dict[str, np.ndarray]:
        """All outputs over all samples, first axis the samples.

        Raises:
            DataError: if the model cannot run on these inputs.
        """
        parts = [found for _, found in self.run_batches(dataset, batch, self.outputs)]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.outputs}

    def run_batches(
        self, dataset: Dataset, batch: int, outputs: Sequence[str]
    ) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
        """Inputs and outputs by name, batch by batch; a model whose batch is fixed is run in batches of that size.

        Raises:
            DataError: if the model cannot run on these inputs.
        """
        fixed = {spec.shape[0] for spec in self.inputs if spec.shape and spec.shape[0] is not None}
        size = max((extent for extent in fixed if extent), default=batch)
        if fixed and dataset.samples % size:
            problem = f"the model takes {size} samples at a time, and {dataset.samples} is no multiple of that"
            raise DataError(problem, self._name, "give another number of samples")
        for inputs in dataset.batches(size):
            yield inputs, dict(zip(outputs, self._run(inputs, outputs), strict=True)) if outputs else {}

    def _run(self, inputs: dict[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        try:
            found = list(self._session.run(list(outputs), inputs))
        except Exception as e:
            problem = f"ONNX Runtime cannot run it on these inputs: {first_line(e)}"
            raise DataError(problem, self._name, "give data that fit the model") from None
        arrays = [np.atleast_1d(value) for value in found if isinstance(value, np.ndarray)]
        if len(arrays) < len(found):
            raise DataError("a value that it gives is no tensor", self._name)
        return arrays


def first_line(error: Exception) -> str:
    """What ONNX Runtime says, without its codes and source locations."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = lines[0].split(" : ", 2)[-1]
    return text if len(text) <= 300 else text[:299] + "…"


def _spec(value: ort.NodeArg, name: str) -> InputSpec:
    if value.type not in _DTYPES:
        raise ImportModelError(f"the input {value.name} is a {value.type}, which cannot be given", name)
    shape = tuple(extent if isinstance(extent, int) else None for extent in value.shape)
    return InputSpec(value.name, _DTYPES[value.type], shape)
