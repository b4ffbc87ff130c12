"""How large it would be: tiles, devices and silicon, before anything is made."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pfmc.errors import UsageError
from pfmc.frontend.importer import import_model
from pfmc.ir.graph import Contraction, Conv, Gemm
from pfmc.layout.layout import tile_extent
from pfmc.technology.loader import load
from pfmc.technology.schema import Technology

GDSII_BYTES_PER_DEVICE: Final = 30  # one reference record with a name of six letters


@dataclass(frozen=True)
class Plan:
    """What a compile would make.

    Attributes:
        parameters: weights that become devices, a pair each.
        tiles: if no block is all zero.
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
    rows, columns = int(loaded.tile.rows.value), int(loaded.tile.columns.value)
    with tempfile.TemporaryDirectory(prefix="pfmc-") as work:
        shapes = [_matrix_shape(node) for node in import_model(model, Path(work)).graph.contractions()]
    tiles = sum(-(-r // rows) * -(-c // columns) * groups for r, c, groups in shapes)
    return _plan(loaded, sum(r * c * groups for r, c, groups in shapes), tiles)


def plan_parameters(parameters: float, technology: str) -> Plan:
    """Size a number of weights in full tiles.

    Raises:
        UsageError: if it is not a number of weights.
    """
    if not 1 <= parameters <= 1e18:
        raise UsageError("the number of parameters is outside 1 to 1e18", f"{parameters:g}")
    loaded = load(technology)
    per_tile = int(loaded.tile.rows.value) * int(loaded.tile.columns.value)
    return _plan(loaded, int(parameters), -(-int(parameters) // per_tile))


def _matrix_shape(node: Contraction) -> tuple[int, int, int]:
    """Rows, columns and number of the diagonal blocks of a contraction's matrix."""
    shape = node.weight.shape
    if isinstance(node, Conv):
        size = 1
        for extent in shape[1:]:
            size *= extent
        return size, shape[0] // node.groups, node.groups
    return (shape[1], shape[0], 1) if isinstance(node, Gemm) and node.transposed else (shape[0], shape[1], 1)


def _plan(technology: Technology, parameters: int, tiles: int) -> Plan:
    _, _, width, height = tile_extent(technology)
    street = technology.grid.units(technology.chip.tile_spacing)
    unit_mm = technology.grid.database_unit.si * 1e3
    drawn = 2 * tiles * int(technology.tile.rows.value) * int(technology.tile.columns.value)
    return Plan(
        technology=technology.name,
        parameters=parameters,
        tiles=tiles,
        devices=2 * parameters,
        area_mm2=tiles * (width + street) * (height + street) * unit_mm**2,
        mask_bytes=GDSII_BYTES_PER_DEVICE * drawn,
    )
