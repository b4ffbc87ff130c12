"""ONNX Runtime: what a model computes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as state  # pyright: ignore[reportAttributeAccessIssue]

from pfmc.data import Dataset, InputSpec, sample_axis
from pfmc.errors import DataError, ImportModelError, printable

BATCH: Final = 64  # samples run at a time where the model leaves it open
_FATAL: Final = 4  # ONNX Runtime's log level: what goes wrong is raised, not printed
_THREADS: Final = 16  # at most; a model of the size that is compiled gains nothing from more
# Its exceptions have no base class of their own; those at the end come from its Python binding.
_FAILURES: Final = (
    *(state.Fail, state.InvalidArgument, state.NoSuchFile, state.NoModel, state.EngineError, state.RuntimeException),
    *(state.InvalidProtobuf, state.ModelLoaded, state.NotImplemented, state.InvalidGraph, state.EPFail),
    *(RuntimeError, ValueError, TypeError, MemoryError),
)
_DTYPES: Final = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    **{f"tensor({kind}{bits})": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}
INPUT_DTYPES: Final = frozenset(_DTYPES.values())


class Runtime:
    """A model that is loaded and can be run.

    Args:
        model: the file, external data beside it; or its bytes.
        name: what errors call it.
        threads: that one run may use; if left out, as many as there are cores, up to a limit.
        packed: whether weights may be copied into the order that is fastest to run, or stay where they lie in the file.

    Attributes:
        inputs: what it reads.
        outputs: names of what it gives.

    Raises:
        ImportModelError: if ONNX Runtime cannot load it.
    """

    def __init__(self, model: Path | bytes, name: str = "", threads: int | None = None, *, packed: bool = True) -> None:
        options = ort.SessionOptions()
        if not packed:
            options.add_session_config_entry("session.disable_prepacking", "1")
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = threads or min(os.cpu_count() or 1, _THREADS)
        self._name = name or (str(model) if isinstance(model, Path) else "model")
        source = str(model) if isinstance(model, Path) else model
        try:
            self._session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except _FAILURES as e:
            raise ImportModelError(f"ONNX Runtime cannot load it: {first_line(str(e))}", self._name) from None
        self.inputs = tuple(_spec(value, self._name) for value in self._session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(value.name for value in self._session.get_outputs())

    def run(self, dataset: Dataset, batch: int = BATCH) -> dict[str, np.ndarray]:
        """All outputs over all samples, first axis the samples.

        A model whose outputs do not have the samples on their first axis is run sample by sample.

        Raises:
            DataError: if the model cannot run on these inputs, or an output's shape depends on the sample.
        """
        lead, sampled = sample_axis(self.inputs)
        parts: dict[str, list[np.ndarray]] = {name: [] for name in self.outputs}
        for inputs, found in self.run_batches(dataset, batch, self.outputs):
            rows = min((len(inputs[name]) for name in sampled), default=1)
            for name, value in found.items():
                if not isinstance(value, np.ndarray):
                    raise DataError(f"the value {name} is not a tensor", self._name)
                by_sample = value.shape[:1] == (rows,)
                if not by_sample and rows > 1 and lead is None:
                    return self.run(dataset, 1)
                parts[name].append(value if by_sample else value[None])
        try:
            return {name: np.concatenate(parts[name])[: dataset.samples] for name in self.outputs}
        except ValueError:
            raise DataError("an output's shape depends on the sample", self._name) from None

    def run_batches(
        self, dataset: Dataset, batch: int, outputs: Sequence[str]
    ) -> Iterator[tuple[dict[str, np.ndarray], dict[str, Any]]]:
        """Inputs and outputs by name, batch by batch; an output may be a sequence of tensors.

        A model that takes a fixed number of samples is given that many, the last one repeated where they run out. One
        that says it takes any number but fails on many is given them one by one.

        Raises:
            DataError: if the model cannot run on these inputs.
        """
        lead, sampled = sample_axis(self.inputs)
        for part in dataset.batches(lead or batch):
            inputs = {name: _filled(value, lead) if lead and name in sampled else value for name, value in part.items()}
            try:
                found = self._run(inputs, outputs)
            except DataError:
                if lead or batch == 1:
                    raise
                single = Dataset(inputs, None, dataset.source, dataset.shared)
                yield from self.run_batches(single, 1, outputs)
            else:
                yield inputs, found

    def _run(self, inputs: dict[str, np.ndarray], outputs: Sequence[str]) -> dict[str, Any]:
        if not outputs:
            return {}
        try:
            found = self._session.run(list(outputs), inputs)
        except _FAILURES as e:
            problem = f"ONNX Runtime cannot run it on these inputs: {first_line(str(e))}"
            raise DataError(problem, self._name, "give data that fit the model") from None
        return dict(zip(outputs, found, strict=True))


def first_line(message: str) -> str:
    """What ONNX Runtime says, in one line, without its codes and places in its source."""
    lines = [line for line in message.splitlines() if line.strip()] or ["no reason given"]
    text = lines[0].strip()
    return printable(text.split(" : ", 3)[-1] if text.startswith("[ONNXRuntimeError]") else text, 250)


def _filled(values: np.ndarray, count: int) -> np.ndarray:
    """``values`` with the last one repeated until there are ``count``."""
    return values[np.minimum(np.arange(count), len(values) - 1)]


def _spec(value: ort.NodeArg, name: str) -> InputSpec:
    if value.type not in _DTYPES:
        raise ImportModelError(f"the input {value.name} is a {value.type}, which cannot be given", name)
    shape = tuple(extent if isinstance(extent, int) and extent > 0 else None for extent in value.shape)
    return InputSpec(value.name, _DTYPES[value.type], shape)
