"""How large it would be: tiles, devices, silicon and joules, before anything is made."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from pfmc import glass_budget
from pfmc.budget import read_time, shared_inputs, tile_area, tile_energy
from pfmc.errors import UsageError
from pfmc.frontend.importer import import_model
from pfmc.ir.graph import Graph, MatrixVector
from pfmc.layout.layout import tile_extent
from pfmc.netlist.netlist import Netlist, Provision
from pfmc.passmanager import Context
from pfmc.primitives.crossbar import CrossbarTile
from pfmc.primitives.volume import DiffractiveVolume
from pfmc.registry import backend_for, load_pass
from pfmc.sections import Layer
from pfmc.technology.glass import GlassTechnology
from pfmc.technology.kinds import AnyTechnology
from pfmc.technology.loader import load
from pfmc.technology.schema import Technology
from pfmc.uses import lanes_of, layers

GDSII_BYTES_PER_DEVICE: Final = 30  # one reference record with a name of six letters
INPUT: Final = 0.25  # root mean square of a row's voltage over full scale; the samples have 0.2 to 0.4
WEIGHT: Final = 0.22  # mean size of a weight over the tile's largest; the samples' matrices have 0.18 to 0.37


@dataclass(frozen=True)
class Plan:
    """What a compile would make.

    Attributes:
        parameters: weights that become hardware.
        devices: of the blocks on the tiles, two per position.
        area_mm2: of the tiles and the streets between them.
        periphery_mm2: of what stands around them and is not drawn: converters, drivers, amplifiers.
        energy_j: of an inference, about.
        latency_s: of an inference, the host's work aside; None if the contractions are not known.
        assumed: what energy and latency rest on beside the technology's figures.
        layers: what each contraction takes of the time; empty if they are not known.
        mask_bytes: of the GDSII file, about.
    """

    technology: str
    parameters: int
    tiles: int
    devices: int
    area_mm2: float
    periphery_mm2: float
    energy_j: float
    latency_s: float | None
    assumed: tuple[str, ...]
    layers: tuple[Layer, ...]
    mask_bytes: int

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return _plain(self)


@dataclass(frozen=True)
class GlassPlan:
    """What a compile would write into glass.

    Attributes:
        parameters: weights that become hardware.
        devices: voxels of the volumes, at the technology's usual size.
        volume_mm3: of the volumes; the glass around them is not counted.
        energy_j: of an inference, about.
        latency_s: of an inference, the host's work aside; None if the contractions are not known.
        photons_by_width: of signal that a multiply-accumulate needs at least, by the width of a square layer.
        assumed: what energy, latency and light rest on beside the technology's figures.
        layers: what each contraction takes of the time; empty if they are not known.
    """

    technology: str
    parameters: int
    tiles: int
    devices: int
    volume_mm3: float
    energy_j: float
    latency_s: float | None
    photons_by_width: Mapping[int, float]
    assumed: tuple[str, ...]
    layers: tuple[Layer, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return _plain(self)


def _plain(plan: Plan | GlassPlan) -> dict[str, Any]:
    return asdict(plan) | {"layers": [layer.model_dump() for layer in plan.layers]}


def plan_model(model: Path, technology: str, spatial_unroll: int = 1) -> Plan | GlassPlan:
    """Size a model.

    Args:
        spatial_unroll: sets of tiles at most of a contraction that is used several times.

    Raises:
        PfmcError: if it cannot be read or nothing of it can be mapped.
    """
    loaded = load(technology)
    with tempfile.TemporaryDirectory(prefix="pfmc-") as work:
        netlist = _netlist(import_model(model, Path(work)).graph, loaded)
        weights = {part.weight.name: part.weight.size for node, _ in netlist.by_node() for part in node.origins}
    vectors = {name: tuple(_vectors(user, netlist.graph) for user in users) for name, users in netlist.users().items()}
    lanes = lanes_of(netlist, vectors, spatial_unroll)
    positions = sum(lanes[tile.node] * len(tile.rows) * len(tile.columns) for tile in netlist.tiles)
    beside = shared_inputs(netlist.tiles)
    products: Counter[tuple[int, int, int]] = Counter()
    sharing: Counter[int] = Counter()
    for tile in netlist.tiles:
        products[len(tile.rows), len(tile.columns), beside[tile.name]] += sum(vectors[tile.node])
        sharing[beside[tile.name]] += lanes[tile.node]
    used = layers(vectors, lanes, dict.fromkeys(vectors, _read_time(loaded)))
    assumed = "axes of open length are 1 long"
    return _plan(loaded, sum(weights.values()), sharing, 2 * positions, products, used, assumed)


def _vectors(node: MatrixVector, graph: Graph) -> int:
    """Matrix-vector products of a contraction per sample, as far as shapes are known."""
    shape = graph.shapes.get(node.output, ())
    axes = shape[2:] if node.windows is not None else shape[1:-1]
    return math.prod(axis or 1 for axis in axes)


def _read_time(technology: AnyTechnology) -> float:
    """Seconds of a matrix-vector product."""
    bits = Provision.standard(technology).output_bits
    if isinstance(technology, GlassTechnology):
        return glass_budget.read_time(technology, bits)
    return read_time(technology, bits)


def _netlist(graph: Graph, technology: AnyTechnology) -> Netlist:
    """What the target's pipeline makes of a model, up to its tiles."""
    current: Any = graph
    context = Context(technology, lambda _names: iter(()), title="")
    for name in backend_for(technology.target).pipeline:
        current = load_pass(name)().run(current, context)
        if isinstance(current, Netlist):
            break
    return cast(Netlist, current)


