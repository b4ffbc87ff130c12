"""How large it would be: tiles, devices and silicon, before anything is made."""

from __future__ import annotations

import math
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

from pfmc.errors import UsageError
from pfmc.frontend.importer import import_model
from pfmc.ir.graph import Graph
from pfmc.layout.layout import tile_extent
from pfmc.netlist.netlist import Netlist
from pfmc.passmanager import Context
from pfmc.registry import backend_for, load_pass
from pfmc.technology.loader import load
from pfmc.technology.schema import Technology

GDSII_BYTES_PER_DEVICE: Final = 30  # one reference record with a name of six letters


@dataclass(frozen=True)
class Plan:
    """What a compile would make.

    Attributes:
        parameters: weights that become hardware.
        devices: of the blocks on the tiles, two per position.
        area_mm2: of the tiles and the streets between them; periphery (converters, drivers, pads) is not counted.
        mask_bytes: of the GDSII file, about.
    """

    technology: str
    parameters: int
    tiles: int
    devices: int
    area_mm2: float
    mask_bytes: int

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def plan_model(model: Path, technology: str) -> Plan:
    """Size a model.

    Raises:
        PfmcError: if it cannot be read or nothing of it can be mapped.
    """
    loaded = load(technology)
    with tempfile.TemporaryDirectory(prefix="pfmc-") as work:
        netlist = _netlist(import_model(model, Path(work)).graph, loaded)
        weights = {node.weight.name: math.prod(node.weight.shape) for node, _ in netlist.by_node()}
    positions = sum(len(tile.rows) * len(tile.columns) for tile in netlist.tiles)
    return _plan(loaded, sum(weights.values()), len(netlist.tiles), 2 * positions)


def _netlist(graph: Graph, technology: Technology) -> Netlist:
    """What the target's pipeline makes of a model, up to its tiles."""
    current: Any = graph
    context = Context(technology, lambda _names: iter(()), title="")
    for name in backend_for(technology.target).pipeline:
        current = load_pass(name)().run(current, context)
        if isinstance(current, Netlist):
            break
    return cast(Netlist, current)


def plan_parameters(parameters: float, technology: str) -> Plan:
    """Size a number of weights in full tiles.

    Raises:
        UsageError: if it is not a number of weights.
    """
    if not 1 <= parameters <= 1e18:
        raise UsageError("the number of parameters is outside 1 to 1e18", f"{parameters:g}")
    loaded = load(technology)
    per_tile = int(loaded.tile.rows.value) * int(loaded.tile.columns.value)
    return _plan(loaded, int(parameters), -(-int(parameters) // per_tile), 2 * int(parameters))


def _plan(technology: Technology, parameters: int, tiles: int, devices: int) -> Plan:
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
        mask_bytes=GDSII_BYTES_PER_DEVICE * drawn,
    )
