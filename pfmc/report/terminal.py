"""What the command line shows a person."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import typer

from pfmc.backend import Place
from pfmc.bundle import Manifest
from pfmc.check.monte_carlo import MonteCarlo, Statistics
from pfmc.check.verify import Verification
from pfmc.errors import printable
from pfmc.planning import GlassPlan, Plan
from pfmc.sections import Glass, Layer, OpticalEnergy, SavingEntry, Share

LAYERS_SHOWN: Final = 3  # by what they take of an inference
SAVINGS_SHOWN: Final = 8
PREFIXES: Final = dict(zip(range(-6, 5), ("a", "f", "p", "n", "µ", "m", "", "k", "M", "G", "T"), strict=True))


def show_manifest(manifest: Manifest, folder: Path) -> None:
    """What a compile made."""
    rows = manifest_facts(manifest)
    rows += sizing_facts(manifest)
    rows.append(("bundle", f"{folder}  {sum(entry.bytes for entry in manifest.files):,} bytes"))
    if manifest.calibration.data == "random":
        rows.append(("calibration", "random inputs: give --calibration for ranges and energy that fit real data"))
    if manifest.calibration.unreached:
        names = _names(manifest.calibration.unreached)
        rows.append(("not calibrated", f"{names}: the data never ran them, and their ranges are guessed"))
    show_rows(rows)


def manifest_facts(manifest: Manifest) -> list[tuple[str, str]]:
    """What a person wants to know of a bundle, in words."""
    energy = manifest.energy
    return [
        ("model", f"{printable(manifest.model.name)}  {manifest.model.sha256[:16]}"),
        ("technology", f"{manifest.technology.name}: {manifest.technology.title}"),
        ("parameters", _share(manifest.parameters)),
        ("MACs per sample", _share(manifest.macs)),
        ("tiles", f"{manifest.tiles:,} of {_tile_size(manifest)} weights"),
        *(_chip_facts(manifest) if manifest.glass is None else _glass_facts(manifest, manifest.glass)),
        ("an inference", f"{metric(energy.per_inference_j, 'J')}, {metric(energy.latency_s, 's')}"),
        *layer_facts(manifest.layers),
        ("a MAC", metric(energy.per_mac_j, "J")),
        *(
            ("tiles shared", f"those of {printable(n)} with {_names(some)}")
            for n, some in manifest.shared_tiles.items()
        ),
        *saving_facts(manifest),
        *_low_rank_facts(manifest),
        ("kept on the host", ", ".join(map(printable, manifest.on_host)) or "nothing that could be mapped"),
    ]


def saving_facts(manifest: Manifest) -> list[tuple[str, str]]:
    """What was made smaller than the model has it, the most weights first."""

    def saved(savings: Sequence[SavingEntry]) -> str:
        weights, tiles = sum(saving.weights for saving in savings), sum(saving.tiles for saving in savings)
        what = f"{2 * weights:,} devices" if manifest.glass is None else f"{weights:,} weights"
        return f"{what}, {tiles:,} tile{'' if tiles == 1 else 's'}"

    largest = sorted(manifest.savings, key=lambda saving: saving.weights, reverse=True)
    shown, others = largest[:SAVINGS_SHOWN], largest[SAVINGS_SHOWN:]
    texts = [f"{saved([saving])}: {_names(saving.nodes)}, {'; '.join(saving.how)}" for saving in shown]
    texts += [f"{saved(others)}: {len(others)} more"] if others else []
    return [("" if i else "saved", text) for i, text in enumerate(texts)]


def _low_rank_facts(manifest: Manifest) -> list[tuple[str, str]]:
    """Where a small rank was asked for and no matrix has one."""
    asked = [step.options["error"] for step in manifest.passes if step.name == "factorise"]
    if not asked or any(saving.errors for saving in manifest.savings):
        return []
    return [("low rank", f"no matrix is smaller as two of them with an error of {asked[0]:.2%}")]


def layer_facts(layers: Sequence[Layer]) -> list[tuple[str, str]]:
    """Which contractions take the time, the slowest first; nothing where each is used once."""
    if all(layer.uses <= 1 for layer in layers):
        return []
    slowest = sorted(layers, key=lambda layer: layer.latency_s, reverse=True)
    shown, others = slowest[:LAYERS_SHOWN], slowest[LAYERS_SHOWN:]
    total = sum(layer.latency_s for layer in layers)
    texts = [
        f"{metric(layer.latency_s, 's')}, {layer.latency_s / total:.0%}: {used(layer)} of {printable(layer.node)}"
        for layer in shown
    ]
    if others:
        rest = sum(layer.latency_s for layer in others)
        texts.append(f"{metric(rest, 's')}, {rest / total:.0%}: {len(others)} more")
    return [("" if i else "  slowest layers", text) for i, text in enumerate(texts)]


def used(layer: Layer) -> str:
    """How often a contraction's tiles are used, and for how long."""
    uses = f"{layer.uses:,} use{'' if layer.uses == 1 else 's'}"
    return f"{uses}{in_turns(layer)} × {metric(layer.read_s, 's')}"


