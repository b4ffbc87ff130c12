"""From a model to glass and back: light through the files' voxels computes it, and no damage to them goes unseen."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pyarrow.parquet as pq
import pytest
import zarr
from glasses import small_glass, small_model
from onnx import numpy_helper
from pfmc_backends.glass_voxels import export, store
from pfmc_backends.glass_voxels.volume import WrittenVolume

import pfmc
from pfmc.api import Bundle
from pfmc.bundle import read_details, read_tiles
from pfmc.errors import ArtifactError, CapacityError, UsageError
from pfmc.physics.diffraction import gaussian_modes, overlap
from pfmc.physics.volume import sampled_index
from pfmc.primitives.volume import DiffractiveVolume
from pfmc.primitives.volume_store import VolumeStore
from pfmc.sections import OpticalEnergy, VolumeDetails

SHAPE = (12, 14, 14)


def compiled(folder: Path, name: str = "glass", **more: object) -> Bundle:
    technology = small_glass(folder)
    return pfmc.compile(small_model(folder), folder / name, target="glass", technology=technology, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return compiled(tmp_path_factory.mktemp("glass"))


def copied(bundle: Bundle, folder: Path) -> Bundle:
    shutil.copytree(bundle.path, folder / "copy")
    return pfmc.open(folder / "copy")


def changed(bundle: Bundle, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Rewrite the first volume's levels."""
    path = bundle.path / "volumes" / "t00000.zarr"
    volume = store.read(path, SHAPE)
    shutil.rmtree(path)
    store.write(replace(volume, levels=np.ascontiguousarray(change(volume.levels.copy()))), path)


def test_light_through_the_files_computes_the_model(bundle: Bundle) -> None:
    verification = bundle.verify()
    output = verification.outputs["y"]
    assert output.relative_error is not None and output.relative_error < 0.05  # converters cut off
    assert verification.passed and verification.devices_read_back == verification.devices == 2 * 12 * 14 * 14
    ideal = bundle.verify(ideal_converters=True).outputs["y"]
    assert ideal.relative_error is not None and ideal.relative_error < 0.01


