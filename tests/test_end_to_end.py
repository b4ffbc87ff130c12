"""From the committed samples to masks, and from the masks to a verdict; then the masks are changed by hand."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gdstk
import klayout.db as kdb
import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from onnx import numpy_helper

import pfmc
from pfmc.bundle import file_entry, write_manifest
from pfmc.check import lift
from pfmc.errors import ArtifactError
from pfmc.frontend.runtime import BATCH
from pfmc.verifier import together

SAMPLES = Path(__file__).parent.parent / "samples"


def compiled(sample: str, folder: Path, **options: object) -> pfmc.Bundle:
    source = SAMPLES / sample
    return pfmc.compile(source / "model.onnx", folder, calibration=source / "calibration.npz", **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pfmc.Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return {name: compiled(name, folder / name) for name in ("digits_mlp", "digits_cnn")}


@pytest.fixture
def copy(bundles: dict[str, pfmc.Bundle], tmp_path: Path) -> pfmc.Bundle:
    """A bundle that a test may change."""
    shutil.copytree(bundles["digits_mlp"].path, tmp_path / "chip")
    return pfmc.open(tmp_path / "chip")


def digest(folder: Path) -> dict[str, str]:
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


@pytest.mark.parametrize("sample", ["digits_mlp", "digits_cnn"])
def test_a_sample_works_as_fabricated(bundles: dict[str, pfmc.Bundle], sample: str) -> None:
    bundle = bundles[sample]
    verdict = bundle.verify(SAMPLES / sample / "test.npz")
    (output,) = verdict.outputs.values()
    assert verdict.passed
    assert output.relative_error <= 0.02
    assert output.agreement >= 0.99
    assert abs(verdict.accuracy["fabricated"] - verdict.accuracy["reference"]) <= 0.01
    assert verdict.devices_read_back == verdict.devices == bundle.manifest.devices
    assert verdict.wires == "technology"


@pytest.mark.parametrize("sample", ["digits_mlp", "digits_cnn"])
def test_with_ideal_converters_only_the_rounding_on_the_grid_is_left(
    bundles: dict[str, pfmc.Bundle], sample: str
) -> None:
    verdict = bundles[sample].verify(SAMPLES / sample / "test.npz", ideal_converters=True)
    assert 0 < next(iter(verdict.outputs.values())).relative_error < 0.002
    assert verdict.converters == "ideal"


@pytest.mark.parametrize("sample", ["digits_mlp", "digits_cnn"])
@pytest.mark.parametrize("seed", [0, 1])
def test_without_data_a_sound_bundle_passes(bundles: dict[str, pfmc.Bundle], sample: str, seed: int) -> None:
    """Random inputs must lie where the converters were calibrated."""
    verdict = bundles[sample].verify(seed=seed)
    assert (verdict.data, verdict.samples) == ("random", 64)
    assert verdict.passed


@pytest.mark.parametrize("technology", ["gf180mcu", "generic"])
def test_other_technologies(tmp_path: Path, technology: str) -> None:
    bundle = compiled("digits_mlp", tmp_path / "chip", technology=technology)
    verdict = bundle.verify(SAMPLES / "digits_mlp" / "test.npz")
    assert verdict.passed
    assert next(iter(verdict.outputs.values())).agreement >= 0.99


def test_the_transformer_is_mapped_but_for_its_attention_products(tmp_path: Path) -> None:
    bundle = compiled("language_encoder", tmp_path / "chip")
    verdict = bundle.verify(SAMPLES / "language_encoder" / "test.npz", samples=200)
    assert verdict.passed
    # Two layers with four projections, three of them of one input, and two feed-forward matrices each, and a head.
    assert len({name for tile in bundle.tiles for name in tile.node.split("|")}) >= 13


def test_the_same_input_gives_the_same_bytes(bundles: dict[str, pfmc.Bundle], tmp_path: Path) -> None:
    script = (
        "import sys, pfmc, pathlib\n"
        "source, out = map(pathlib.Path, sys.argv[1:])\n"
        "pfmc.compile(source / 'model.onnx', out, calibration=source / 'calibration.npz')\n"
    )
    copied = tmp_path / "somewhere else"
    shutil.copytree(SAMPLES / "digits_cnn", copied)
    # What chooses the processor's BLAS kernels is passed on: two kernels differ in the last bit of a sum.
    kernels = {key: value for key, value in os.environ.items() if key.startswith("OPENBLAS_")}
    environment = {"PYTHONHASHSEED": "17", "TZ": "Pacific/Apia", "HOME": str(tmp_path)} | kernels
    subprocess.run([sys.executable, "-c", script, copied, tmp_path / "again"], check=True, env=environment)
    assert digest(tmp_path / "again") == digest(bundles["digits_cnn"].path)


def test_the_as_fabricated_model_runs_without_pfmc(bundles: dict[str, pfmc.Bundle], tmp_path: Path) -> None:
    """The file alone, in a process that cannot import pfmc."""
    bundle = bundles["digits_mlp"]
    script = (
        "import sys, numpy, onnxruntime\n"
        "sys.modules['pfmc'] = None\n"
        "session = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])\n"
        "data = numpy.load(sys.argv[2])\n"
        "name = session.get_inputs()[0].name\n"
        "y = session.run(None, {name: data[name]})[0]\n"
        "print((y.argmax(-1) == data['labels']).mean())\n"
    )
    shutil.copy(bundle.path / "as_fabricated.onnx", tmp_path)
    arguments = [sys.executable, "-c", script, "as_fabricated.onnx", SAMPLES / "digits_mlp" / "test.npz"]
    printed = subprocess.run(arguments, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    accuracy = bundle.verify(SAMPLES / "digits_mlp" / "test.npz").accuracy
    assert float(printed) == pytest.approx(accuracy["fabricated"])


def test_the_as_fabricated_model_is_exported_with_the_data_beside_it(
    bundles: dict[str, pfmc.Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read from the masks again; a large one's data are named after the file that is asked for."""
    bundle = bundles["digits_mlp"]
    bundle.export(tmp_path / "small.onnx", "onnx")
    assert (tmp_path / "small.onnx").read_bytes() == (bundle.path / "as_fabricated.onnx").read_bytes()
    monkeypatch.setattr(lift, "EMBEDDED_BYTES", 1)
    bundle.export(tmp_path / "large.onnx", "onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.onnx", "large.onnx.data", "small.onnx"]
    assert (tmp_path / "large.onnx").stat().st_size < 0.5 * (tmp_path / "small.onnx").stat().st_size
    large, small = (onnx.load(tmp_path / f"{size}.onnx").graph.initializer for size in ("large", "small"))
    for found, expected in zip(large, small, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(found), numpy_helper.to_array(expected))


