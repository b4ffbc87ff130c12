"""Wire resistance in whole models: compensated it costs nothing, and without compensation it would."""

from __future__ import annotations

from pathlib import Path

import gdstk
import pytest

import pfmc
from pfmc.bundle import file_entry, write_manifest

SAMPLE = Path(__file__).parent.parent / "samples" / "digits_mlp"


def compiled(folder: Path, **options: object) -> pfmc.Bundle:
    return pfmc.compile(SAMPLE / "model.onnx", folder, calibration=SAMPLE / "calibration.npz", **options)  # type: ignore[arg-type]


def error(bundle: pfmc.Bundle, **options: object) -> float:
    verdict = bundle.verify(SAMPLE / "test.npz", **options)  # type: ignore[arg-type]
    relative_error = next(iter(verdict.outputs.values())).relative_error
    assert relative_error is not None
    return relative_error


@pytest.mark.parametrize("technology", ["sg13g2", "gf180mcu"])
def test_compensated_wires_cost_no_accuracy(tmp_path: Path, technology: str) -> None:
    """Real wires within 1.1 times of what ideal ones would give; not compensated they spoil the model."""
    bundle = compiled(tmp_path / "compensated", technology=technology)
    plain = compiled(tmp_path / "plain", technology=technology, options={"scale.compensate": "no"})
    ideal = error(plain, ideal_wires=True)
    assert error(bundle) <= 1.1 * ideal
    assert error(plain) > 20 * ideal
    # The strips alone compute something else: what compensates the wires is in them.
    assert error(bundle, ideal_wires=True) > 20 * ideal


def test_wires_that_were_narrowed_in_the_masks_show_in_the_verdict(tmp_path: Path) -> None:
    """Every column wire half as wide, by hand: connections and strips stay, and only the currents fall."""
    bundle = compiled(tmp_path / "chip")
    masks = bundle.path / "masks" / "chip.gds"
    library = gdstk.read_gds(masks)
    layers = bundle.manifest.technology.layers
    array = library["array"]
    for wire in [p for p in array.polygons if (p.layer, p.datatype) == layers.metal2.key]:
        (x0, y0), (x1, y1) = wire.bounding_box()
        array.remove(wire)
        array.add(gdstk.rectangle((x0 + (x1 - x0) / 4, y0), (x1 - (x1 - x0) / 4, y1), *layers.metal2.key))
    library.write_gds(masks)
    files = tuple(file_entry(bundle.path, entry.path, entry.role) for entry in bundle.manifest.files)
    write_manifest(bundle.path, bundle.manifest.model_copy(update={"files": files}))
    verdict = pfmc.open(bundle.path).verify(SAMPLE / "test.npz")
    assert (verdict.modified_files, verdict.devices_read_back) == ([], verdict.devices)
    assert not verdict.passed
