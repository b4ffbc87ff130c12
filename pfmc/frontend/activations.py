"""What the values inside a model are, on given inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import helper

from pfmc.data import Dataset
from pfmc.frontend.importer import ImportedModel
from pfmc.frontend.runtime import Runtime
from pfmc.passmanager import Activations


def record(
    imported: ImportedModel, dataset: Dataset, names: Sequence[str], batch: int
) -> Iterator[dict[str, np.ndarray]]:
    """Run the folded model and yield the named values, batch by batch; inputs of the model may be among them.

    Raises:
        DataError: if the model cannot run on these inputs.
    """
    inputs = {spec.name for spec in imported.inputs}
    inside = [name for name in dict.fromkeys(names) if name not in inputs]
    model = onnx.load(imported.folded, load_external_data=False)
    outputs = {value.name for value in model.graph.output}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in inside if name not in outputs)
    tapped = imported.folded.with_name("tapped.onnx")  # beside the folded model, for its weights
    onnx.save(model, tapped)
    runtime = Runtime(tapped, str(imported.files[0]))
    for given, found in runtime.run_batches(dataset, batch, inside):
        yield {name: given[name] if name in inputs else found[name] for name in names}


def recorder(imported: ImportedModel, dataset: Dataset, batch: int) -> Activations:
    """What passes call to see values inside the model on the calibration data."""
    return lambda names: record(imported, dataset, names, batch)