def test_what_is_said_of_the_block_follows_from_its_tiles(bundle: Bundle) -> None:
    manifest = bundle.manifest
    glass, energy = manifest.glass, manifest.energy
    tiles = read_details(bundle.path / "tiles.parquet", VolumeDetails)
    assert glass is not None and isinstance(energy, OpticalEnergy)
    assert manifest.target == "glass" and manifest.tiles == len(tiles) == 2
    assert manifest.devices == glass.voxels == sum(tile.layers * tile.voxels**2 for tile in tiles)
    assert glass.volume_mm3 == pytest.approx(glass.voxels * 2e-3 * 2e-3 * 40e-3)
    assert glass.weights_per_mm3 == pytest.approx(30 / glass.volume_mm3)
    assert glass.worst_error == max(tile.error for tile in tiles) <= 0.01
    assert all(0 < tile.efficiency < 1 for tile in tiles)
    assert energy.per_inference_j == pytest.approx(sum(getattr(energy, part) for part in energy.parts()))
    assert energy.signal_j == pytest.approx(sum(tile.signal_j for tile in tiles))
    assert energy.post_matrix_macs == 3**2 + 2**2 and energy.post_matrix_j == pytest.approx(13 * 0.3e-12)
    assert glass.write_s == pytest.approx(sum(tile.write_s for tile in tiles)) and glass.write_s > 0


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda levels: np.where(np.arange(12)[:, None, None] == 5, 0, levels).astype(np.uint8), id="slab"),
        pytest.param(lambda levels: levels[[0, 1, 2, 7, 4, 5, 6, 3, 8, 9, 10, 11]], id="planes swapped"),
        pytest.param(lambda levels: np.roll(levels, 1, axis=2), id="shifted by a voxel"),
        pytest.param(lambda levels: levels[::-1], id="upside down"),
    ],
)
def test_damage_shows_in_the_verdict(
    bundle: Bundle, tmp_path: Path, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    damaged = copied(bundle, tmp_path)
    changed(damaged, change)
    verification = damaged.verify(accept_modified=True)
    error = verification.outputs["y"].relative_error
    assert not verification.passed and verification.modified_files
    assert error is not None and error > 0.05


def test_a_missing_volume_is_named(bundle: Bundle, tmp_path: Path) -> None:
    damaged = copied(bundle, tmp_path)
    shutil.rmtree(damaged.path / "volumes" / "t00001.zarr")
    verification = damaged.verify(accept_modified=True)
    assert not verification.passed and "t00001" in verification.complaints[0]


def test_torchoptics_sends_the_same_light_through_an_emitted_file(bundle: Bundle) -> None:
    """Voxels as zarr reads them, in slabs of 5 um and thin masks; the blur of the writing is pfmc's.

    It knows no obliquity, which leaves 1 %, and has no absorbing rim: a wider grid stands in for that.
    """
    torch = pytest.importorskip("torch")
    torchoptics = pytest.importorskip("torchoptics")
    record, primitive = read_tiles(bundle.path / "tiles.parquet")[1], DiffractiveVolume.of(bundle.manifest.technology)
    group = zarr.open_group(bundle.path / "volumes" / f"{record.name}.zarr", mode="r")
    index_change = np.array(group.attrs["pfmc"]["index_change"])[group["0"][:]]
    rows, columns = record.row_stop - record.row_start, record.column_stop - record.column_start
    volume = replace(primitive.volume(*SHAPE[:2]), samples=2, padding=64e-6)
    grid, step = volume.grid, primitive.layer / 8
    inputs, outputs = (gaussian_modes(primitive.ports(n), primitive.port_waist, grid) for n in (rows, columns))
    light = torchoptics.Field(torch.asarray(inputs[:2]), primitive.wavelength / primitive.index, 0, grid.pixel)
    for i, index in enumerate(np.repeat(sampled_index(index_change, volume), 8, axis=0)):
        light = light.propagate_to_z((i + 0.5) * step, propagation_method="ASM", asm_pad=0)
        light = light.modulate(torch.asarray(np.exp(2j * np.pi / primitive.wavelength * step * index)))
    behind = light.propagate_to_z(len(index_change) * primitive.layer, propagation_method="ASM", asm_pad=0)
    expected = primitive.lost(len(index_change)) * overlap(outputs, behind.data.numpy(), grid).T
    found, mirrored = (primitive.transfer_of(index, rows, columns)[:2] for index in (index_change, index_change[::-1]))
    assert np.linalg.norm(found - expected) < 2e-2 * np.linalg.norm(expected)
    assert np.linalg.norm(mirrored - expected) > 0.2 * np.linalg.norm(expected)


@pytest.mark.parametrize("shape", [(11, 14, 14), (12, 13, 14), (13, 14, 14)])
def test_a_volume_of_another_shape_is_refused_by_name(
    bundle: Bundle, tmp_path: Path, shape: tuple[int, int, int]
) -> None:
    """Here the technology would allow each of them; a layer short is another volume, not a worse one."""
    damaged = copied(bundle, tmp_path)
    changed(damaged, lambda levels: np.resize(levels, shape))
    verification = damaged.verify(accept_modified=True)
    assert not verification.passed and not verification.outputs
    assert "t00000.zarr" in verification.complaints[0] and str(list(shape)) in verification.complaints[0]
    with pytest.raises(ArtifactError, match=r"not \[12, 14, 14\]"):
        damaged.export(tmp_path / "a.tif", "tiff", tile="t00000")


def test_a_table_that_declares_more_than_there_can_be_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    damaged = copied(bundle, tmp_path)
    path = damaged.path / "tiles.parquet"
    table = pq.read_table(path)
    at = table.column_names.index("layers")
    pq.write_table(table.set_column(at, "layers", [[12, 1 << 40]]), path)
    verification = damaged.verify(accept_modified=True)
    assert not verification.passed and "tile t00001" in verification.complaints[0]


def test_another_table_of_levels_is_a_complaint(bundle: Bundle, tmp_path: Path) -> None:
    damaged = copied(bundle, tmp_path)
    path = damaged.path / "volumes" / "t00000.zarr"
    volume = store.read(path, SHAPE)
    shutil.rmtree(path)
    store.write(replace(volume, index_change=0.9 * volume.index_change), path)
    verification = damaged.verify(accept_modified=True)
    assert any("index changes are not the technology's" in line for line in verification.complaints)
    error = verification.outputs["y"].relative_error
    assert error is not None and error > 0.05


def test_the_same_input_gives_the_same_bytes_also_after_a_break(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first compile ends after a volume; what was made of it is found again, and nothing else differs."""
    technology, model = small_glass(tmp_path), small_model(tmp_path)
    options = {"target": "glass", "technology": technology, "workers": 1}
    kept = tmp_path / ".glass.checkpoint"
    made: list[Path] = []
    read = VolumeStore.read

    def read_once(self: VolumeStore, block: np.ndarray, robust: int) -> object:
        """Fails where the layout asks for the second volume."""
        made.extend(kept.iterdir())
        if len(made) > 3:
            raise KeyboardInterrupt
        return read(self, block, robust)

    monkeypatch.setattr(VolumeStore, "read", read_once)
    with pytest.raises(KeyboardInterrupt):
        pfmc.compile(model, tmp_path / "glass", **options)  # type: ignore[arg-type]
    monkeypatch.undo()
    assert not (tmp_path / "glass").exists()
    volumes = {path.name: path.read_bytes() for path in kept.iterdir()}
    assert len(volumes) == 2
    stamps = {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}
    (kept / min(volumes)).write_bytes(volumes[min(volumes)][:100])  # as if it was cut off
    monkeypatch.setattr(shutil, "rmtree", lambda *_args, **_more: None)
    resumed = pfmc.compile(model, tmp_path / "glass", resume=True, **options)  # type: ignore[arg-type]
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == volumes
    assert (kept / max(volumes)).stat().st_mtime_ns == stamps[max(volumes)]
    hashes = {entry.path: entry.sha256 for entry in bundle.manifest.files}
    assert {entry.path: entry.sha256 for entry in resumed.manifest.files} == hashes


def test_robust_volumes_and_plain_ones_are_not_mixed_up(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain compile that finds the checkpoint of a robust one gives what it gives without."""
    remove = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", lambda *_args, **_more: None)
    robust = compiled(tmp_path, options={"construct.robust": 4})
    hashes = {entry.path: entry.sha256 for entry in robust.manifest.files}
    assert {entry.name: entry.options for entry in robust.manifest.passes}["construct"] == {"robust": 4}
    assert robust.verify().passed
    remove(robust.path)
    plain = {entry.path: entry.sha256 for entry in compiled(tmp_path, resume=True).manifest.files}
    assert plain == {entry.path: entry.sha256 for entry in bundle.manifest.files}
    assert sum("/0/c/" in path and hashes[path] != plain[path] for path in plain) == 2
    with pytest.raises(UsageError, match="robust must not be below 0"):
        compiled(tmp_path, "no", options={"construct.robust": -1})


def test_nothing_is_left_beside_the_bundle(bundle: Bundle) -> None:
    assert {path.name for path in bundle.path.parent.iterdir()} == {"glass", "small.toml", "small.onnx"}


def test_what_does_not_fit_is_split_or_refused(tmp_path: Path) -> None:
    """Three levels in few voxels leave more than a millionth, also of a single column."""
    technology = small_glass(tmp_path, levels="3", layers="3", layers_max="3", relative_error="0.0001")
    with pytest.raises(CapacityError, match=r"6 x 1 weights come to an error of .*% only, in 3 layers of 14 x 14"):
        pfmc.compile(small_model(tmp_path), tmp_path / "glass", target="glass", technology=technology)
    assert not (tmp_path / "glass").exists()


@pytest.mark.parametrize("format", ["ome-zarr", "tiff", "vti", "meep", "gwl", "pgm"])
def test_a_volume_is_exported(bundle: Bundle, tmp_path: Path, format: str) -> None:
    path = tmp_path / f"volume.{format}"
    bundle.export(path, format, tile="t00001")
    assert path.exists()


def test_what_cannot_be_exported_is_told_and_leaves_nothing(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for format, tile, name, complaint in (
        ("tiff", None, "a.tif", "--tile t00000"),
        ("stl", "t00000", "a.stl", "levels"),
        ("ome-zarr", "t00000", "folder", "folder already"),
        ("onnx", "t00000", "a.onnx", "whole bundle"),
        ("gdsii", None, "a.gds", "formats of glass-voxels: gwl, meep, ome-zarr, onnx,"),
    ):
        with pytest.raises(UsageError, match=complaint):
            bundle.export(tmp_path / name, format, tile=tile)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("format", ["ome-zarr", "tiff", "pgm"])
def test_an_export_that_breaks_off_leaves_what_was_there(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    """The disk is full in the middle of a volume."""
    before = tmp_path / "before"
    if format != "ome-zarr":
        before.write_text("an older export")

    def broken(_volume: WrittenVolume, path: Path, **_more: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    for module, name in ((store, "write"), (export, "write_tiff"), (export, "write_pgm")):
        monkeypatch.setattr(module, name, broken)
    with pytest.raises(ArtifactError, match="No space left"):
        bundle.export(before, format, tile="t00000")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["an older export"] * (format != "ome-zarr")


def test_the_model_as_fabricated_is_exported_from_the_files_as_they_are(bundle: Bundle, tmp_path: Path) -> None:
    bundle.export(tmp_path / "model.onnx", "onnx")
    assert (tmp_path / "model.onnx").read_bytes() == (bundle.path / "as_fabricated.onnx").read_bytes()
    onnx.checker.check_model(tmp_path / "model.onnx")
    damaged = copied(bundle, tmp_path)
    changed(damaged, lambda levels: levels[::-1])
    damaged.export(tmp_path / "model.onnx", "onnx")
    assert (tmp_path / "model.onnx").read_bytes() != (bundle.path / "as_fabricated.onnx").read_bytes()


def test_the_page_shows_voxels_and_what_light_makes_of_them(bundle: Bundle, tmp_path: Path) -> None:
    bundle.report(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "as light through the written voxels computes them" in text and "local oscillators" in text


def test_targets_and_technologies_must_agree(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is for target crossbar, not glass"):
        pfmc.compile(small_model(tmp_path), tmp_path / "glass", target="glass", technology="sg13g2")


def by_another_writer(bundle: Bundle, folder: Path, **errors: float) -> Bundle:
    """The same block with the word of another writer, whose errors are so many times as large."""
    other = copied(bundle, folder)
    manifest = other.path / "manifest.json"
    content = json.loads(manifest.read_text())
    for key, factor in errors.items():
        content["technology"]["errors"][key]["value"] *= factor
    manifest.write_text(json.dumps(content))
    return pfmc.open(other.path)


@pytest.mark.parametrize(
    ("key", "effect"), [("layer_position", "position of layers"), ("index_noise", "index of voxels")]
)
def test_errors_of_written_blocks_are_blamed_on_what_causes_them(
    bundle: Bundle, tmp_path: Path, key: str, effect: str
) -> None:
    worse = by_another_writer(bundle, tmp_path, **{key: 8.0})
    found = worse.verify(monte_carlo=2, seed=4, ideal_converters=True).monte_carlo
    assert found is not None
    error, blame = found.outputs["y"].relative_error, found.blame
    assert blame.drawn is not None and error.mean is not None and error.mean > 5 * blame.drawn
    assert error.sigma is not None and error.sigma > 0
    assert next(iter(blame.effects)) == effect and set(blame.contractions) == {"fc"}


def test_better_positions_make_better_blocks_and_a_seed_makes_the_same(bundle: Bundle, tmp_path: Path) -> None:
    better = by_another_writer(bundle, tmp_path, layer_position=0.1, voxel_position=0.1, index_scale=0.1)
    found, again, other = (
        made.verify(monte_carlo=2, ideal_converters=True).monte_carlo for made in (bundle, bundle, better)
    )
    assert found is not None and found == again and other is not None
    errors = [made.outputs["y"].relative_error.mean for made in (found, other)]
    assert errors[0] is not None and errors[1] is not None and errors[1] < 0.7 * errors[0]


def test_an_interrupt_ends_at_once_and_volumes_that_are_finished_are_kept(tmp_path: Path) -> None:
    """The first volume is finished when the signal comes, the second is not: it is a large one."""
    technology, model = (
        small_glass(tmp_path, rows="9", voxels="26", voxels_max="26", layers="15"),
        small_model(tmp_path),
    )
    command = [sys.executable, "-m", "pfmc", "compile", str(model), "-o", str(tmp_path / "glass")]
    command += ["--target", "glass", "--technology", str(technology), "--workers", "1"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    kept = tmp_path / ".glass.checkpoint"
    while not list(kept.glob("*.npz")) and running.poll() is None:
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    _, stderr = running.communicate(timeout=60)
    assert stderr.splitlines() == ["pfmc: error: interrupted, nothing was written"]
    assert running.returncode == 2
    assert not (tmp_path / "glass").exists() and len(list(kept.glob("*.npz"))) == 1


def test_the_model_as_fabricated_holds_both_quadratures_and_turns_with_the_oscillator(
    bundle: Bundle, tmp_path: Path
) -> None:
    """A quarter turn of the local oscillators reads the imaginary part of the same transfer matrices."""
    bundle.export(tmp_path / "model.onnx", "onnx")
    model = onnx.load(tmp_path / "model.onnx")
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    real, imaginary = (numpy_helper.to_array(found[f"fc/{part}"]) for part in ("microsiemens", "quadrature"))
    assert real.shape == imaginary.shape and np.linalg.norm(imaginary) > 0.2 * np.linalg.norm(real)
    for part, value in (("cosine", 0.0), ("sine", 1.0)):
        tensor = numpy_helper.from_array(np.full((1, 1, 1), value, np.float32), f"fc/oscillator_{part}")
        found[f"fc/oscillator_{part}"].CopyFrom(tensor)
    rotated = model.SerializeToString()
    found["fc/microsiemens"].CopyFrom(numpy_helper.from_array(imaginary, "fc/microsiemens"))
    for part, value in (("cosine", 1.0), ("sine", 0.0)):
        tensor = numpy_helper.from_array(np.full((1, 1, 1), value, np.float32), f"fc/oscillator_{part}")
        found[f"fc/oscillator_{part}"].CopyFrom(tensor)
    x = {"x": np.random.default_rng(1).normal(size=(8, 6)).astype(np.float32)}
    turned, expected = (ort.InferenceSession(m).run(None, x)[0] for m in (rotated, model.SerializeToString()))
    np.testing.assert_allclose(turned, expected, atol=1e-5)
