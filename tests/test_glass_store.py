"""Volumes as OME-Zarr: others read them, the same volume gives the same bytes, and damage is told in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from ome_zarr_models.v05.image import Image
from pfmc_backends.glass_voxels import store
from written import written_volume

from pfmc.errors import ArtifactError

SHAPE = (5, 70, 66)  # more than one chunk, and the last ones cut
SHARD = "0/c/0/0/0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store.write(written_volume(SHAPE), tmp_path / "v.zarr")
    return tmp_path / "v.zarr"


@pytest.mark.parametrize("shape", [SHAPE, (1, 1, 1), (20, 64, 64), (33, 65, 1), (140, 20, 600)])
def test_what_is_written_is_read(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    volume = written_volume(shape, sign=-1)
    store.write(volume, tmp_path / "v")
    again = store.read(tmp_path / "v", shape)
    for name, value in vars(volume).items():
        assert np.array_equal(getattr(again, name), value), name


def test_more_than_one_shard_is_used_and_all_are_read(tmp_path: Path) -> None:
    volume = written_volume((140, 20, 600))
    store.write(volume, tmp_path / "v")
    shards = [path for path in (tmp_path / "v/0/c").rglob("*") if path.is_file()]
    assert len(shards) == 4
    for shard in shards:
        kept = shard.read_bytes()
        shard.unlink()
        with pytest.raises(ArtifactError, match="cannot be read"):
            store.read(tmp_path / "v", volume.levels.shape)
        shard.write_bytes(kept)


def test_a_chunk_that_holds_only_the_fill_value_is_kept(tmp_path: Path) -> None:
    volume = written_volume(SHAPE, levels=256)
    volume.levels[:] = 255
    store.write(volume, tmp_path / "v")
    assert np.all(store.read(tmp_path / "v", SHAPE).levels == 255)


def test_same_volume_same_bytes(folder: Path, tmp_path: Path) -> None:
    store.write(written_volume(SHAPE), tmp_path / "again")
    files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {str(path) for path in files} == {"zarr.json", "0/zarr.json", SHARD}
    for path, content in files.items():
        assert (tmp_path / "again" / path).read_bytes() == content


def test_ome_zarr_reads_voxels_scale_and_units(folder: Path) -> None:
    (node,) = Reader(parse_url(folder))()
    volume = written_volume(SHAPE)
    assert np.array_equal(np.asarray(node.data[0]), volume.levels)
    assert [axis["name"] for axis in node.metadata["axes"]] == ["z", "y", "x"]
    assert {axis["unit"] for axis in node.metadata["axes"]} == {"micrometer"}
    assert node.metadata["coordinateTransformations"][0][0]["scale"] == [6.0, 0.9, 0.9]
    assert node.metadata["contrast_limits"] == [[0, 7]]


def test_metadata_fit_the_schema_of_ome_zarr(folder: Path) -> None:
    image = Image.from_zarr(zarr.open_group(folder, mode="r"))
    assert image.ome_attributes.multiscales[0].axes[0].unit == "micrometer"


def test_a_volume_edited_by_zarr_shows_the_edit(folder: Path) -> None:
    zarr.open_array(folder / "0", mode="r+")[1:3] = 0
    levels = store.read(folder, SHAPE).levels
    assert not levels[1:3].any()
    assert np.array_equal(levels[3:], written_volume(SHAPE).levels[3:])


def _json(path: str, *keys: Any, value: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / path).read_text())
        at = content
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value
        (folder / path).write_text(json.dumps(content))

    return damage


def _bytes(path: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder / path).write_bytes(change((folder / path).read_bytes())) and None


def _claim_longer(shard: bytes) -> bytes:
    index = np.frombuffer(shard[-68:-4], "<u8").copy()
    index[1] += len(shard)
    return shard[:-68] + index.tobytes() + google_crc32c.value(index.tobytes()).to_bytes(4, "little")


def _bomb(shard: bytes) -> bytes:
    """Its chunk unpacks to 128 MiB: zstd frames of RLE blocks that declare no size (RFC 8878, section 3.1.1)."""
    blocks = [((131072 << 3) | (1 << 1) | (n == 999)).to_bytes(3, "little") + b"\0" for n in range(1000)]
    frame = bytes.fromhex("28b52ffd0058") + b"".join(blocks)
    index = np.array([0, len(frame)] * 4, "<u8").tobytes()
    return frame + index + google_crc32c.value(index).to_bytes(4, "little")


TABLE = ("attributes", "pfmc")
NOT_SHAPE = r"the shape is .*, not \[5, 70, 66\]"
DAMAGE: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "no volume": (shutil.rmtree, "zarr.json", "cannot be read"),
    "missing shard": (lambda folder: (folder / SHARD).unlink(), SHARD, "cannot be read"),
    "empty shard": (_bytes(SHARD, lambda b: b""), SHARD, "index of the shard"),
    "shard cut at its end": (_bytes(SHARD, lambda b: b[:-1]), SHARD, "index of the shard"),
    "shard cut at its front": (_bytes(SHARD, lambda b: b[100:]), SHARD, "chunk"),
    "shard grown": (_bytes(SHARD, lambda b: b + bytes(1 << 22)), SHARD, "larger than its voxels"),
    "a byte of a chunk": (_bytes(SHARD, lambda b: b[:50] + bytes([b[50] ^ 1]) + b[51:]), SHARD, "damaged"),
    "a chunk past the end": (_bytes(SHARD, _claim_longer), SHARD, "missing or cut off"),
    "a chunk that unpacks to more": (_bytes(SHARD, _bomb), SHARD, "damaged"),
    "no JSON": (_bytes("zarr.json", lambda b: b[:-9]), "zarr.json", "not JSON"),
    "deep JSON": (_bytes("zarr.json", lambda b: b"[" * 100_000), "zarr.json", "not JSON"),
    "long JSON": (_bytes("zarr.json", lambda b: b + b" " * (1 << 21)), "zarr.json", "longer than"),
    "JSON of a list": (_bytes("0/zarr.json", lambda b: b"[]"), "0/zarr.json", "not a JSON object"),
    "JSON not text": (_bytes("0/zarr.json", lambda b: b"\xff"), "0/zarr.json", "not JSON"),
    "dtype": (_json("0/zarr.json", "data_type", value="uint16"), "0/zarr.json", "data_type"),
    "a huge shape": (_json("0/zarr.json", "shape", value=[10**9, 70, 66]), "0/zarr.json", NOT_SHAPE),
    "a flat shape": (_json("0/zarr.json", "shape", value=[5, 70]), "0/zarr.json", NOT_SHAPE),
    "a shape of text": (_json("0/zarr.json", "shape", value=[5, 70, "66"]), "0/zarr.json", NOT_SHAPE),
    "an empty shape": (_json("0/zarr.json", "shape", value=[5, 0, 66]), "0/zarr.json", NOT_SHAPE),
    "a smaller shape": (_json("0/zarr.json", "shape", value=[4, 70, 66]), "0/zarr.json", NOT_SHAPE),
    "other chunks": (
        _json("0/zarr.json", "chunk_grid", "configuration", "chunk_shape", value=[4, 70, 66]),
        "0/zarr.json",
        "chunk_grid",
    ),
    "no codec": (_json("0/zarr.json", "codecs", value=[]), "0/zarr.json", "codecs"),
    "no attributes": (_json("zarr.json", "attributes", value=None), "zarr.json", "no attributes"),
    "another scale": (
        _json(
            *("zarr.json", "attributes", "ome", "multiscales", 0, "datasets", 0, "coordinateTransformations", 0),
            *("scale", 1),
            value=0.8,
        ),
        "zarr.json",
        "differ from those under pfmc",
    ),
    "no table": (_json("zarr.json", *TABLE, value=None), "zarr.json", "pfmc"),
    "index of text": (_json("zarr.json", *TABLE, "index", value="glass"), "zarr.json", "pfmc.index"),
    "index not a number": (_json("zarr.json", *TABLE, "index", value=float("nan")), "zarr.json", "pfmc.index"),
    "no power": (_json("zarr.json", *TABLE, "power_w", value=[]), "zarr.json", "same length"),
    "power of nothing": (_json("zarr.json", *TABLE, "power_w", 0, value=0.1), "zarr.json", "level 0 has a power"),
    "not monotonic": (_json("zarr.json", *TABLE, "index_change", 3, value=0.1), "zarr.json", "not monotonic"),
    "a level beyond the table": (
        lambda folder: zarr.open_array(folder / "0", mode="r+").__setitem__((2, 3, 4), 8),
        "0",
        "level 8 is beyond the table of 8",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_line_that_names_the_file(folder: Path, name: str) -> None:
    damage, file, message = DAMAGE[name]
    damage(folder)
    with pytest.raises(ArtifactError, match=message) as raised:
        store.read(folder, SHAPE)
    assert raised.value.where == str(folder / file)
    assert "\n" not in str(raised.value)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_changed_byte_is_an_error_or_changes_no_voxel(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    folder = tmp_path_factory.mktemp("changed") / "v"
    volume = written_volume((3, 8, 8))
    store.write(volume, folder)
    path = folder / data.draw(st.sampled_from(["zarr.json", "0/zarr.json", SHARD]))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        levels = store.read(folder, volume.levels.shape).levels
    except ArtifactError:
        return
    assert np.array_equal(levels, volume.levels)
