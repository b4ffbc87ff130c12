"""What is looked at before anything else touches a model: cheap, bounded, and enough that libraries survive it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

import networkx as nx
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from pfmc.errors import ImportModelError

MAX_FILE_BYTES: Final = 2**31 - 1  # protobuf's own limit
MAX_INLINED_NODES: Final = 1_000_000
_POSITIVE: Final = ("strides", "dilations", "kernel_shape", "group")
_BITS: Final[dict[int, int]] = {  # per element; TensorProto's other types are text, and what is not known yet
    **dict.fromkeys((TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1), 4),
    **dict.fromkeys((TensorProto.INT8, TensorProto.UINT8, TensorProto.BOOL), 8),
    **dict.fromkeys((TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ), 8),
    **dict.fromkeys((TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E5M2FNUZ), 8),
    **dict.fromkeys((TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT16, TensorProto.UINT16), 16),
    **dict.fromkeys((TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT32), 32),
    **dict.fromkeys((TensorProto.DOUBLE, TensorProto.INT64, TensorProto.UINT64, TensorProto.COMPLEX64), 64),
    TensorProto.COMPLEX128: 128,
}


def read_proto(path: Path) -> onnx.ModelProto:
    """Read a model without its external data.

    Raises:
        ImportModelError: if there is no such file, or it is not ONNX.
    """
    try:
        if not path.exists():
            raise ImportModelError("no such file", str(path))
        if not path.is_file():
            raise ImportModelError("it is not a file", str(path), "name the ONNX file")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ImportModelError("the file is larger than ONNX allows (2 GiB)", str(path), "use external data")
        model: onnx.ModelProto = onnx.ModelProto.FromString(path.read_bytes())
    except OSError as e:
        raise ImportModelError(f"the file cannot be read: {e.strerror or e}", str(path)) from None
    except (DecodeError, ValueError):
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
    _check_calls(model, path)
    for node in nodes_of(model):
        _check_node(node, path)
    files = [_check_tensor(tensor, path) for tensor in tensors_of(model)]
    return tuple(dict.fromkeys(file for file in files if file is not None))


def subgraphs_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes: the bodies of an If, a Loop or a Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def nodes_of(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """All nodes: of the graph, of the bodies in it, and of the model's functions."""
    yield from _nested(model.graph.node)
    for function in model.functions:
        yield from _nested(function.node)


def tensors_of(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """All constants: initialisers of all graphs, sparse ones, and attributes of nodes."""
    yield from _stored(model.graph)
    for node in nodes_of(model):
        for graph in subgraphs_of(node):
            yield from _stored(graph)
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)


def _stored(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)


def _nested(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for graph in subgraphs_of(node):
            yield from _nested(graph.node)


def _check_calls(model: onnx.ModelProto, path: Path) -> None:
    """Calls of local functions must end, and the nodes that they come to must be bounded."""
    functions = {(f.domain, f.name, f.overload): list(_nested(f.node)) for f in model.functions}
    calls = nx.DiGraph()
    calls.add_nodes_from(functions)
    for key, nodes in functions.items():
        calls.add_edges_from((key, called) for called in map(_called, nodes) if called in functions)
    if not nx.is_directed_acyclic_graph(calls):
        name = nx.find_cycle(calls)[0][0][1]
        raise ImportModelError("a function calls itself", f"{path}: function {name}")
    size: dict[tuple[str, str, str], int] = {}
    for key in reversed(list(nx.topological_sort(calls))):
        size[key] = sum(size.get(_called(node), 1) for node in functions[key])
    total = sum(size.get(_called(node), 1) for node in _nested(model.graph.node))
    if total > MAX_INLINED_NODES:
        raise ImportModelError(f"it comes to {total:,} nodes, more than {MAX_INLINED_NODES:,}", str(path))


def _called(node: onnx.NodeProto) -> tuple[str, str, str]:
    return node.domain, node.op_type, node.overload


def _check_node(node: onnx.NodeProto, path: Path) -> None:
    where = f"{path}: node {node.name or node.op_type}"
    texts = (node.name, node.op_type, node.domain, *node.input, *node.output)
    if not all(isinstance(text, str) for text in texts):  # protobuf gives bytes for what is not UTF-8
        raise ImportModelError("a name is not valid text", where)
    for attribute in node.attribute:
        if attribute.name in _POSITIVE:
            values = [attribute.i] if attribute.type == onnx.AttributeProto.INT else attribute.ints
            if any(value < 1 for value in values):
                raise ImportModelError(f"{attribute.name} must be positive", where)


def _check_tensor(tensor: TensorProto, path: Path) -> Path | None:
    """Sizes as declared; gives the external file, if the tensor lies in one."""
    where = f"{path}: tensor {tensor.name}"
    if not isinstance(tensor.name, str):
        raise ImportModelError("a name is not valid text", where)
    if any(extent < 0 for extent in tensor.dims):
        raise ImportModelError("a tensor has a negative extent", where)
    bits = _BITS.get(tensor.data_type)
    wanted = None if bits is None else -(-math.prod(tensor.dims) * bits // 8)
    if tensor.data_location != TensorProto.EXTERNAL:
        if tensor.HasField("raw_data") and wanted is not None and len(tensor.raw_data) != wanted:
            raise ImportModelError(f"the tensor has {len(tensor.raw_data)} bytes and should have {wanted}", where)
        return None
    entries = {entry.key: entry.value for entry in tensor.external_data}
    file = _external_file(entries.get("location", ""), path, where)
    try:
        offset, length = int(entries.get("offset", "0")), int(entries.get("length", wanted or 0))
    except ValueError:
        raise ImportModelError("offset or length of external data is not a number", where) from None
    if offset < 0 or length < 0 or offset + length > file.stat().st_size or wanted not in (None, length):
        raise ImportModelError(f"its external data do not fit the file {file.name}", where)
    return file


def _external_file(location: str, path: Path, where: str) -> Path:
    """The file at a location beside or below the model, symbolic links resolved for the check only."""
    parts = PurePosixPath(location).parts
    if not parts or "\0" in location or ".." in parts or PurePosixPath(location).is_absolute():
        raise ImportModelError(f"external data outside the model's folder: {location or 'no location'}", where)
    file: Path = path.parent / location
    if not file.resolve().is_relative_to(path.parent.resolve()):
        raise ImportModelError(f"external data outside the model's folder: {location}", where)
    if not file.is_file():
        raise ImportModelError(f"external data are missing: {location}", where, "put the file beside the model")
    return file
