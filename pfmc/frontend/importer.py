"""From an ONNX file to a Graph."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx

from pfmc.data import InputSpec
from pfmc.errors import ImportModelError
from pfmc.frontend import folding
from pfmc.frontend.checks import check_proto, read_proto
from pfmc.frontend.constants import Constants
from pfmc.frontend.operators import operation
from pfmc.frontend.runtime import Runtime, first_line
from pfmc.ir.graph import Contraction, Graph, HostNode

FOLDING_SECONDS: Final = 1800


@dataclass(frozen=True, eq=False)
class ImportedModel:
    """A model as the compiler knows it.

    Attributes:
        folded: the ONNX file after constant folding; its nodes have the names that they have in the graph.
        sha256: of the file that was given.
        files: that file, and its external data.
        inputs: what the model reads.
    """

    graph: Graph
    folded: Path
    sha256: str
    files: tuple[Path, ...]
    inputs: tuple[InputSpec, ...]


def import_model(path: Path, work: Path) -> ImportedModel:
    """Read a model; ``work`` is an empty folder that must outlive the result, whose weights lie there.

    Raises:
        ImportModelError: if the model is broken, ONNX Runtime cannot run it, or nothing of it can be mapped.
    """
    external = check_proto(read_proto(path), path)
    with path.open("rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    folded = work / "folded.onnx"
    _fold(path, folded)
    model = onnx.load(folded, load_external_data=False)
    _name_nodes(model.graph)
    onnx.save(model, folded)
    graph = _graph(model, Constants(model, work), path)
    if not graph.contractions():
        reasons = [node.reason for node in graph.nodes if isinstance(node, HostNode) and node.reason]
        raise ImportModelError(
            "nothing to map: no MatMul, Gemm or Conv has trained constants for weights",
            str(path),
            reasons[0] if reasons else None,
        )
    return ImportedModel(graph, folded, digest, (path, *external), Runtime(folded, str(path)).inputs)


def _fold(path: Path, folded: Path) -> None:
    """Run :mod:`pfmc.frontend.folding` in a process of its own."""
    command = [sys.executable, str(Path(folding.__file__)), str(path), str(folded)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FOLDING_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ImportModelError(f"constant folding took more than {FOLDING_SECONDS} s", str(path)) from None
    if done.returncode < 0:
        raise ImportModelError(f"ONNX Runtime crashed on it (signal {-done.returncode})", str(path))
    if done.returncode or not folded.exists():
        problem = first_line(RuntimeError(done.stderr))
        raise ImportModelError(f"ONNX Runtime cannot load it: {problem}", str(path))


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node a name of its own."""
    taken: set[str] = set()
    for node in graph.node:
        wanted = node.name or node.op_type
        name, count = wanted, 1
        while name in taken:
            count += 1
            name = f"{wanted}_{count}"
        taken.add(name)
        node.name = name


def _graph(model: onnx.ModelProto, constants: Constants, path: Path) -> Graph:
    shapes = _shapes(model)
    made_by_constants = set(constants.names)
    nodes = [
        operation(node, constants, shapes)
        for node in model.graph.node
        if not (node.op_type == "Constant" and node.output[0] in made_by_constants)
    ]
    for node in nodes:
        if isinstance(node, Contraction):
            constants.check_finite(node.weight, f"{path}: node {node.name}")
    graph = Graph(
        name=model.graph.name or "model",
        inputs=tuple(value.name for value in model.graph.input if value.name not in made_by_constants),
        outputs=tuple(value.name for value in model.graph.output),
        nodes=tuple(nodes),
        shapes=shapes,
    )
    graph.verify()
    return graph


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Shapes of values, as far as shape inference finds them; the model has been loaded by ONNX Runtime before."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (RuntimeError, ValueError):  # it gives up on what it does not know: shapes stay unknown then
        inferred = model
    found = {}
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            found[value.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)
    return found
