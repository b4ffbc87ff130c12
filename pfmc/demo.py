"""The main job on a real sample, step by step: each step is a command that a user could type."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

from pfmc.bundle import read_manifest, read_tiles
from pfmc.check.verify import Verification
from pfmc.driver import CompileOptions, compile_model, export_bundle
from pfmc.errors import UsageError
from pfmc.observer import Observer
from pfmc.report.crossbar_pages import picture_of_masks
from pfmc.report.page import write_report
from pfmc.report.terminal import show_manifest, show_verification
from pfmc.verifier import VerifyOptions, verify_bundle

SAMPLE: Final = "digits_mlp"


def run_demo(folder: Path, observer: Observer, say: Callable[[str], None]) -> Verification:
    """Compile, verify, export and report the sample below ``folder``.

    Raises:
        UsageError: if the folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError("the folder is not empty", str(folder), "name another: pfmc demo DIR")
    sample, chip = folder / SAMPLE, folder / "chip"
    with as_file(files("pfmc_samples") / SAMPLE) as source:
        shutil.copytree(source, sample)
    model, calibration, test = sample / "model.onnx", sample / "calibration.npz", sample / "test.npz"

    say(f"$ pfmc compile {model} -o {chip} --calibration {calibration}")
    show_manifest(compile_model(model, chip, CompileOptions(calibration=calibration), observer), chip)

    say(f"\n$ pfmc verify {chip} --data {test}")
    verification = verify_bundle(chip, VerifyOptions(data=test), observer)
    show_verification(verification)

    manifest = read_manifest(chip)
    tile = read_tiles(manifest.path_of(chip, "tiles"))[0]
    for format, name, extra in (("gdsii", f"{tile.name}.gds", tile.name), ("devices", "devices.csv", None)):
        say(f"\n$ pfmc export {chip} --format {format} -o {folder / name}" + (f" --tile {extra}" if extra else ""))
        observer.stage(f"exporting {name}")
        export_bundle(chip, format, folder / name, tile=extra)

    page = folder / "report.html"
    say(f"\n$ pfmc report {chip} --data {test} -o {page}")
    observer.stage("writing the report")
    write_report(chip, page, verification)
    (folder / "tile.png").write_bytes(picture_of_masks(chip, manifest, tile))
    say(f"\nOpen {chip / 'masks' / 'chip.gds'} in KLayout, {page} in a browser.")
    return verification
