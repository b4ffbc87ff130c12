"""From the Graph and the emitted files back to ONNX: the host model, and the as-fabricated model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import helper
from onnx.external_data_helper import load_external_data_for_model, set_external_data

from pfmc._version import __version__
from pfmc.backend import AsBuilt, TileAsBuilt, VolumeAsBuilt
from pfmc.bundle import TileRecord
from pfmc.check.currents import effective_matrices
from pfmc.check.functions import DOMAIN, OPERATOR, Crossbars, input_names, matrix_vector
from pfmc.check.lanes import OPERATOR_IN_LANES
from pfmc.check.light import transfer_matrices
from pfmc.check.standing import SHARED, calling, without_matrix
from pfmc.errors import ArtifactError, PassError, VerifyError
from pfmc.frontend.bodies import entered, replace_all
from pfmc.frontend.building import Names, Splice, graphs_of
from pfmc.frontend.checks import subgraphs_of
from pfmc.frontend.opsets import brought_to_opset_min, opset_of
from pfmc.ir.graph import Absorbed, Graph
from pfmc.technology.glass import GlassTechnology
from pfmc.technology.kinds import AnyTechnology

IR_VERSION_MIN: Final = 8  # functions
EMBEDDED_BYTES: Final = 2**30  # of initialisers; beyond it a model gets external data: protobuf ends at 2 GiB
EXTERNAL_TENSOR_BYTES: Final = 1024  # smaller tensors stay embedded
REARRANGING: Final = ("Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")


def host_model(folded: Path, graph: Graph, mapped: Collection[str]) -> onnx.ModelProto:
    """The model with each mapped contraction replaced by a call of ``pfmc.MatrixVector``.

    The call is linear over the last axis of its float32 input; windows, casts and the bias stand around it, on the
    host. Its name is the contraction's.

    Args:
        folded: the model after constant folding, external data beside it; its nodes are named.
        graph: what the folded model became, contractions in matrix form.
        mapped: names of the contractions to replace.

    Raises:
        ArtifactError: if the file cannot be read.
        ImportModelError: if the model is of an old opset and cannot be brought to a newer one.
        PassError: if a contraction does not say which node makes its output.
    """
    model = brought_to_opset_min(_load(folded), folded)
    names = Names(model.graph)
    contractions = [node for node in graph.matrices() if node.name in mapped]
    made = {output for contraction in contractions for output in contraction.outputs}
    absorbed = [node for node in graph.nodes if isinstance(node, Absorbed) and node.into in made]
    gone = {name for node in contractions for name in node.replaces}
    gone |= {name for node in absorbed for name in node.replaces}
    removed = [node for _, node in entered(model.graph) if node.name in gone]
    place = {value: i for i, node in enumerate(removed) for value in node.output}
    stands = dict(zip(place, place, strict=True)) | {
        node.input: node.output for node in contractions if node.through is not None
    }
    replacement: dict[str, list[Splice]] = {}  # by the value that was made where they will stand
    for contraction in contractions:
        for output in contraction.outputs:
            if output not in stands:
                raise PassError(f"no node that it replaces makes {output}", f"node {contraction.name}")
        first = min((stands[output] for output in contraction.outputs), key=place.__getitem__)
        replacement.setdefault(first, []).append(calling(contraction, names))
    for node in absorbed:
        replacement.setdefault(node.output, []).append(without_matrix(node, names))
    for part in graphs_of(model.graph):
        nodes: list[onnx.NodeProto] = []
        for node in part.node:
            if node.name not in gone:
                nodes.append(node)
            for value in node.output:
                nodes.extend(new for splice in replacement.get(value, []) for new in splice.nodes)
        replace_all(part.node, nodes)
    for splice in (splice for splices in replacement.values() for splice in splices):
        model.graph.initializer.extend(splice.initializers)
    lost = place.keys() - made - {node.output for node in absorbed}
    replace_all(model.graph.value_info, [info for info in model.graph.value_info if info.name not in lost])
    _drop_unread(model.graph)
    _hold_quantisation(model, names)
    _load_data(model, folded)
    _set_metadata(model)
    return model


def as_fabricated(
    host: Path,
    tiles: Sequence[TileRecord],
    built: Iterable[AsBuilt],
    technology: AnyTechnology,
    *,
    ideal_converters: bool = False,
    ideal_wires: bool = False,
) -> onnx.ModelProto:
    """The host model whose calls compute what the tiles compute: standard operators only, runs anywhere.

    Args:
        host: made by :func:`host_model`.
        tiles: all tiles of the chip.
        built: what the files have of them, each tile once, in any order.
        technology: whose converters stand at the tiles.
        ideal_converters: leave rounding and clipping out.
        ideal_wires: leave the resistance of the wires out.

    Raises:
        ArtifactError: if the host model cannot be read.
        VerifyError: if tiles, devices and host do not belong together.
    """
    model, calls, crossbars = open_host(host, tiles, technology)
    records = {tile.name: tile for tile in tiles}
    for tile, matrix in _matrices(_matched(records, built), technology, ideal_wires=ideal_wires):
        crossbars[tile.node].place(tile, matrix)
    names, light = Names(model.graph), isinstance(technology, GlassTechnology)
    inputs = input_names(ideal_converters=ideal_converters, light=light)
    kinds = {part.lanes > 1 for part in crossbars.values()}
    for name in list(crossbars):
        if crossbars[name].lanes > 1:
            for call in calls[name]:
                call.op_type = OPERATOR_IN_LANES
        add_physics(model.graph, calls[name], crossbars.pop(name), names, inputs)
    for in_lanes in sorted(kinds):
        function = matrix_vector(opset_of(model), ideal_converters=ideal_converters, light=light, in_lanes=in_lanes)
        model.functions.append(function)
    return model


def open_host(
    host: Path, tiles: Sequence[TileRecord], technology: AnyTechnology
) -> tuple[onnx.ModelProto, dict[str, list[onnx.NodeProto]], dict[str, Crossbars]]:
    """The host model, its calls by the contraction that has the tiles, and what they need to compute, without devices.

    Raises:
        ArtifactError: if the host model cannot be read.
        VerifyError: if tiles and host do not belong together.
    """
    model = _load(host)
    _load_data(model, host)
    by_node: dict[str, list[TileRecord]] = {}
    for tile in tiles:
        by_node.setdefault(tile.node, []).append(tile)
    calls: dict[str, list[onnx.NodeProto]] = {}
    for _, node in entered(model.graph):
        if node.domain == DOMAIN:
            shared = (a.s.decode(errors="replace") for a in node.attribute if a.name == SHARED)
            calls.setdefault(next(shared, node.name), []).append(node)
    if calls.keys() != by_node.keys():
        odd = sorted(calls.keys() ^ by_node.keys())[0]
        raise VerifyError("the host model and the table of tiles do not name the same contractions", f"node {odd}")
    crossbars = {
        name: Crossbars.of(name, *_size(calls[name]), found, technology) for name, found in sorted(by_node.items())
    }
    return model, calls, crossbars


def _matrices(
    tiles: Iterable[tuple[TileRecord, AsBuilt]], technology: AnyTechnology, *, ideal_wires: bool
) -> Iterator[tuple[TileRecord, np.ndarray]]:
    """What each tile computes, by its kind: siemens, or amplitudes per amplitude, which are complex."""
    if isinstance(technology, GlassTechnology):
        volumes = ((record, built) for record, built in tiles if isinstance(built, VolumeAsBuilt))
        yield from transfer_matrices(volumes, technology)
    else:
        crossbars = ((record, built) for record, built in tiles if isinstance(built, TileAsBuilt))
        yield from effective_matrices(crossbars, ideal_wires=ideal_wires)


def _matched(records: Mapping[str, TileRecord], found: Iterable[AsBuilt]) -> Iterator[tuple[TileRecord, AsBuilt]]:
    """Each tile as built with its record; each record comes once."""
    missing = set(records)
    for built in found:
        if built.name not in missing:
            raise VerifyError("the tile is not in the table of tiles, or came twice", f"tile {built.name}")
        missing.remove(built.name)
        yield records[built.name], built
    if missing:
        raise VerifyError("the tile was not read back", f"tile {min(missing)}")


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Write a model, with its initialisers beside it in ``path`` + ".data" if they are large.

    A large model loses its initialisers' data on the way: they are in the file then.

    Raises:
        OSError: if a file cannot be written.
    """
    data = path.with_name(f"{path.name}.data")
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) >= EMBEDDED_BYTES:
        with data.open("wb") as f:
            for tensor in model.graph.initializer:
                if len(tensor.raw_data) >= EXTERNAL_TENSOR_BYTES:
                    set_external_data(tensor, data.name, offset=f.tell(), length=len(tensor.raw_data))
                    f.write(tensor.raw_data)
                    tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString(deterministic=True))