def in_turns(layer: Layer) -> str:
    """How a layer's uses are dealt to several sets of its tiles."""
    return "" if layer.side_by_side == 1 else f" on {layer.side_by_side} sets of tiles in {layer.turns:,} turns"


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(printable, names))


def _chip_facts(manifest: Manifest) -> list[tuple[str, str]]:
    """Of crossbars."""
    chip, area, compensation = manifest.chip, manifest.area, manifest.compensation
    rows = [
        ("devices", f"{manifest.devices:,} (and {manifest.unused_devices:,} unused)"),
        ("chip", f"{chip.width_um / 1e3:.3g} × {chip.height_um / 1e3:.3g} mm"),
    ]
    if area is not None:
        around = f"{area.array_mm2:.3g} mm² of tiles, {area.total_mm2:.3g} mm² with what stands around them"
        rows.append(("area", around))
    if compensation is not None:
        least = f"compensated they leave {compensation.least_share:.0%} of the range or more"
        rows.append(("wires", f"r·G_max·N = {compensation.loading:.2g}, {least}"))
    for heaviest in sorted(manifest.wire_loads, key=lambda load: load.share)[-1:]:
        rows.append(("electromigration", f"{heaviest.wire} carries {heaviest.share:.0%} of what it may"))
    return [*rows, ("masks that differ", ", ".join(manifest.personalisation_masks))]


def _glass_facts(manifest: Manifest, glass: Glass) -> list[tuple[str, str]]:
    """Of a block of glass."""
    chip = manifest.chip
    size = " × ".join(f"{side / 1e3:.3g}" for side in (chip.width_um, chip.height_um, glass.thickness_um))
    rows = [
        ("voxels", f"{glass.voxels:,}, {glass.weights_per_mm3:,.0f} weights per mm³ of volumes"),
        ("block", f"{size} mm"),
        ("writing", metric(glass.write_s, "s")),
        ("error of a tile", f"{glass.mean_error:.2%} on average, {glass.worst_error:.2%} at worst, as designed"),
        (
            "light",
            f"{glass.mean_efficiency:.1%} of it reaches the outputs, crosstalk {glass.worst_crosstalk:.2%} at worst",
        ),
        ("signal to noise", f"{glass.least_signal_to_noise:,.0f} at full scale, or more"),
    ]
    if isinstance(manifest.energy, OpticalEnergy):
        light = (
            f"{metric(manifest.energy.light_per_mac_j, 'J')}, {manifest.energy.photons_per_mac:.3g} photons of signal"
        )
        needed = f"{manifest.energy.needed_photons_per_mac:.3g} would do for a noise of one step"
        rows.append(("light per MAC", f"{light}, {needed}"))
        if macs := manifest.energy.post_matrix_macs:
            joules = metric(manifest.energy.post_matrix_j, "J")
            rows.append(("post-matrix", f"{macs:,} digital MACs, {joules} an inference more where --post-matrix trims"))
    return rows


