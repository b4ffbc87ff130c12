"""A volume as OME-Zarr 0.5: a Zarr v3 group with one scale, sharded and compressed.

Written by the zarr library. Read here, chunk by chunk: nothing that the file declares is believed before it is checked,
a chunk never unpacks to more than its place holds, and what is missing is an error and not a fill value.

Formats: https://ngff.openmicroscopy.org/0.5, https://zarr-specs.readthedocs.io/en/latest/v3/core and
https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import google_crc32c
import numpy as np
import pyarrow as pa
import zarr
from jaxtyping import UInt8, UInt64
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from zarr.codecs import ZstdCodec

from pfmc.errors import ArtifactError, printable
from pfmc_backends.glass_voxels.volume import WrittenVolume

Shape = tuple[int, int, int]

AXES: Final = ("z", "y", "x")
CHUNK: Final[Shape] = (32, 64, 64)  # voxels that are compressed together
CHUNKS_PER_SHARD: Final[Shape] = (4, 8, 8)  # chunks that share a file, at most: 32 MiB
ZSTD_LEVEL: Final = 3
NEVER_WRITTEN: Final = 255  # fill value: tools leave out chunks that hold nothing else, and level 0 is common
METADATA_LIMIT: Final = 1 << 20  # bytes

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class Table(BaseModel):
    """What pfmc keeps beside the voxels: attributes of WrittenVolume, in SI."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    index: Positive
    voxel_m: Positive
    layer_m: Positive
    depth_m: NotNegative
    index_change: tuple[float, ...]
    power_w: tuple[NotNegative, ...]


def write(volume: WrittenVolume, folder: Path) -> None:
    """Write ``folder``, which must not exist.

    Raises:
        OSError: if it cannot be written.
    """
    table = Table(
        name=volume.name,
        index=volume.index,
        voxel_m=volume.voxel,
        layer_m=volume.layer,
        depth_m=volume.depth,
        index_change=tuple(volume.index_change.tolist()),
        power_w=tuple(volume.power.tolist()),
    )
    group = zarr.create_group(folder, attributes={"ome": _ome(table), "pfmc": table.model_dump(mode="json")})
    shape = _as_shape(volume.levels.shape)
    array = group.create_array(
        "0",
        shape=shape,
        dtype="uint8",
        chunks=_chunk(shape),
        shards=_shard(shape),
        compressors=[ZstdCodec(level=ZSTD_LEVEL, checksum=True)],
        fill_value=NEVER_WRITTEN,
        dimension_names=AXES,
        config={"write_empty_chunks": True},
    )
    array[...] = volume.levels


def read(folder: Path, shape: Shape) -> WrittenVolume:
    """Read what ``write`` wrote.

    Args:
        shape: layers, rows and columns that the volume must have.

    Raises:
        ArtifactError: if a file is missing, damaged, not what ``write`` writes, or of another shape.
    """
    path = folder / "zarr.json"
    attributes = _metadata(path).get("attributes")
    if not isinstance(attributes, dict) or not isinstance(attributes.get("ome"), dict):
        raise ArtifactError("the volume has no attributes of OME-Zarr", str(path))
    table = _table(attributes.get("pfmc"), path)
    if attributes["ome"].get("multiscales") != _ome(table)["multiscales"]:
        raise ArtifactError("axes, scale or name under ome differ from those under pfmc", str(path))
    levels = _levels(folder / "0", shape)
    if levels.max() >= len(table.power_w):
        raise ArtifactError(f"level {levels.max()} is beyond the table of {len(table.power_w)}", str(folder / "0"))
    return WrittenVolume(
        name=table.name,
        levels=levels,
        index_change=np.array(table.index_change),
        power=np.array(table.power_w),
        index=table.index,
        voxel=table.voxel_m,
        layer=table.layer_m,
        depth=table.depth_m,
    )


def _ome(table: Table) -> dict[str, Any]:
    """Attributes of OME-Zarr: a viewer shows micrometres, and levels from black to white."""
    scale = [round(pitch * 1e6, 9) for pitch in (table.layer_m, table.voxel_m, table.voxel_m)]
    top = len(table.power_w) - 1
    return {
        "version": "0.5",
        "multiscales": [
            {
                "name": table.name,
                "axes": [{"name": axis, "type": "space", "unit": "micrometer"} for axis in AXES],
                "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}],
            }
        ],
        "omero": {
            "channels": [
                {
                    "label": "writing level",
                    "color": "FFFFFF",
                    "active": True,
                    "window": {"min": 0, "max": top, "start": 0, "end": top},
                }
            ],
            "rdefs": {"model": "greyscale"},
        },
    }


