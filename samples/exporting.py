"""What the training scripts share: from a trained torch module to the files of a sample folder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import onnxruntime
import torch
from onnxscript import ir, optimizer
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules.common import collapse_slice2_rule, collapse_slice_rule, materialize_reshape_shape_rule

OPSET = 18
SCOPES = "pkg.torch.onnx.name_scopes"


def export(model: torch.nn.Module, example: torch.Tensor, path: Path, input_name: str, output_name: str) -> None:
    """Write a module with one input and one output as one ONNX file; the first axis is named ``batch`` and is free.

    The exporter's own optimisation would fold each BatchNorm into its Conv, so that a narrower one takes its place.
    """
    program = torch.onnx.export(
        model.eval(),
        (example,),
        dynamo=True,
        input_names=[input_name],
        output_names=[output_name],
        dynamic_shapes=({0: "batch"},),
        opset_version=OPSET,
        optimize=False,
        verbose=False,
    )
    save(program, path)


def save(program: torch.onnx.ONNXProgram | None, path: Path) -> None:
    """Write what torch exported, simplified, with nodes named after the modules that they come from."""
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    simplify(program.model)
    written = program.model_proto
    name_after_modules(written)
    onnx.save(written, path)
    onnx.checker.check_model(path, full_check=True)


def simplify(model: ir.Model) -> None:
    """Fold constants and the computation of shapes, and make every constant an initialiser; no operators are fused."""
    optimizer.fold_constants(model)
    rewrite(model, [materialize_reshape_shape_rule, collapse_slice_rule, collapse_slice2_rule])
    common = ir.passes.common
    ir.passes.Sequential(
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
    )(model)


def name_after_modules(model: onnx.ModelProto) -> None:
    """Name each node after the module it comes from, and drop the exporter's notes (stack traces of this machine)."""
    seen: Counter[str] = Counter()
    for node in model.graph.node:
        notes = {entry.key: entry.value for entry in node.metadata_props}
        scopes = notes.get(SCOPES, "").strip("[]").replace("'", "").split(", ")
        name = "/".join([*scopes[-2:-1], node.op_type]).lstrip("/")
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"
        node.ClearField("metadata_props")
    for item in [*model.graph.initializer, *model.graph.value_info, *model.graph.input, *model.graph.output]:
        item.ClearField("metadata_props")
    model.graph.ClearField("metadata_props")
    model.ClearField("metadata_props")


def accuracy(model: Path, data: Path) -> float:
    """Share of the samples of an npz file whose largest output is their label, computed by ONNX Runtime."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    with np.load(data) as arrays:
        labels = arrays["labels"]
        (output,) = session.run(None, {value.name: arrays[value.name] for value in session.get_inputs()})
    return float(np.mean(cast(np.ndarray, output).argmax(axis=-1) == labels))


def compare_with_torch(model: torch.nn.Module, inputs: torch.Tensor, path: Path) -> None:
    """Raise unless the file computes what the module computes, for batches of 1 and of 7."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (value,) = session.get_inputs()
    for batch in (1, 7):
        with torch.no_grad():
            expected = model.eval()(inputs[:batch]).numpy()
        (output,) = session.run(None, {value.name: inputs[:batch].numpy()})
        np.testing.assert_allclose(cast(np.ndarray, output), expected, rtol=1e-4, atol=1e-4)
