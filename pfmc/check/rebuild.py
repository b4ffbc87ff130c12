"""The as-fabricated model of a bundle, from its files as they are now."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from threadpoolctl import threadpool_limits

from pfmc.backend import AsBuilt, Backend, Progress
from pfmc.bundle import read_tiles
from pfmc.check.lift import as_fabricated, save_model
from pfmc.frontend.runtime import Runtime
from pfmc.technology.kinds import AnyTechnology


@dataclass(frozen=True, eq=False)
class Rebuilt:
    """What a bundle's files say.

    Attributes:
        model: the as-fabricated model.
        found: how many devices were found in the files.
        complaints: what the reader found that does not belong.
    """

    model: onnx.ModelProto
    found: int
    complaints: tuple[str, ...]

    def runtime(self) -> Runtime:
        """The model ready to run; it goes through a file, for a large one cannot be handed over in one piece."""
        with tempfile.TemporaryDirectory(prefix="pfmc-") as work:
            path = Path(work) / "as_fabricated.onnx"
            save_model(self.model, path)
            return Runtime(path)


def rebuild(
    folder: Path,
    backend: Backend,
    technology: AnyTechnology,
    progress: Progress,
    *,
    tiles: Path,
    host: Path,
    ideal_converters: bool = False,
    ideal_wires: bool = False,
) -> Rebuilt:
    """Read the files below ``folder`` and put what they compute into the host model.

    Args:
        tiles: the table of tiles.
        host: the host model.
        ideal_converters: leave rounding and clipping of the converters out.
        ideal_wires: leave the resistance of the wires out.

    Raises:
        ArtifactError: if a file cannot be understood.
        VerifyError: if the files do not belong together.
    """
    records = read_tiles(tiles)
    complaints: list[str] = []
    found = 0

    def watched() -> Iterator[AsBuilt]:
        nonlocal found
        for tile in backend.read(folder, technology, records, progress):
            found += tile.found
            complaints.extend(tile.complaints)
            yield tile

    ideal = {"ideal_converters": ideal_converters, "ideal_wires": ideal_wires}
    with threadpool_limits(limits=1, user_api="blas"):  # see compile_model
        model = as_fabricated(host, records, watched(), technology, **ideal)
    return Rebuilt(model, found, tuple(complaints))