def _metadata(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > METADATA_LIMIT:
            raise ArtifactError(f"the metadata are longer than {METADATA_LIMIT} bytes", str(path))
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ArtifactError(f"the volume cannot be read: {e.strerror}", str(path)) from None
    except (ValueError, RecursionError):
        raise ArtifactError("the metadata are not JSON", str(path)) from None
    if not isinstance(content, dict):
        raise ArtifactError("the metadata are not a JSON object", str(path))
    return content


def _table(content: Any, path: Path) -> Table:
    try:
        table = Table.model_validate(content)
    except ValidationError as e:
        first = e.errors()[0]
        key = ".".join(map(str, ("pfmc", *first["loc"])))
        raise ArtifactError(f"{printable(key)}: {first['msg']}", str(path)) from None
    if not 2 <= len(table.power_w) == len(table.index_change):
        raise ArtifactError("pfmc: index_change and power_w do not have the same length of two or more", str(path))
    steps = np.diff(table.index_change)
    if table.index_change[0] != 0 or table.power_w[0] != 0 or not (np.all(steps > 0) or np.all(steps < 0)):
        raise ArtifactError("pfmc: index_change is not monotonic from 0, or level 0 has a power", str(path))
    return table


def _levels(folder: Path, shape: Shape) -> UInt8[np.ndarray, "layers rows columns"]:
    path = folder / "zarr.json"
    content = _metadata(path)
    if content.get("shape") != list(shape):
        raise ArtifactError(f"the shape is {printable(str(content.get('shape')), 60)}, not {list(shape)}", str(path))
    for key, value in _encoding(shape).items():
        if content.get(key) != value:
            raise ArtifactError(f"{key} is not as pfmc writes it", str(path))
    levels = np.empty(shape, np.uint8)
    for at, window in _windows(shape, _shard(shape)):
        _read_shard(folder.joinpath("c", *map(str, at)), levels[window], shape)
    return levels


def _encoding(shape: Shape) -> dict[str, Any]:
    """Metadata of the array that say how its bytes are to be read."""
    little_endian = {"name": "bytes"}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(_shard(shape))}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": list(_chunk(shape)),
                    "codecs": [
                        little_endian,
                        {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": True}},
                    ],
                    "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
                    "index_location": "end",
                },
            }
        ],
        "storage_transformers": [],
    }


def _read_shard(path: Path, target: UInt8[np.ndarray, "layers rows columns"], shape: Shape) -> None:
    """Unpack the chunks of a file into ``target``, the part of the volume that the file covers."""
    chunk, shard = _chunk(shape), _shard(shape)
    size = int(np.prod(chunk))
    counts = _as_shape(s // c for s, c in zip(shard, chunk, strict=True))
    try:
        if path.stat().st_size > 2 * int(np.prod(shard)) + METADATA_LIMIT:
            raise ArtifactError("the shard is larger than its voxels", str(path))
        content = path.read_bytes()
    except OSError as e:
        raise ArtifactError(f"the shard cannot be read: {e.strerror}", str(path)) from None
    index = _shard_index(content, counts, path)
    for at, window in _windows(target.shape, chunk):
        offset, length = (int(n) for n in index[at])
        if offset + length > len(content):
            raise ArtifactError(f"chunk {at} is missing or cut off", str(path))
        try:
            unpacked = pa.decompress(content[offset : offset + length], size, "zstd")
        except OSError as e:
            raise ArtifactError(f"chunk {at} is damaged: {e}", str(path)) from None
        voxels = np.frombuffer(unpacked, np.uint8).reshape(chunk)
        part = target[window]
        part[...] = voxels[tuple(slice(n) for n in part.shape)]


def _shard_index(content: bytes, counts: Shape, path: Path) -> UInt64[np.ndarray, "z y x 2"]:
    """Offset and length of each chunk, from the end of the file: 16 bytes each, then their checksum."""
    size = 16 * int(np.prod(counts))
    index, checksum = content[-size - 4 : -4], content[-4:]
    if len(index) != size or google_crc32c.value(index) != int.from_bytes(checksum, "little"):
        raise ArtifactError("the index of the shard is damaged", str(path))
    return np.frombuffer(index, "<u8").reshape(*counts, 2)


def _windows(shape: tuple[int, ...], size: Shape) -> Iterator[tuple[Shape, tuple[slice, ...]]]:
    """Boxes of ``size`` that cover ``shape``, the last ones cut: number along each axis, and where."""
    counts = (-(-n // s) for n, s in zip(shape, size, strict=True))
    for at in itertools.product(*map(range, counts)):
        yield _as_shape(at), tuple(slice(i * s, min((i + 1) * s, n)) for i, s, n in zip(at, size, shape, strict=True))


def _chunk(shape: Shape) -> Shape:
    return _as_shape(map(min, CHUNK, shape))


def _shard(shape: Shape) -> Shape:
    chunks = (min(-(-n // c), most) for n, c, most in zip(shape, _chunk(shape), CHUNKS_PER_SHARD, strict=True))
    return _as_shape(c * n for c, n in zip(_chunk(shape), chunks, strict=True))


def _as_shape(sizes: Iterable[int]) -> Shape:
    layers, rows, columns = sizes
    return int(layers), int(rows), int(columns)
