"""From an ONNX file to a Graph."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import helper

from pfmc.data import InputSpec
from pfmc.errors import ImportModelError
from pfmc.frontend import folding
from pfmc.frontend.attention import recognised
from pfmc.frontend.attention_ways import Dataflow
from pfmc.frontend.bodies import ENTERED, entered, flatten, made_in, name_nodes, replace_all
from pfmc.frontend.building import graphs_of
from pfmc.frontend.checks import check_proto, read_proto, subgraphs_of
from pfmc.frontend.constants import Constants, check_finite
from pfmc.frontend.duplicates import merge_equal
from pfmc.frontend.moving import gains_apart, scales_in_front
from pfmc.frontend.operators import operation
from pfmc.frontend.opsets import brought_to_opset_min
from pfmc.frontend.recurrent import expand_recurrent
from pfmc.frontend.rewriting import Rewritten, rewrite
from pfmc.frontend.runtime import INPUT_DTYPES, first_line
from pfmc.frontend.scans import scans_to_loops
from pfmc.frontend.tables import Tables
from pfmc.ir.graph import Affine, Contraction, Graph, HostNode, Node

FOLDING_SECONDS: Final = 600
IR_MIN: Final = 4  # constants need not be inputs from here on
FOLDING_BYTES: Final = 8 * 2**30  # of address space, beside four times the model's own size


@dataclass(frozen=True, eq=False)
class ImportedModel:
    """A model as the compiler knows it.

    Attributes:
        folded: the ONNX file after constant folding; its nodes have the names that they have in the graph.
        sha256: of the file that was given.
        files: that file, and its external data.
        inputs: what the model reads.
        helpers: names of nodes and initialisers that only rearrange, though their operator could multiply.
    """

    graph: Graph
    folded: Path
    sha256: str
    files: tuple[Path, ...]
    inputs: tuple[InputSpec, ...]
    helpers: frozenset[str]


def import_model(path: Path, work: Path, tables: Sequence[str] = ()) -> ImportedModel:
    """Read a model; ``work`` is an empty folder that must outlive the result, whose weights lie there.

    Args:
        tables: patterns of names of Gather nodes whose constant tables are mapped too.

    Raises:
        ImportModelError: if the model is broken, ONNX Runtime cannot run it, or nothing of it can be mapped.
        UsageError: if a pattern fits no such node.
    """
    given = read_proto(path)
    external = check_proto(given, path)
    memory = FOLDING_BYTES + 4 * sum(file.stat().st_size for file in (path, *external))
    folded = work / "folded.onnx"
    _fold(path, folded, memory, str(path))
    model = _flattened(folded)
    _settle(model, {tensor.name for tensor in given.graph.initializer})
    for again, unfinished in (("cast", _casts_constants), ("expanded", partial(_expanded, path=path))):
        if unfinished(model):
            folded.write_bytes(model.SerializeToString(deterministic=True))
            _fold(folded, work / f"{again}.onnx", memory, str(path))
            folded = work / f"{again}.onnx"
            model = _flattened(folded)
    constants = Constants(model, work)
    lookups = Tables(tables)
    rewritten = rewrite(model.graph, constants, _shapes(model), {"Gather": lookups.rule})
    lookups.check(str(path))
    gains_apart(model.graph, constants)
    scales_in_front(model.graph, constants)
    folded.write_bytes(model.SerializeToString(deterministic=True))
    read = _read(model.graph)
    graph = _graph(model, constants, rewritten, [value.name for value in read], path)
    inputs = tuple(_spec(value, path) for value in read)
    with path.open("rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    return ImportedModel(graph, folded, digest, (path, *external), inputs, frozenset(rewritten.helpers))


def _fold(model: Path, folded: Path, memory: int, where: str) -> None:
    """Run :mod:`pfmc.frontend.folding` in a process of its own."""
    command = [sys.executable, "-P", str(Path(folding.__file__)), str(model), str(folded), str(memory)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=FOLDING_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ImportModelError(f"ONNX Runtime did not load it in {FOLDING_SECONDS} s", where) from None
    if done.returncode < 0:
        raise ImportModelError(f"ONNX Runtime crashed on it (signal {-done.returncode})", where)
    if done.returncode or not folded.exists():
        raise ImportModelError(f"ONNX Runtime cannot load it: {first_line(done.stdout)}", where)


def _flattened(folded: Path) -> onnx.ModelProto:
    """The folded model, everything in it with a name of its own, and no constant twice."""
    model = onnx.load(folded, load_external_data=False)
    flatten(model.graph)
    merge_equal(model.graph, folded.parent)
    name_nodes(model.graph)
    return model


def _settle(model: onnx.ModelProto, stored: Container[str]) -> None:
    """Inputs that the given model has a value for are none: before IR 4 every constant was listed among them."""
    replace_all(model.graph.input, [value for value in model.graph.input if value.name not in stored])
    model.ir_version = max(model.ir_version, IR_MIN)


def _casts_constants(model: onnx.ModelProto) -> bool:
    """Whether weights are cast when the model runs: ONNX Runtime adds that to float16 models, after it has folded."""
    constants = {tensor.name for tensor in model.graph.initializer}
    nodes = (node for part in graphs_of(model.graph) for node in part.node)
    return any(node.op_type == "Cast" and node.input[0] in constants for node in nodes)


def _expanded(model: onnx.ModelProto, path: Path) -> bool:
    """Bring what is old, recurrent or a Scan to the form that is looked into; whether there was something to do."""
    modern = brought_to_opset_min(model, path)
    if modern is not model:
        model.CopyFrom(modern)
        name_nodes(model.graph)
    return any((expand_recurrent(model.graph), scans_to_loops(model.graph), modern is not model))


def _read(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """What the model reads: inputs without a value of their own."""
    stored = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in stored]


def _spec(value: onnx.ValueInfoProto, path: Path) -> InputSpec:
    tensor = value.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name if tensor.elem_type else "no tensor"
    if dtype not in INPUT_DTYPES:
        raise ImportModelError(f"inputs of type {dtype} cannot be given", f"{path}: input {value.name}")
    return InputSpec(value.name, dtype, _extents(tensor))


def _graph(
    model: onnx.ModelProto, constants: Constants, rewritten: Rewritten, inputs: Sequence[str], path: Path
) -> Graph:
    shapes = _shapes(model)
    nodes = tuple(
        _operation(node, None if part is model.graph else part, constants, shapes, rewritten)
        for part, node in entered(model.graph)
    )
    body = {node.name: number for number, part in enumerate(graphs_of(model.graph)) for node in part.node}
    nodes = tuple(replace(n, body=body[n.name]) if isinstance(n, Contraction) else n for n in nodes)
    contractions = [node for node in nodes if isinstance(node, Contraction)]
    if not contractions:
        why = [node.reason for node in nodes if isinstance(node, HostNode) and node.reason]
        problem = "nothing to map: no operator multiplies by trained constants in a form that can be"
        raise ImportModelError(problem, str(path), why[0] if why else None)
    for node in contractions:
        check_finite(node.weight, f"{path}: node {node.name}")
        if node.bias is not None and not np.isfinite(node.bias).all():
            raise ImportModelError("the bias holds NaN or infinity", f"{path}: node {node.name}")
    outputs = tuple(value.name for value in model.graph.output)
    flow = Dataflow(model.graph, constants, shapes, {node.name: node for node in contractions})
    graph = Graph(model.graph.name or "model", tuple(inputs), outputs, nodes, shapes, recognised(flow))
    graph.verify()
    return graph


def _operation(
    node: onnx.NodeProto,
    body: onnx.GraphProto | None,
    constants: Constants,
    shapes: Mapping[str, tuple[int | None, ...]],
    rewritten: Rewritten,
) -> Node:
    """The operation that a node is, of a body or of the model's graph; the owner of bodies reads what they give."""
    found = operation(node, constants, shapes, rewritten.reasons.get(node.name, ""))
    if isinstance(found, HostNode) and node.name in rewritten.helpers:
        return replace(found, reason="")  # it could multiply, but only rearranges
    if isinstance(found, Affine) and body is not None and found.input not in made_in(body):
        return HostNode(node.name, node.op_type, found.inputs, found.outputs)  # not to be folded out of its body
    if isinstance(found, HostNode) and node.op_type in ENTERED:
        given = (value.name for body in subgraphs_of(node) for value in body.output)
        return replace(found, inputs=tuple(dict.fromkeys((*found.inputs, *given))))
    return found


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Shapes of values, as far as shape inference finds them; the model has been loaded by ONNX Runtime before."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (RuntimeError, ValueError):  # it gives up on what it does not know: shapes stay unknown then
        inferred = model
    found = {}
    for graph in graphs_of(inferred.graph):
        for value in (*graph.input, *graph.value_info, *graph.output):
            if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
                found[value.name] = _extents(value.type.tensor_type)
    return found


def _extents(tensor: onnx.TypeProto.Tensor) -> tuple[int | None, ...]:
    """A tensor's shape; some exporters write -1 or 0 for an axis that is open."""
    return tuple(d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim)
