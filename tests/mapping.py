"""From a made model to what its as-fabricated model computes, tiles exact and converters ideal."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import onnxruntime as ort
from exact import fabricated_exactly
from onnx import helper
from pfmc_passes.fold import Fold
from pfmc_passes.normalise import Normalise

from pfmc.check.lift import host_model
from pfmc.data import Dataset
from pfmc.frontend.counts import Counts, count
from pfmc.frontend.importer import ImportedModel, import_model
from pfmc.ir.graph import Graph
from pfmc.passmanager import Context
from pfmc.technology.loader import load


def imported_as_it_is(made: onnx.ModelProto, folder: Path, tables: Sequence[str] = ()) -> ImportedModel:
    """The importer without constant folding, which takes most of its time."""
    path = folder / "m.onnx"
    path.write_bytes(made.SerializeToString())
    with mock.patch("pfmc.frontend.importer._fold", lambda model, folded, *_: shutil.copyfile(model, folded)):
        return import_model(path, folder, tables)


def computed(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray], *, literally: bool = False) -> np.ndarray:
    """The first output, by ONNX Runtime; ``literally``: without its optimisations, some of which round coarsely."""
    options = ort.SessionOptions()
    if literally:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, dict(inputs))[0])


def folded(graph: Graph) -> Graph:
    """The graph in the form that is mapped."""
    context = Context(load("generic"), lambda _: iter(()), "made")
    result = Fold().run(Normalise().run(graph, context), context)
    result.verify()
    return result


def fabricated(imported: ImportedModel, folder: Path) -> onnx.ModelProto:
    """The as-fabricated model."""
    graph = folded(imported.graph)
    mapped = [node for node in graph.matrices() if node.matrix.weight.take(np.arange(node.matrix.weight.size)).any()]
    return fabricated_exactly(folder, host_model(imported.folded, graph, {node.name for node in mapped}), mapped)


def both(
    made: onnx.ModelProto, folder: Path, tables: Sequence[str] = (), **inputs: np.ndarray
) -> tuple[np.ndarray, np.ndarray, ImportedModel]:
    """What ONNX Runtime computes with a model, and with its as-fabricated model."""
    reference = computed(made, inputs, literally=True)
    dtype = helper.np_dtype_to_tensor_dtype(reference.dtype)
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", dtype, reference.shape))
    imported = imported_as_it_is(made, folder, tables)
    return reference, computed(fabricated(imported, folder), inputs), imported


def counted(imported: ImportedModel, **inputs: np.ndarray) -> Counts:
    """Sizes of a model, counted on these inputs."""
    return count(imported, Dataset(inputs, None, "file"))