def sizing_facts(manifest: Manifest) -> list[tuple[str, str]]:
    """What was chosen to reach an accuracy, contraction by contraction, and what it cost."""
    sizing = manifest.sizing
    if sizing is None:
        return []
    asked = [] if sizing.asked_relative_error is None else [f"relative error ≤ {sizing.asked_relative_error:.3g}"]
    asked += [] if sizing.asked_agreement is None else [f"agreement ≥ {sizing.asked_agreement:.4g}"]
    reached = f"{sizing.relative_error:.3g} and {sizing.agreement:.4g} on {sizing.samples} calibration samples"
    rows = [("asked for", f"{', '.join(asked)}: chips as made and trimmed reach {reached}")]
    for number, trial in enumerate(sizing.trials):
        size = f"{trial.rows} × {trial.columns} weights a tile, column wires of {trial.column_wire_um:g} µm"
        area = "out of reach" if trial.area_mm2 is None else f"{trial.tiles} tiles, {trial.area_mm2:.3g} mm²"
        reached = f"{trial.relative_error:.3g} and {trial.agreement:.4g}"
        rows.append(("  chosen" if number == 0 else "  instead of", f"{size}: {area}, {reached}"))
    for entry in sizing.contractions:
        area = f"{entry.area_mm2:.3g} mm² (at least {entry.least_area_mm2:.3g})"
        rows.append((f"  {printable(entry.node)}", f"{area}, adds {entry.relative_error:.2%}"))
        for choice in entry.choices:
            cost = f"{choice.value}: {choice.area_mm2:.3g} mm², without it {choice.error_without:.2%}"
            least = f"{choice.value}: the least"
            rows.append((f"    {choice.name.replace('_', ' ')}", cost if choice.area_mm2 > 0 else least))
    return rows


def show_verification(verification: Verification) -> None:
    """A verdict."""
    rows = [("data", f"{verification.samples} samples, {verification.data}")]
    for name, output in verification.outputs.items():
        error = "not a number" if output.relative_error is None else f"{100 * output.relative_error:.3g} %"
        rows.append((f"output {printable(name)}", f"relative error {error}, agreement {100 * output.agreement:.4g} %"))
    if verification.accuracy is not None:
        reference, fabricated = verification.accuracy["reference"], verification.accuracy["fabricated"]
        rows.append(("accuracy", f"{100 * fabricated:.4g} % as fabricated, {100 * reference:.4g} % original"))
    rows.append(("devices read back", f"{verification.devices_read_back:,} of {verification.devices:,}"))
    rows.append(("wires, converters", f"{verification.wires}, {verification.converters}"))
    rows += [("modified", printable(path)) for path in verification.modified_files]
    rows += [("complaint", printable(line)) for line in verification.complaints[:20]]
    if verification.drc is not None:
        checked = f"{verification.drc.rules} rules on {verification.drc.tiles:,} tiles"
        rows.append(("design rules", f"{checked}, {'clean' if verification.drc.clean else 'VIOLATED'}"))
        for rule in verification.drc.violated[:20]:
            first = rule.places[0] if rule.places else None
            where = f", first {place_text(first)}" if first else ""
            rows.append((f"  {printable(rule.rule)}", f"{rule.count:,} times{where}"))
        for found in verification.drc.densities:
            if found.left_to_die and not found.met:
                least = f"{100 * found.least:.3g} %, {100 * found.limit:.3g} % wanted"
                rows.append((f"  {printable(found.rule)}", f"density {least}: left to what stands around the arrays"))
    if verification.lvs is not None:
        rows.append(("connections", f"{len(verification.lvs)} differ" if verification.lvs else "as they should be"))
        rows += [("", printable(line)) for line in verification.lvs[:20]]
    if verification.monte_carlo is not None:
        rows += monte_carlo_facts(verification.monte_carlo)
    rows.append(("verdict", "passed" if verification.passed else "FAILED"))
    rows[-1] = ("verdict", f"{rows[-1][1]}, tolerance {100 * verification.tolerance:g} %")
    show_rows(rows)