def test_the_table_of_devices_draws_the_same_masks(bundles: dict[str, pfmc.Bundle], tmp_path: Path) -> None:
    bundle = bundles["digits_mlp"]
    for name in ("devices.csv", "devices.parquet"):
        table = bundle.export(tmp_path / name, "devices")
        again = bundle.export(tmp_path / f"{name}.gds", "gdsii", devices=table)
        assert again.read_bytes() == (bundle.path / "masks" / "chip.gds").read_bytes()


@pytest.mark.parametrize("technology", ["sg13g2", "gf180mcu"])
def test_two_models_differ_in_the_personalised_layers_alone(tmp_path: Path, technology: str) -> None:
    """Judged by KLayout: every other mask can be made before the model is known."""
    model = onnx.load(SAMPLES / "digits_mlp" / "model.onnx")
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 2:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[::-1, ::-1].copy(), tensor.name))
    onnx.save(model, tmp_path / "other.onnx")
    chips = []
    for name, path in (("one", SAMPLES / "digits_mlp" / "model.onnx"), ("other", tmp_path / "other.onnx")):
        bundle = pfmc.compile(path, tmp_path / name, technology=technology)
        layout = kdb.Layout()
        layout.read(str(bundle.path / "masks" / "chip.gds"))
        chips.append(layout)
    layers = {(info.layer, info.datatype) for layout in chips for info in layout.layer_infos()}
    regions = [
        {key: kdb.Region(layout.top_cell().begin_shapes_rec(layout.layer(*key))) for key in layers} for layout in chips
    ]
    different = {key for key in layers if not (regions[0][key] ^ regions[1][key]).is_empty()}
    assert {f"{layer}/{kind}" for layer, kind in different} == set(bundle.manifest.personalisation_layers)