def add_physics(
    graph: onnx.GraphProto,
    calls: Sequence[onnx.NodeProto],
    crossbars: Crossbars,
    names: Names,
    inputs: Iterable[str],
) -> None:
    """Hand the calls that go to the same tiles their numbers: attributes, and initialisers as inputs."""
    tensors = list(crossbars.tensors(inputs))
    for tensor in tensors:
        tensor.name = names.new(tensor.name)
        graph.initializer.append(tensor)
    numbers = [helper.make_attribute(key, value) for key, value in crossbars.attributes().items()]
    for call in calls:
        replace_all(call.attribute, [*(a for a in call.attribute if a.name != SHARED), *numbers])
        call.input.extend(tensor.name for tensor in tensors)


def _size(calls: Sequence[onnx.NodeProto]) -> tuple[int, int]:
    """Rows and columns of calls that go to the same tiles."""
    found: set[tuple[int, int]] = set()
    for call in calls:
        sizes = {a.name: a.i for a in call.attribute}
        if call.op_type != OPERATOR or len(call.input) != 1 or not {"rows", "columns"} <= sizes.keys():
            raise VerifyError(f"the host model does not call {OPERATOR} as it should", f"node {call.name}")
        found.add((sizes["rows"], sizes["columns"]))
    if len(found) > 1:
        raise VerifyError(
            "the host model calls the same tiles for matrices of different sizes", f"node {calls[0].name}"
        )
    return found.pop()