def place_text(place: Place) -> str:
    """Where a rule is violated, and how."""
    layer = "" if place.layer is None else f", layer {place.layer}"
    found = f": {printable(place.found)}" if place.found else ""
    return f"at {place.x:.3f},{place.y:.3f} um {place.tile}".rstrip() + layer + found


def monte_carlo_facts(found: MonteCarlo) -> list[tuple[str, str]]:
    """What chips as made compute, in words."""

    def percent(value: float | None) -> str:
        return "not a number" if value is None else f"{100 * value:.3g} %"

    def spread(what: Statistics) -> str:
        return f"{percent(what.mean)} ± {percent(what.sigma)}, one in twenty {percent(what.worst)} or worse"

    trim = ", trimmed with a matrix per volume" if found.post_matrix else ", trimmed" if found.trimmed else ""
    rows = [("chips as made", f"{found.runs}{trim}, seed {found.seed}")]
    for name, output in found.outputs.items():
        rows.append((f"  {printable(name)}", f"relative error {spread(output.relative_error)}"))
        rows.append(("", f"agreement {spread(output.agreement)}"))
    if found.accuracy is not None:
        rows.append(("  accuracy", spread(found.accuracy)))
    rows.append(("  yield", f"{percent(found.yield_at_tolerance)} within the tolerance"))
    for what, errors in (("effect", found.blame.effects), ("layer", found.blame.contractions)):
        worst = [f"{printable(name)} {percent(error)}" for name, error in list(errors.items())[:3]]
        rows.append((f"  worst {what}s alone", ", ".join(worst)))
    return rows


def show_plan(plan: Plan | GlassPlan) -> None:
    """What a compile would make."""
    if isinstance(plan, GlassPlan):
        light = ", ".join(f"{photons:.3g} at {width:,}" for width, photons in plan.photons_by_width.items())
        size = [
            ("voxels", f"{plan.devices:,}"),
            ("volumes", f"{plan.volume_mm3:,.4g} mm³"),
            ("least photons per MAC", f"by a layer's width: {light} and more"),
        ]
        files: list[tuple[str, str]] = []
    else:
        size = [
            ("devices", f"{plan.devices:,}"),
            ("area of tiles and streets", f"{plan.area_mm2:,.4g} mm²"),
            ("area around tiles", f"{plan.periphery_mm2:,.4g} mm²"),
        ]
        files = [("GDSII masks", f"about {plan.mask_bytes:,} bytes")]
    time = "" if plan.latency_s is None else f", {metric(plan.latency_s, 's')}"
    show_rows(
        [
            ("technology", plan.technology),
            ("parameters", f"{plan.parameters:,}"),
            ("tiles", f"{plan.tiles:,}"),
            *size,
            ("an inference", f"about {metric(plan.energy_j, 'J')}{time}"),
            *layer_facts(plan.layers),
            ("assumed for that", "; ".join(plan.assumed)),
            *files,
        ]
    )


def metric(value: float, unit: str) -> str:
    """A quantity to three digits, with a metric prefix."""
    rounded = float(f"{value:.3g}")
    power = min(max(math.floor(math.log10(rounded) / 3), -6), 4) if rounded > 0 else 0
    return f"{rounded / 1000.0**power:.3g} {PREFIXES[power]}{unit}"


def _share(share: Share) -> str:
    return f"{share.mapped:,} of {share.total:,} mapped ({100 * share.mapped / max(share.total, 1):.1f} %)"


def _tile_size(manifest: Manifest) -> str:
    tile = manifest.technology.tile
    return f"{tile.rows.value:g} × {tile.columns.value:g}"


def show_rows(rows: list[tuple[str, str]]) -> None:
    """Print names and texts in two columns, a line each, whatever the width of the terminal."""
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        typer.echo(f"{name:<{width}}  {text}")
