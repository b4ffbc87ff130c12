"""VTK image data (.vti) for ParaView: level and index change of each voxel.

Format: VTK file formats, XML image data, binary arrays in line. Lengths in um.
"""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from jaxtyping import Shaped

from pfmc_backends.glass_voxels.volume import WrittenVolume

BLOCK: Final = 3 << 20  # bytes that are encoded at once; a multiple of 3 goes without padding


def write_vti(volume: WrittenVolume, path: Path) -> None:
    """Write ``path``: x and y from the volume's axis, z from the surface.

    Raises:
        OSError: if it cannot be written.
    """
    layers, rows, columns = volume.levels.shape
    layer, voxel = volume.layer * 1e6, volume.voxel * 1e6
    extent = f"0 {columns} 0 {rows} 0 {layers}"
    origin = f"{-columns * voxel / 2:.9g} {-rows * voxel / 2:.9g} {volume.depth * 1e6:.9g}"
    with path.open("wb") as file:
        file.write(
            '<?xml version="1.0"?>\n'
            '<VTKFile type="ImageData" version="1.0" byte_order="LittleEndian" header_type="UInt64">\n'
            f'<ImageData WholeExtent="{extent}" Origin="{origin}" Spacing="{voxel:.9g} {voxel:.9g} {layer:.9g}">\n'
            f'<Piece Extent="{extent}">\n<CellData Scalars="index_change">\n'.encode()
        )
        _array(file, "level", "UInt8", volume.levels)
        _array(file, "index_change", "Float32", volume.index_change.astype("<f4")[volume.levels])
        file.write(b"</CellData>\n</Piece>\n</ImageData>\n</VTKFile>\n")


def _array(file: BinaryIO, name: str, kind: str, values: Shaped[np.ndarray, "layers rows columns"]) -> None:
    """Length in bytes and values, together in base64."""
    file.write(f'<DataArray type="{kind}" Name="{name}" format="binary">\n'.encode())
    content = memoryview(np.uint64(values.nbytes).astype("<u8").tobytes() + values.tobytes())
    for at in range(0, len(content), BLOCK):
        file.write(b64encode(content[at : at + BLOCK]))
    file.write(b"\n</DataArray>\n")
