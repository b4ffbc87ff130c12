"""What a backend is: it turns a Layout into files, and those files back into what they would be once made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int

from pfmc.bundle import TileRecord
from pfmc.physics.network import Wires

Progress = Callable[[int], None]  # called with the number of tiles done since the last call


@dataclass(frozen=True)
class Emission:
    """What ``emit`` wrote: (path relative to the folder, role), and how many devices it drew.

    Attributes:
        devices: strips that carry weights.
        unused_devices: strips at the positions that no weight uses.
        write_s: what a writer needs for each tile, in the order of the layout, seconds; empty for masks.
    """

    files: tuple[tuple[str, str], ...]
    devices: int
    unused_devices: int
    write_s: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class TileAsBuilt:
    """A tile as the files have it.

    Attributes:
        resistance: of each device of the tile, unused positions included (they load the wires), ohms, from the
            geometry; infinite where none conducts. Last axis G+, G−.
        wires: what lies around the devices, from the geometry: segments of rows × 2 · columns crossings.
        found: how many devices of the block, which carry weights, were recovered whole.
        complaints: what was found that does not belong, one line each, bounded in number.
        length, width: of what keeps each device's resistance high (blocked length, drawn width), metres; zero where no
            device is. Of strips side by side the mean length and the sum of the widths.
    """

    name: str
    resistance: Float[np.ndarray, "rows columns 2"]
    wires: Wires
    found: int
    complaints: tuple[str, ...] = ()
    length: Float[np.ndarray, "rows columns 2"] = field(kw_only=True)
    width: Float[np.ndarray, "rows columns 2"] = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class VolumeAsBuilt:
    """A volume as the files have it.

    Attributes:
        index_change: of every voxel, from the level that is written and the file's own table.
        found: how many voxels there are.
        complaints: what was found that does not belong, one line each, bounded in number.
    """

    name: str
    index_change: Float[np.ndarray, "layers y x"]
    found: int
    complaints: tuple[str, ...] = ()


AsBuilt = TileAsBuilt | VolumeAsBuilt


@dataclass(frozen=True)
class Place:
    """Where a rule is violated: the middle of it in um on the chip, and the tile's name, empty for none.

    Attributes:
        layer: of voxels, counted from where the light comes in; None where that says nothing.
        found: what was measured there and what it should be, where the rule's name does not say it.
    """

    x: float
    y: float
    tile: str
    layer: int | None = None
    found: str = ""


@dataclass(frozen=True)
class Violated:
    """A rule that is violated, how often, and where first."""

    rule: str
    count: int
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Density:
    """How much of the chip a layer covers, or of each window on it; what a rule says of that.

    Attributes:
        kind: ``min_density`` or ``max_density``.
        limit, least, most: ratios of areas; the last two in the emptiest and the fullest window.
        left_to_die: what is drawn here cannot meet the rule without what will stand around it.
    """

    rule: str
    kind: str
    limit: float
    least: float
    most: float
    met: bool
    left_to_die: bool


@dataclass(frozen=True)
class RuleCheck:
    """What a check of design rules found.

    Attributes:
        rules: how many were checked.
        tiles: how many were; fewer than there are where very many are violated.
        violated: in the order of the technology's rules, those on density last.
        densities: what those measure.
    """

    rules: int
    tiles: int
    violated: tuple[Violated, ...]
    densities: tuple[Density, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether no rule is violated."""
        return not self.violated


class Backend(Protocol):
    """A way to fabricate. Registered under the entry-point group ``pfmc.backends``.

    It is given technologies and layouts of its own target only.
    """

    name: str
    target: str
    summary: str
    default_technology: str
    pipeline: tuple[str, ...]  # the passes that lead to its Layout
    formats: Mapping[str, str]  # what ``export`` can write: name and one line

    def emit(self, layout: Any, folder: Path, progress: Progress) -> Emission:
        """Write the fabrication files below ``folder``.

        Raises:
            OSError: if a file cannot be written.
        """
        ...

    def read(self, folder: Path, technology: Any, tiles: Sequence[TileRecord], progress: Progress) -> Iterator[AsBuilt]:
        """Recover the tiles from the files' geometry, in the order asked for.

        Raises:
            ArtifactError: if the files cannot be understood.
        """
        ...

    def shapes(
        self, folder: Path, technology: Any, tile: TileRecord, window: tuple[int, int, int, int]
    ) -> dict[str, Int[np.ndarray, "n 4"]]:
        """Rectangles of a tile, for pictures: by layer name, x0, y0, x1, y1 in database units from the tile's origin.

        Args:
            window: only rectangles that touch this one, likewise.
        """
        ...

    def check_rules(self, folder: Path, technology: Any, tiles: Sequence[TileRecord], progress: Progress) -> RuleCheck:
        """Check the files against the technology's design rules.

        Raises:
            UsageError: if what it needs is not installed.
            TechnologyError: if the technology has no rules.
            ArtifactError: if the files cannot be understood.
        """
        ...

    def check_connectivity(
        self, folder: Path, technology: Any, tiles: Sequence[TileRecord], progress: Progress
    ) -> tuple[str, ...]:
        """What the files join and should not, or do not join and should: a line each; none if all is well.

        Raises:
            UsageError: if what it needs is not installed.
            ArtifactError: if the files cannot be understood.
        """
        ...

    def export(
        self,
        folder: Path,
        technology: Any,
        tiles: Sequence[TileRecord],
        format: str,
        path: Path,
        *,
        tile: str | None = None,
        devices: Path | None = None,
    ) -> None:
        """Write ``path`` in one of ``formats``, from the bundle's files or, where given, from a table of devices.

        Raises:
            UsageError: unknown format or tile.
            ArtifactError: if the files or the table cannot be understood.
        """
        ...