# What a hand, or a bad transfer, may do to the masks. Each takes the library and returns which device it touched.


def value_cell(library: gdstk.Library, placed: gdstk.Reference, layer: tuple[int, int]) -> gdstk.Cell:
    """A private copy of the value cell behind a reference, so that one device alone is changed."""
    cell = placed.cell.copy("edited")
    library.add(cell)
    placed.cell = cell
    return cell


def edit(bundle: pfmc.Bundle, change: str) -> None:
    path = bundle.path / "masks" / "chip.gds"
    library = gdstk.read_gds(path)
    layer = bundle.manifest.technology.layers.block.key
    cell_size = bundle.manifest.technology.cell
    tile = next(cell for cell in library.cells if cell.name == "t00000")
    blocks = [r for r in tile.references if any((p.layer, p.datatype) == layer for p in r.cell.polygons)]
    # A pixel in the middle and a hidden unit that fires: others are zero for every digit, and nothing would be seen.
    spot = np.array([2 * 1, 36]) * [cell_size.strip_pitch.value, cell_size.row_pitch.value]
    placed = next(r for r in blocks if np.allclose(r.origin, spot))
    cell = value_cell(library, placed, layer)
    shapes = sorted((p for p in cell.polygons if (p.layer, p.datatype) == layer), key=lambda p: p.bounding_box()[0][1])
    (x0, y0), (x1, y1) = shapes[-1].bounding_box()
    if change == "longer by three grid steps":
        cell.remove(shapes[-1])
        cell.add(gdstk.rectangle((x0, y0 - 0.015), (x1, y1), layer=layer[0], datatype=layer[1]))
    elif change == "deleted":
        cell.remove(shapes[-1])
    elif change == "added":
        cell.add(gdstk.rectangle((x0, 0.0), (x1, y1), layer=layer[0], datatype=layer[1]))
    elif change == "tile emptied":
        tile.remove(*tile.references)
    library.write_gds(path)


@pytest.mark.parametrize("change", ["longer by three grid steps", "deleted", "added"])
def test_a_changed_shape_is_noticed(copy: pfmc.Bundle, change: str, tmp_path: Path) -> None:
    test = SAMPLES / "digits_mlp" / "test.npz"
    before = copy.verify(test)
    table = pq.read_table(copy.export(tmp_path / "before.parquet", "devices"))
    edit(copy, change)
    after = copy.verify(test)
    changed = pq.read_table(copy.export(tmp_path / "after.parquet", "devices"))
    moved = np.flatnonzero(table["drawn_ohm"].to_numpy() != changed["drawn_ohm"].to_numpy())
    assert len(moved) == 1
    assert after.modified_files == ["masks/chip.gds"]
    assert not after.passed
    assert after.outputs["logits"].relative_error != before.outputs["logits"].relative_error


def test_an_emptied_tile_fails_the_verdict_even_where_changes_are_accepted(copy: pfmc.Bundle) -> None:
    edit(copy, "tile emptied")
    verdict = copy.verify(SAMPLES / "digits_mlp" / "test.npz", accept_modified=True)
    assert verdict.devices_read_back == verdict.devices - 2 * 64 * 64
    assert not verdict.passed


def test_a_small_change_passes_where_changes_are_accepted(copy: pfmc.Bundle) -> None:
    edit(copy, "longer by three grid steps")
    assert copy.verify(SAMPLES / "digits_mlp" / "test.npz", accept_modified=True).passed


