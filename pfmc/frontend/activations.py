"""What the values inside a model are, on given inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import onnx

from pfmc.data import Dataset
from pfmc.frontend.importer import ImportedModel
from pfmc.frontend.runtime import Runtime
from pfmc.frontend.taps import tap
from pfmc.passmanager import Activations

Seen = dict[str, list[np.ndarray]]


def record(imported: ImportedModel, dataset: Dataset, names: Sequence[str], batch: int) -> Iterator[Seen]:
    """Run the folded model and yield the named values, batch by batch; inputs of the model may be among them.

    A value has one entry for each time that it was computed: one, but for what stands in the body of an If or a Loop.

    Raises:
        DataError: if the model cannot run on these inputs.
    """
    inputs = {spec.name for spec in imported.inputs}
    model = onnx.load(imported.folded, load_external_data=False)
    outputs = {value.name for value in model.graph.output}
    inside = [name for name in dict.fromkeys(names) if name not in inputs]
    hidden = [name for name in inside if name not in outputs]
    found_as = dict(zip(hidden, tap(model.graph, hidden), strict=True))
    tapped = imported.folded.with_name("tapped.onnx")  # beside the folded model, for its weights
    onnx.save(model, tapped)
    runtime = Runtime(tapped, str(imported.files[0]), packed=False)  # a large model is not to be in memory twice
    for given, found in runtime.run_batches(dataset, batch, [found_as.get(name, name) for name in inside]):
        seen = {name: entries(found[found_as.get(name, name)]) for name in inside}
        yield {name: [given[name]] if name in inputs else seen[name] for name in names}


def entries(found: np.ndarray | list[np.ndarray]) -> list[np.ndarray]:
    """The entries of a sequence; of a tensor, the tensor itself."""
    return found if isinstance(found, list) else [found]


def recorder(imported: ImportedModel, dataset: Dataset, batch: int) -> Activations:
    """What passes call to see values inside the model on the calibration data."""

    def activations(names: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        for seen in record(imported, dataset, names, batch):
            pieces = {name: _joined(values) for name, values in seen.items()}
            for i in range(max(map(len, pieces.values()), default=0)):
                yield {name: values[i] for name, values in pieces.items() if i < len(values)}

    return activations


def _joined(values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Values one behind the other on their first axis, the samples, as far as their shapes allow."""
    alike = groupby(values, key=lambda value: value.shape[1:] if value.ndim > 1 else None)
    return [part for shape, group in alike for part in (group if shape is None else [np.concatenate(list(group))])]
