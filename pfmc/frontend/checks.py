"""What is looked at before anything else touches a model: cheap, bounded, and enough that libraries survive it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import networkx as nx
import onnx
from google.protobuf.message import DecodeError

from pfmc.errors import ImportModelError

MAX_FILE_BYTES: Final = 2**31 - 1  # protobuf's own limit
MAX_INLINED_NODES: Final = 1_000_000
MAX_GRAPH_DEPTH: Final = 50
_BITS: Final[dict[int, int]] = {  # per element, of the types that can be stored outside the model
    onnx.TensorProto.FLOAT: 32,
    onnx.TensorProto.DOUBLE: 64,
    onnx.TensorProto.FLOAT16: 16,
    onnx.TensorProto.BFLOAT16: 16,
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
    onnx.TensorProto.INT8: 8,
    onnx.TensorProto.UINT8: 8,
    onnx.TensorProto.BOOL: 8,
    onnx.TensorProto.INT16: 16,
    onnx.TensorProto.UINT16: 16,
    onnx.TensorProto.INT32: 32,
    onnx.TensorProto.UINT32: 32,
    onnx.TensorProto.INT64: 64,
    onnx.TensorProto.UINT64: 64,
    onnx.TensorProto.COMPLEX64: 64,
    onnx.TensorProto.COMPLEX128: 128,
}


def read_proto(path: Path) -> onnx.ModelProto:
    """Read a model without its external data.

    Raises:
        ImportModelError: if there is no such file, or it is not ONNX.
    """
    try:
        if path.is_dir():
            raise ImportModelError("it is a folder, not an ONNX file", str(path))
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ImportModelError("the file is larger than ONNX allows (2 GiB)", str(path), "use external data")
        model = onnx.load(path, load_external_data=False)
    except FileNotFoundError:
        raise ImportModelError("no such file", str(path)) from None
    except OSError as e:
        raise ImportModelError(f"the file cannot be read: {e.strerror}", str(path)) from None
    except (DecodeError, ValueError, RecursionError):
        raise ImportModelError("not an ONNX file, or a damaged one", str(path)) from None
    if not model.graph.node:
        raise ImportModelError("not an ONNX model: its graph has no nodes", str(path))
    return model


def check_proto(model: onnx.ModelProto, path: Path) -> tuple[Path, ...]:
    """Check what would kill or fool the libraries behind.

    Returns:
        The external data files, all inside the model's folder.

    Raises:
        ImportModelError: naming the node or tensor.
    """
    _check_functions(model, path)
    files: dict[Path, None] = {}
    for graph in graphs_of(model.graph, path):
        for node in graph.node:
            _check_node(node, path)
        for tensor in tensors_of(graph):
            found = _check_tensor(tensor, path)
            if found is not None:
                files[found] = None
    return tuple(files)


def graphs_of(graph: onnx.GraphProto, path: Path, depth: int = 0) -> Iterator[onnx.GraphProto]:
    """A graph and all graphs inside it.

    Raises:
        ImportModelError: if they are nested too deeply.
    """
    if depth > MAX_GRAPH_DEPTH:
        raise ImportModelError(f"its graphs are nested more than {MAX_GRAPH_DEPTH} deep", str(path))
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs_of(attribute.g, path, depth + 1)
            for inner in attribute.graphs:
                yield from graphs_of(inner, path, depth + 1)


def tensors_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All constants of a graph itself: initialisers, sparse ones, and attributes of its nodes."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _check_functions(model: onnx.ModelProto, path: Path) -> None:
    """Calls of local functions must end, and the nodes that they come to must be bounded."""
    functions = {(f.domain, f.name): f for f in model.functions}
    calls = nx.DiGraph()
    calls.add_nodes_from(functions)
    for key, function in functions.items():
        calls.add_edges_from((key, called) for called in map(_operator, function.node) if called in functions)
    if not nx.is_directed_acyclic_graph(calls):
        name = nx.find_cycle(calls)[0][0][1]
        raise ImportModelError("a function calls itself", f"{path}: function {name}")
    size: dict[tuple[str, str], int] = {}
    for key in reversed(list(nx.topological_sort(calls))):
        size[key] = sum(size.get(_operator(node), 1) for node in functions[key].node)
    total = sum(size.get(_operator(node), 1) for node in model.graph.node)
    if total > MAX_INLINED_NODES:
        raise ImportModelError(f"its functions come to {total:,} nodes, more than {MAX_INLINED_NODES:,}", str(path))


def _operator(node: onnx.NodeProto) -> tuple[str, str]:
    return node.domain, node.op_type


def _check_node(node: onnx.NodeProto, path: Path) -> None:
    for attribute in node.attribute:
        positive = attribute.name in ("strides", "dilations", "kernel_shape", "group")
        if positive and any(value < 1 for value in (*attribute.ints, *([attribute.i] if attribute.i else []))):
            where = f"{path}: node {node.name or node.op_type}"
            raise ImportModelError(f"{attribute.name} must be positive", where)


def _check_tensor(tensor: onnx.TensorProto, path: Path) -> Path | None:
    """Sizes as declared; gives the external file, if the tensor lies in one."""
    where = f"{path}: tensor {tensor.name}"
    if any(extent < 0 for extent in tensor.dims):
        raise ImportModelError("a tensor has a negative extent", where)
    bits = _BITS.get(tensor.data_type)
    wanted = None if bits is None else -(-math.prod(tensor.dims) * bits // 8)
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        if tensor.HasField("raw_data") and wanted is not None and len(tensor.raw_data) != wanted:
            raise ImportModelError(f"the tensor has {len(tensor.raw_data)} bytes and should have {wanted}", where)
        return None
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    folder = path.parent.resolve()
    file: Path = (folder / location).resolve()
    if not location or "\0" in location or not file.is_relative_to(folder):
        raise ImportModelError(f"external data outside the model's folder: {location or 'no location'}", where)
    if not file.is_file():
        raise ImportModelError(f"external data are missing: {location}", where, "put the file beside the model")
    try:
        offset, length = int(entries.get("offset", "0")), int(entries.get("length", wanted or 0))
    except ValueError:
        raise ImportModelError("offset or length of external data is not a number", where) from None
    if offset < 0 or length < 0 or offset + length > file.stat().st_size or wanted not in (None, length):
        raise ImportModelError(f"external data do not fit the file {location}", where)
    return path.parent / Path(location)