def _load(path: Path) -> onnx.ModelProto:
    """A model without its external data.

    Raises:
        ArtifactError: if it cannot be read.
    """
    try:
        return onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as e:
        raise ArtifactError(f"the model cannot be read: {e}", str(path)) from None


def _load_data(model: onnx.ModelProto, path: Path) -> None:
    """Read the external data of a model.

    Raises:
        ArtifactError: if they cannot be read.
    """
    try:
        load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as e:
        raise ArtifactError(f"the model's external data cannot be read: {e}", str(path)) from None


def _hold_quantisation(model: onnx.ModelProto, names: Names) -> None:
    """Set a Clip without limits between DequantizeLinear and what only rearranges.

    ONNX Runtime (1.32) moves quantisation across that, and where it is signed and the opset is 21 or newer, it refuses
    what it has made.
    """
    for part in graphs_of(model.graph):
        movers = {value for node in part.node if node.op_type in REARRANGING for value in node.input[:1]}
        nodes: list[onnx.NodeProto] = []
        for node in part.node:
            nodes.append(node)
            if node.op_type == "DequantizeLinear" and node.output[0] in movers and opset_of(model) >= 21:
                splice = Splice(node.name, names)
                made = names.new(f"{node.name}/held")
                splice.add("Clip", [made])
                splice.nodes[0].output[0] = node.output[0]
                node.output[0] = made
                nodes += splice.nodes
        replace_all(part.node, nodes)


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Drop nodes and initialisers that nobody reads, also where an old model lists them among its inputs."""
    read = _drop_unread_nodes(graph)
    unread = {tensor.name for tensor in graph.initializer} - read
    replace_all(graph.initializer, [tensor for tensor in graph.initializer if tensor.name not in unread])
    replace_all(graph.input, [value for value in graph.input if value.name not in unread])


def _drop_unread_nodes(graph: onnx.GraphProto) -> set[str]:
    """Drop nodes that nobody reads, in bodies too; gives what the others read."""
    read = {output.name for output in graph.output}
    nodes: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if not read.isdisjoint(node.output):
            nodes.append(node)
            read.update(node.input)
            for body in subgraphs_of(node):
                read |= _drop_unread_nodes(body)
    replace_all(graph.node, nodes[::-1])
    return read


def _set_metadata(model: onnx.ModelProto) -> None:
    """Say who made it, and import only the domains in use."""
    used = {node.domain for part in graphs_of(model.graph) for node in part.node} | {""}
    used |= {entry.domain for function in model.functions for entry in function.opset_import}
    imports = [entry for entry in model.opset_import if entry.domain in used - {DOMAIN}]
    replace_all(model.opset_import, [*imports, helper.make_opsetid(DOMAIN, 1)])
    model.producer_name, model.producer_version = "pfmc", __version__
    model.ir_version = max(model.ir_version, IR_VERSION_MIN)