@pytest.mark.parametrize("name", ["masks/chip.gds", "host.onnx", "tiles.parquet", "model/model.onnx"])
@pytest.mark.parametrize("damage", ["garbage", "gone"])
def test_a_file_that_cannot_be_understood_fails_and_says_so(copy: pfmc.Bundle, name: str, damage: str) -> None:
    if damage == "garbage":
        (copy.path / name).write_bytes(b"nothing that anybody reads")
    else:
        (copy.path / name).unlink()
    verdict = copy.verify(SAMPLES / "digits_mlp" / "test.npz", accept_modified=True)
    assert not verdict.passed
    assert verdict.modified_files == [name]
    assert verdict.complaints


def test_a_mask_that_is_no_mask_though_the_manifest_says_so_is_an_error(copy: pfmc.Bundle) -> None:
    (copy.path / "masks" / "chip.gds").write_bytes(b"not GDSII at all")
    files = tuple(file_entry(copy.path, entry.path, entry.role) for entry in copy.manifest.files)
    write_manifest(copy.path, copy.manifest.model_copy(update={"files": files}))
    with pytest.raises(ArtifactError, match=r"chip\.gds"):
        copy.verify()


def test_copies_are_built_read_back_and_averaged(tmp_path: Path) -> None:
    """Three of each tile: the same function, from three times the devices; one copy that is spoilt counts a third."""
    bundle = compiled("digits_mlp", tmp_path / "chip", options={"provide.copies": 3})
    test = SAMPLES / "digits_mlp" / "test.npz"
    verdict = bundle.verify(test)
    assert verdict.passed
    assert (bundle.manifest.tiles, verdict.devices_read_back) == (6, 3 * 9472)
    library = gdstk.read_gds(bundle.path / "masks" / "chip.gds")
    errors = []
    for spoilt in ("t00000", "t00001", "t00002"):  # every strip of one more copy has the value of an unused one
        unused = max(cell.name for cell in library.cells if cell.name.startswith("r"))
        references = [r for r in library[spoilt].references if r.cell_name.startswith("r")]
        library[spoilt].remove(*references)
        library[spoilt].add(*(gdstk.Reference(library[unused], r.origin) for r in references))
        library.write_gds(bundle.path / "masks" / "chip.gds")
        output = bundle.verify(test, accept_modified=True).outputs["logits"]
        errors.append(output.relative_error)
    assert 0.02 < errors[0] < errors[1] < errors[2]


def test_rules_and_connections_take_part_in_the_verdict_when_asked_for(copy: pfmc.Bundle) -> None:
    """Two column wires are bridged above the last row, in all tiles."""
    test = SAMPLES / "digits_mlp" / "test.npz"
    sound = copy.verify(test, drc=True, lvs=True)
    assert sound.passed
    assert sound.drc is not None
    assert sound.drc.clean
    assert (sound.drc.tiles, sound.lvs) == (2, [])
    library = gdstk.read_gds(copy.path / "masks" / "chip.gds")
    metal2 = copy.manifest.technology.layers.metal2.key
    wires = sorted(p.bounding_box() for p in library["array"].polygons if (p.layer, p.datatype) == metal2)
    (_, (_, top)), ((x1, _), _) = wires[0], wires[1]
    library["array"].add(gdstk.rectangle((wires[0][0][0], top - 0.05), (x1 + 0.01, top), *metal2))
    library.write_gds(copy.path / "masks" / "chip.gds")
    spoilt = copy.verify(test, drc=True, lvs=True, accept_modified=True)
    assert not spoilt.passed
    assert spoilt.drc is not None
    assert spoilt.drc.violated
    assert any("col0p" in line and "col0n" in line and "t00000" in line for line in spoilt.lvs or [])


def test_samples_that_take_much_memory_are_run_a_few_at_a_time(bundles: dict[str, pfmc.Bundle]) -> None:
    bundle = bundles["digits_cnn"]
    assert together(bundle.tiles, bundle.manifest.layers) == BATCH
    many = tuple(layer.model_copy(update={"uses": 100_000 * layer.uses}) for layer in bundle.manifest.layers)
    assert together(bundle.tiles, many) == 1