def plan_parameters(parameters: float, technology: str) -> Plan | GlassPlan:
    """Size a number of weights in full tiles.

    Raises:
        UsageError: if it is not a number of weights.
    """
    if not 1 <= parameters <= 1e18:
        raise UsageError("the number of parameters is outside 1 to 1e18", f"{parameters:g}")
    loaded = load(technology)
    rows, columns = int(loaded.tile.rows.value), int(loaded.tile.columns.value)
    tiles = -(-int(parameters) // (rows * columns))
    assumed = "each weight is used once"
    return _plan(loaded, int(parameters), {1: tiles}, 2 * int(parameters), {(rows, columns, 1): tiles}, (), assumed)


def _plan(
    technology: AnyTechnology,
    parameters: int,
    sharing: Mapping[int, int],
    devices: int,
    products: Mapping[tuple[int, int, int], int],
    used: tuple[Layer, ...],
    assumed: str,
) -> Plan | GlassPlan:
    """What is made of these numbers.

    Args:
        sharing: tiles, by how many share the input converters of one.
        products: matrix-vector products per inference, by rows and columns of the tile's block and that number.
    """
    tiles = sum(sharing.values())
    latency = sum(layer.latency_s for layer in used) if used else None
    inputs = f"inputs have a root mean square of {INPUT:g} of full scale"
    if isinstance(technology, GlassTechnology):
        primitive, provision = DiffractiveVolume.of(technology), Provision.standard(technology)
        voxels = tiles * primitive.layers * primitive.voxels**2
        light = INPUT**2 * technology.optics.input_power.si
        spent = (
            count * sum(glass_budget.product_energy(technology, rows, columns, rows * light, provision).values())
            for (rows, columns, _), count in products.items()
        )
        return GlassPlan(
            technology=technology.name,
            parameters=parameters,
            tiles=tiles,
            devices=voxels,
            volume_mm3=voxels * primitive.layer * primitive.voxel**2 * 1e9,
            energy_j=sum(spent),
            latency_s=latency,
            layers=used,
            photons_by_width=glass_budget.photons_by_width(technology, provision.output_bits, 1 / INPUT),
            assumed=(assumed, inputs, "no block needs a larger volume than usual", "least light: random weights"),
        )
    _, _, width, height = tile_extent(technology)
    street = technology.grid.units(technology.chip.tile_spacing)
    unit_mm = technology.grid.database_unit.si * 1e3
    drawn = 2 * tiles * int(technology.tile.rows.value) * int(technology.tile.columns.value)
    return Plan(
        technology=technology.name,
        parameters=parameters,
        tiles=tiles,
        devices=devices,
        area_mm2=tiles * (width + street) * (height + street) * unit_mm**2,
        periphery_mm2=1e6
        * sum(
            count * tile_area(technology, Provision.standard(technology), beside)[1]
            for beside, count in sharing.items()
        ),
        energy_j=sum(count * _product_energy(technology, *size) for size, count in products.items()),
        latency_s=latency,
        layers=used,
        assumed=(
            assumed,
            inputs,
            f"weights are {WEIGHT:g} of a tile's largest on average",
        ),
        mask_bytes=GDSII_BYTES_PER_DEVICE * drawn,
    )


def _product_energy(technology: Technology, rows: int, columns: int, beside: int) -> float:
    """Joules of a matrix-vector product of a block on a tile, from the usual size of weights and inputs."""
    cell = CrossbarTile.of(technology)
    used = cell.conductance_min + WEIGHT / 2 * (cell.conductance_max - cell.conductance_min)
    conductance = np.full((rows, 2 * cell.columns), cell.conductance_min)
    conductance[:, : 2 * columns] = used
    mean_square = np.full(rows, (INPUT * technology.converters.input_voltage.si) ** 2)
    provision = Provision.standard(technology)
    return sum(tile_energy(technology, conductance, mean_square, columns, provision, beside).values())
