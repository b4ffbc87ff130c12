"""The cases of the onnx package's own backend tests, and what pfmc makes of one of them.

Cases of single operators whose weights are inputs are there once more with the weights as constants, for nothing could
be mapped of them otherwise.
"""

from __future__ import annotations

import re
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

import pfmc
from pfmc.errors import PfmcError

# Largest relative errors that agree, ‖y − y_ref‖₂ / ‖y_ref‖₂: with ideal converters, and with the technology's.
IDEAL_TOLERANCE: Final = 0.01
TOLERANCE: Final = 0.05

# Which inputs become constants: one variant for each.
VARIANTS: Final[dict[str, tuple[tuple[int, ...], ...]]] = {
    "MatMul": ((0,), (1,)),
    "Gemm": ((0,), (1, 2)),
    "Einsum": ((0,), (1,)),
    "Conv": ((1, 2),),
    "ConvTranspose": ((1, 2),),
    "DeformConv": ((1, 3),),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), ((1, 2, 3, 7),)),
    "QLinearMatMul": ((0, 1, 2, 6, 7), (3, 4, 5, 6, 7)),
    "QLinearConv": ((1, 2, 3, 4, 5, 6, 7, 8),),
    "MatMulInteger": ((0, 2), (1, 3)),
    "ConvInteger": ((1, 3),),
}


@dataclass(frozen=True, eq=False)
class Case:
    """A model, its inputs by name, and which of its nodes are to be mapped if not all."""

    name: str
    kind: str
    model: onnx.ModelProto
    inputs: dict[str, Any]
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a case: "compiles", "refused" or "failed", and why; of what compiles, the largest errors."""

    kind: str
    reason: str = ""
    ideal_error: float = 0.0
    error: float = 0.0


def node_cases() -> list[Case]:
    """Of single operators, and of functions written as several."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they overflow and divide by zero on purpose
        from onnx.backend.test.case import node

        found = node.collect_testcases(None)
    cases = []
    for case in found:
        names = [value.name for value in case.model.graph.input]
        values = (np.asarray(v) if isinstance(v, np.generic) else v for v in case.data_sets[0][0])
        cases.append(Case(case.name, "node", case.model, dict(zip(names, values, strict=False))))
    return cases


def constant_cases(cases: Sequence[Case]) -> list[Case]:
    """Those of single operators that contract, with their weights as constants."""
    return [
        variant
        for case in cases
        if len(case.model.graph.node) == 1
        for places in VARIANTS.get(case.model.graph.node[0].op_type, ())
        for variant in _with_constants(case, places)
    ]


def stored_cases() -> Iterator[Case]:
    """Those that lie in the onnx package as files: made by hand, by PyTorch, and light forms of large networks."""
    from onnx.backend.test.loader import load_model_tests

    root = Path(onnx.__file__).parent / "backend/test/data"
    for kind in ("simple", "pytorch-converted", "pytorch-operator"):
        for case in load_model_tests(kind=kind):
            folder = Path(case.model_dir)
            model = onnx.load(folder / "model.onnx")
            yield Case(case.name, kind, model, _stored_inputs(model, folder / "test_data_set_0"))
    for path in sorted((root / "light").glob("*.onnx")):
        yield _light_case(path)


def outcome(case: Case, folder: Path) -> Outcome:
    """Compile a case in an empty folder and verify it on its own inputs."""
    path, data = folder / "m.onnx", None
    onnx.save(case.model, path)
    arrays = {name: value for name, value in case.inputs.items() if isinstance(value, np.ndarray)}
    if arrays:
        data = folder / "data.npz"
        np.savez(data, allow_pickle=True, **arrays)  # type: ignore[arg-type]
    try:
        bundle = pfmc.compile(path, folder / "out", technology="generic", calibration=data, only=case.only)
        ideal = bundle.verify(data, ideal_converters=True, tolerance=IDEAL_TOLERANCE)
        real = bundle.verify(data, tolerance=TOLERANCE)
    except PfmcError as refused:
        return _refused(case, refused, str(path))
    except Exception:  # what must not happen is to be named, whatever it is
        return Outcome("failed", traceback.format_exc().strip().splitlines()[-1])
    errors = [max(output.relative_error or 0.0 for output in each.outputs.values()) for each in (ideal, real)]
    if not (ideal.passed and real.passed):
        return Outcome("failed", f"errors of {errors[0]:.2g} with ideal converters, {errors[1]:.2g} with real ones")
    return Outcome("compiles", "", *errors)


def _refused(case: Case, problem: PfmcError, path: str) -> Outcome:
    """A refusal; one that says that ONNX Runtime cannot do it must be true."""
    line = str(problem)
    if "\n" in line:
        return Outcome("failed", "the refusal has more than one line")
    if problem.what.startswith("nothing to map"):
        return Outcome("refused", f"nothing to map: {problem.fix or 'no operator multiplies by trained constants'}")
    if problem.what.startswith("ONNX Runtime cannot"):
        if runs(case):
            return Outcome("failed", f"it runs, but: {line.replace(path, 'MODEL')}")
        return Outcome("refused", problem.what.partition(":")[0])
    return Outcome("refused", re.sub(r"\s+", " ", problem.what.replace(path, "MODEL")))


def runs(case: Case) -> bool:
    """Whether ONNX Runtime runs a case on its own inputs."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(case.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        session.run(None, case.inputs)
    except Exception:  # it has no base class for what it raises
        return False
    return True


def _with_constants(case: Case, places: Sequence[int]) -> Iterator[Case]:
    graph = case.model.graph
    wanted = [name for i, name in enumerate(graph.node[0].input) if i in places and name]
    if not wanted or len(set(wanted)) == len({name for name in graph.node[0].input if name}):
        return
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    kept = [value for value in model.graph.input if value.name not in wanted]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(case.inputs[name], name) for name in wanted)
    rest = {name: value for name, value in case.inputs.items() if name not in wanted}
    weights = " and ".join(name for name in wanted if "scale" not in name and "zero_point" not in name)
    yield Case(f"{case.name}, {weights} constant", "node, weights constant", model, rest)


def _stored_inputs(model: onnx.ModelProto, folder: Path) -> dict[str, Any]:
    stored = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in stored]
    found = {}
    for i, value in enumerate(values):
        path = folder / f"input_{i}.pb"
        if path.exists() and value.type.HasField("tensor_type"):
            found[value.name] = numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))
    return found


def _light_case(path: Path) -> Case:
    """A light form of a large network, its weights all the same number, on one random image; its first Conv."""
    model = onnx.load(path)
    made = {tensor.name for tensor in model.graph.initializer}
    (image,) = (value for value in model.graph.input if value.name not in made)
    shape = [extent.dim_value for extent in image.type.tensor_type.shape.dim]
    inputs = {image.name: np.random.default_rng(0).random(shape, np.float32)}
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    return Case(f"test_{path.stem}", "light", model, inputs, tuple(convolutions[:1]))
