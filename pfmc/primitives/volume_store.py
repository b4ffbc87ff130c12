"""Volumes that were constructed, kept in a folder by what they were constructed for: a later run finds them again."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from pfmc.primitives.volume import DiffractiveVolume, Performance, Written
from pfmc.technology.glass import GlassTechnology

VERSION: Final = 2  # of what constructs: another version makes other voxels


@dataclass(frozen=True)
class VolumeStore:
    """A folder of volumes; ``salt`` stands for all that they depend on beside the block of weights."""

    folder: Path
    salt: str

    @classmethod
    def of(cls, folder: Path, technology: GlassTechnology, seed: int) -> VolumeStore:
        """The store of a compile. Volumes of different blocks start from different random voxels of one seed."""
        return cls(folder, f"{VERSION} {seed} {technology.model_dump_json()}")

    def read(self, block: Float[np.ndarray, "rows columns"], robust: int = 0) -> Written | None:
        """The volume for a block that took so many robust steps; None if there is none, or it was cut off."""
        try:
            with np.load(self._path(block, robust), allow_pickle=False) as data:
                numbers = {name: data[name].item() for name in data.files if name != "levels"}
                return Written(data["levels"], Performance(**numbers))
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
            return None

    def performance(
        self, block: Float[np.ndarray, "rows columns"], primitive: DiffractiveVolume, wanted: float, robust: int = 0
    ) -> Performance:
        """Of the volume for a block, which is constructed and kept if there is none yet."""
        written = self.read(block, robust)
        if written is None:
            rng = np.random.default_rng(list(bytes.fromhex(self._digest(block, robust))))
            with threadpool_limits(limits=1):
                written = primitive.construct(block, rng, wanted, robust)
            self._save(self._path(block, robust), written)
        return written.performance

    def _save(self, path: Path, written: Written) -> None:
        """Whole or not at all: another process may be killed while it writes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.stem}.{os.getpid()}.partial")
        with partial.open("wb") as file:
            np.savez_compressed(file, levels=written.levels, **asdict(written.performance))
        partial.replace(path)

    def _digest(self, block: Float[np.ndarray, "rows columns"], robust: int) -> str:
        content = np.ascontiguousarray(block, dtype="<f8").tobytes()
        how = f"{self.salt} robust {robust}" if robust else self.salt
        return hashlib.sha256(f"{how} {block.shape} ".encode() + content).hexdigest()

    def _path(self, block: Float[np.ndarray, "rows columns"], robust: int) -> Path:
        return self.folder / f"{self._digest(block, robust)}.npz"
