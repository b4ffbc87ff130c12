"""The self-contained HTML page of a bundle."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, StrictUndefined

from pfmc.backend import TileAsBuilt
from pfmc.bundle import Manifest, TileEnergy, TileRecord, read_energies, read_manifest, read_tiles
from pfmc.check.verify import Verification
from pfmc.errors import ArtifactError
from pfmc.physics.crossbar import effective_matrix
from pfmc.registry import load_backend
from pfmc.report.pictures import energy_picture, floor_plan, mask_picture, matrix_picture
from pfmc.report.terminal import manifest_facts, metric
from pfmc.technology.quantities import Quantity
from pfmc.technology.schema import Technology

CONTRACTIONS_SHOWN: Final = 30  # in the picture of energies
KINDS: Final = {
    "resistive_j": "strips and wires",
    "output_stages_j": "output stages",
    "drivers_j": "drivers",
    "amplifiers_j": "amplifiers",
    "converters_j": "converters",
}
WEIGHTS_SHOWN: Final = (2, 8)  # rows and columns in the picture of the masks


@dataclass(frozen=True)
class Picture:
    """A PNG image as base64 text, and what it shows."""

    caption: str
    data: str

    @classmethod
    def of(cls, caption: str, png: bytes) -> Picture:
        """Encode it."""
        return cls(caption, base64.b64encode(png).decode("ascii"))


def write_report(folder: Path, path: Path, verification: Verification) -> None:
    """Write the page of a bundle and its verdict.

    Raises:
        ArtifactError: if the bundle cannot be understood or the page not written.
    """
    manifest = read_manifest(folder)
    tiles = read_tiles(manifest.path_of(folder, "tiles"))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("pfmc.report").joinpath("page.html.j2").read_text(encoding="utf-8"))
    text = template.render(
        manifest=manifest,
        verification=verification,
        facts=manifest_facts(manifest),
        pictures=_pictures(folder, manifest, tiles),
        layers=_layers(tiles),
        energies=[(name, metric(getattr(manifest.energy, part), "J")) for part, name in KINDS.items()],
        energy_picture=_energy_picture(read_energies(manifest.path_of(folder, "tiles"))),
        metric=metric,
        assumptions=_assumptions(manifest.technology),
        percent=lambda share: "–" if share is None else f"{100 * share:.4g} %",
    )
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as e:
        raise ArtifactError(f"the report cannot be written: {e.strerror}", str(path)) from None


def _pictures(folder: Path, manifest: Manifest, tiles: list[TileRecord]) -> list[Picture]:
    technology = manifest.technology
    return [
        Picture.of(f"Masks of the first weights of tile {tiles[0].name}", picture_of_masks(folder, manifest, tiles[0])),
        *(
            Picture.of(
                f"Weights of tile {record.name} ({record.node}) as measured from the masks, in the model's units",
                matrix_picture(_weights(built, record), f"{record.name}: {record.node}"),
            )
            for record, built in _first_as_built(folder, manifest, tiles)
        ),
        Picture.of(f"{len(tiles)} tiles on the chip, coloured by layer of the model", floor_plan(technology, tiles)),
    ]


def _energy_picture(tiles: list[TileEnergy]) -> Picture:
    """The contractions that take the most, in the model's order."""
    joules = {
        node: {name: sum(getattr(tile, part) for tile in members) for part, name in KINDS.items()}
        for node, members in ((node, list(group)) for node, group in groupby(tiles, key=lambda tile: tile.node))
    }
    most = sorted(joules, key=lambda node: sum(joules[node].values()), reverse=True)[:CONTRACTIONS_SHOWN]
    caption = f"Energy of an inference, {len(most)} of {len(joules)} contractions"
    return Picture.of(caption, energy_picture({node: parts for node, parts in joules.items() if node in most}))


def _assumptions(technology: Technology) -> list[tuple[str, Quantity]]:
    """What the technology says of energy, time, area and currents."""
    sections = {"periphery": technology.periphery, "converters": technology.converters, "wires": technology.wires}
    return [
        (f"{section}.{key}", value)
        for section, model in sections.items()
        for key, value in model
        if isinstance(value, Quantity) and (section != "wires" or key.endswith("_limit"))
    ]


def picture_of_masks(folder: Path, manifest: Manifest, tile: TileRecord) -> bytes:
    """A few weights of a tile as they lie in the masks, as PNG."""
    technology = manifest.technology
    window = _window(technology)
    shapes = load_backend(manifest.backend).shapes(folder, technology, tile, window)
    return mask_picture(technology, shapes, window)


def _window(technology: Technology) -> tuple[int, int, int, int]:
    grid, cell = technology.grid, technology.cell
    rows, columns = WEIGHTS_SHOWN
    pitch, head = grid.units(cell.strip_pitch), grid.units(cell.head_length)
    top = (rows - 1) * grid.units(cell.row_pitch) + grid.units(cell.body_length) + head
    return -pitch // 2, -head, (4 * columns - 1) * pitch // 2, top


def _first_as_built(folder: Path, manifest: Manifest, tiles: list[TileRecord]) -> list[tuple[TileRecord, TileAsBuilt]]:
    first = tiles[:1]
    backend = load_backend(manifest.backend)
    return list(zip(first, backend.read(folder, manifest.technology, first, lambda _done: None), strict=True))


def _weights(built: TileAsBuilt, record: TileRecord) -> Any:
    return effective_matrix(1.0 / built.resistance) / record.scale_siemens


def _layers(tiles: list[TileRecord]) -> list[dict[str, Any]]:
    rows = []
    for node, group in groupby(tiles, key=lambda tile: tile.node):
        members = list(group)
        scales = sorted({tile.scale_siemens * 1e6 for tile in members})
        rows.append(
            {
                "node": node,
                "rows": max(tile.row_stop for tile in members),
                "columns": max(tile.column_stop for tile in members),
                "tiles": len(members),
                "scale": f"{scales[0]:.3g}" if len(scales) == 1 else f"{scales[0]:.3g} to {scales[-1]:.3g}",
            }
        )
    return rows
