"""The self-contained HTML page of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, StrictUndefined

from pfmc.bundle import TileRecord, read_details, read_manifest, read_tiles
from pfmc.check.verify import Verification
from pfmc.errors import ArtifactError
from pfmc.report import crossbar_pages, glass_pages
from pfmc.report.attention import attention_pictures
from pfmc.report.pictures import Picture, energy_picture
from pfmc.report.terminal import in_turns, manifest_facts, metric
from pfmc.sections import Layer, TileEnergy, VolumeDetails
from pfmc.technology.glass import GlassTechnology

CONTRACTIONS_SHOWN: Final = 30  # in the picture of energies
KINDS: Final = {
    "resistive_j": "strips and wires",
    "output_stages_j": "output stages",
    "drivers_j": "drivers",
    "amplifiers_j": "amplifiers",
    "converters_j": "converters",
    "signal_j": "light of the inputs",
    "local_oscillators_j": "local oscillators",
    "receivers_j": "receivers",
}


def write_report(folder: Path, path: Path, verification: Verification) -> None:
    """Write the page of a bundle and its verdict.

    Raises:
        ArtifactError: if the bundle cannot be understood or the page not written.
    """
    manifest = read_manifest(folder)
    table = manifest.path_of(folder, "tiles")
    tiles = read_tiles(table)
    if isinstance(manifest.technology, GlassTechnology):
        pictures = list(glass_pages.pictures(folder, manifest, manifest.technology, tiles))
        assumptions = glass_pages.assumptions(manifest.technology)
        picture = _energy_picture(read_details(table, VolumeDetails))
    else:
        pictures = list(crossbar_pages.pictures(folder, manifest, manifest.technology, tiles))
        assumptions = crossbar_pages.assumptions(manifest.technology)
        picture = _energy_picture(read_details(table, TileEnergy))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("pfmc.report").joinpath("page.html.j2").read_text(encoding="utf-8"))
    text = template.render(
        manifest=manifest,
        verification=verification,
        facts=manifest_facts(manifest),
        pictures=pictures,
        layers=_layers(tiles, manifest.layers),
        attentions=attention_pictures(manifest, tiles),
        energies=[(KINDS[part], metric(getattr(manifest.energy, part), "J")) for part in manifest.energy.parts()],
        energy_picture=picture,
        metric=metric,
        assumptions=assumptions,
        percent=lambda share: "–" if share is None else f"{100 * share:.4g} %",
    )
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as e:
        raise ArtifactError(f"the report cannot be written: {e.strerror}", str(path)) from None


def _energy_picture(tiles: Sequence[TileEnergy | VolumeDetails]) -> Picture:
    """The contractions that take the most, in the model's order."""
    kinds = {part: KINDS[part] for part in tiles[0].parts()}
    joules = {
        node: {name: sum(getattr(tile, part) for tile in members) for part, name in kinds.items()}
        for node, members in ((node, list(group)) for node, group in groupby(tiles, key=lambda tile: tile.node))
    }
    most = sorted(joules, key=lambda node: sum(joules[node].values()), reverse=True)[:CONTRACTIONS_SHOWN]
    caption = f"Energy of an inference, {len(most)} of {len(joules)} contractions"
    return Picture.of(caption, energy_picture({node: parts for node, parts in joules.items() if node in most}))


def _layers(tiles: list[TileRecord], layers: Sequence[Layer]) -> list[dict[str, Any]]:
    rows = []
    times = {layer.node: layer for layer in layers}
    total, longest = sum(layer.latency_s for layer in layers), max((layer.latency_s for layer in layers), default=0.0)
    for node, group in groupby(tiles, key=lambda tile: tile.node):
        members, time = list(group), times[node]
        scales = sorted({tile.scale_siemens * 1e6 for tile in members})
        rows.append(
            {
                "node": node,
                "rows": max(tile.row_stop for tile in members),
                "columns": max(tile.column_stop for tile in members),
                "tiles": len(members),
                "scale": f"{scales[0]:.3g}" if len(scales) == 1 else f"{scales[0]:.3g} to {scales[-1]:.3g}",
                "uses": f"{time.uses:,}{in_turns(time)}",
                "read": metric(time.read_s, "s"),
                "latency": metric(time.latency_s, "s"),
                "share": f"{time.latency_s / total:.0%}" if total else "–",
                "slowest": time.latency_s == longest,
            }
        )
    return rows
