"""The structures of a GDSII file, decoded when they are asked for: rectangles, labels and references as arrays."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Int, Int32, Int64

from pfmc_backends.crossbar_gdsii import gdsii, records
from pfmc_backends.crossbar_gdsii.gdsii import GdsiiFile, Run
from pfmc_backends.crossbar_gdsii.names import NameTable
from pfmc_backends.crossbar_gdsii.orientation import IDENTITY, Orientation
from pfmc_backends.crossbar_gdsii.polygons import Rectangles, cut_outline, cut_path

CACHE_LIMIT: Final = 64 << 20  # bytes of decoded structures that are kept


@dataclass(frozen=True, eq=False)
class Instances:
    """References with one orientation.

    Attributes:
        structures: index of the structure that each one places.
        origins: where its origin comes to lie.
    """

    orientation: Orientation
    structures: Int[np.ndarray, " n"]
    origins: Int[np.ndarray, "n 2"]


@dataclass(frozen=True)
class Lattice:
    """An array reference: ``columns`` × ``rows`` placements of one structure.

    ``across`` and ``up`` reach from ``origin`` to where the next column and row after the last would begin.
    """

    orientation: Orientation
    structure: int
    origin: tuple[int, int]
    columns: int
    rows: int
    across: tuple[int, int]
    up: tuple[int, int]

    def offsets(self) -> tuple[Int64[np.ndarray, "columns 2"], Int64[np.ndarray, "rows 2"]]:
        """Where each column and each row begins, from ``origin``; rounded if the file's reach is no whole multiple."""
        across = np.outer(np.arange(self.columns), self.across) / self.columns
        up = np.outer(np.arange(self.rows), self.up) / self.rows
        return np.rint(across).astype(np.int64), np.rint(up).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Structure:
    """A decoded structure.

    Attributes:
        shapes: rows of (code, x0, y0, x1, y1, text): a rectangle on the layer with that code; or a label, a point with
            the index of its text; or the surroundings of what cannot be read as rectangles, with the index of a text
            that says what it is.
    """

    shapes: Int32[np.ndarray, "n 6"]
    instances: tuple[Instances, ...]
    lattices: tuple[Lattice, ...]

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return 1000 + self.shapes.nbytes + sum(i.structures.nbytes + i.origins.nbytes for i in self.instances)


class Contents:
    """The structures of a file; of their shapes those on ``layers``, of their labels those on ``text_layers``.

    The code of a shape is the index of its layer; those of labels follow; ``odd``, the last, is for what cannot be
    read.

    Attributes:
        texts: of labels and remarks; the first is empty.
    """

    def __init__(
        self, file: GdsiiFile, layers: Sequence[tuple[int, int]], text_layers: Sequence[tuple[int, int]] = ()
    ) -> None:
        self.file = file
        self.odd = len(layers) + len(text_layers)
        self.texts = [""]
        self._text_indices = {"": 0}
        self._layers = {key: code for code, key in enumerate(layers)}
        self._text_layers = {key: code for code, key in enumerate(text_layers, len(layers))}
        self._cache: OrderedDict[int, Structure] = OrderedDict()
        self._cached = 0
        self._names = NameTable(file.indices)

    def structure(self, index: int) -> Structure:
        """A structure; those used last are kept.

        Raises:
            ArtifactError: if an element is not as it should be.
        """
        found = self._cache.get(index)
        if found is not None:
            self._cache.move_to_end(index)
            return found
        found = self._cache[index] = self._decode(index)
        self._cached += found.size
        while self._cached > CACHE_LIMIT and len(self._cache) > 1:
            self._cached -= self._cache.popitem(last=False)[1].size
        return found

    def text_index(self, text: str) -> int:
        """The index of a text in ``texts``; it is added if it is new."""
        index = self._text_indices.setdefault(text, len(self.texts))
        if index == len(self.texts):
            self.texts.append(text)
        return index

    def _decode(self, index: int) -> Structure:
        shapes: list[np.ndarray] = [np.zeros((0, 6), dtype=np.int32)]
        placed: dict[Orientation, list[tuple[np.ndarray, np.ndarray]]] = {}
        lattices: list[Lattice] = []
        for run in self.file.runs(index):
            if run.tag == records.SREF:
                placed.setdefault(self._orientation(run), []).append(self._references(run))
            elif run.tag == records.AREF:
                lattices.append(self._lattice(run))
            elif run.tag == records.BOUNDARY:
                shapes.append(self._outlines(run, records.DATATYPE))
            elif run.tag == records.BOX:
                shapes.append(self._outlines(run, records.BOXTYPE))
            elif run.tag == records.PATH:
                shapes.append(self._path(run))
            elif run.tag == records.TEXT:
                shapes.append(self._label(run))
        instances = (
            Instances(orientation, *(np.concatenate(parts) for parts in zip(*runs, strict=True)))
            for orientation, runs in placed.items()
        )
        return Structure(np.concatenate(shapes), tuple(instances), tuple(lattices))

    # References

    def _references(self, run: Run) -> tuple[Int32[np.ndarray, " n"], Int32[np.ndarray, "n 2"]]:
        offset, length = run.fields.get(records.SNAME, (0, 0))
        if not length:
            raise self.file.error("a reference to nothing", run.at)
        try:
            structures = self._names.find(self.file.column(f"S{length}", run, offset))
        except KeyError as e:
            raise self.file.error(f"a reference to {gdsii.text(e.args[0])}, which is not there", run.at) from None
        return structures, self.file.points(run)[:, 0].astype(np.int32)

    def _lattice(self, run: Run) -> Lattice:
        structures, _ = self._references(run)
        points = self.file.points(run)[0].tolist()
        columns, rows = self._integers(run, records.COLROW, "h", (0, 0))
        if len(points) != 3 or columns < 1 or rows < 1:
            raise self.file.error(f"an array of {columns} by {rows} with {len(points)} points", run.at)
        (x, y), across, up = points
        return Lattice(
            self._orientation(run),
            int(structures[0]),
            (x, y),
            columns,
            rows,
            (across[0] - x, across[1] - y),
            (up[0] - x, up[1] - y),
        )

    def _orientation(self, run: Run) -> Orientation:
        if records.STRANS not in run.fields:
            return IDENTITY
        (flags,) = self._integers(run, records.STRANS, "H", (0,))
        numbers = {records.MAG: 1.0, records.ANGLE: 0.0}
        for tag in numbers:
            offset, length = run.fields.get(tag, (0, 0))
            if length == 8:
                numbers[tag] = gdsii.real(self.file.bytes(run.at + offset, 8))
        return Orientation.of(bool(flags & 0x8000), numbers[records.MAG], numbers[records.ANGLE])

    # Shapes

    def _outlines(self, run: Run, type_record: int) -> Int32[np.ndarray, "n 6"]:
        layers, types = (self._shorts(run, tag) for tag in (records.LAYER, type_record))
        codes = np.full(run.count, -1, dtype=np.int32)
        for (layer, datatype), code in self._layers.items():
            codes[(layers == layer) & (types == datatype)] = code
        wanted = codes >= 0
        if not wanted.any():
            return np.zeros((0, 6), dtype=np.int32)
        codes, points = codes[wanted], self.file.points(run)[wanted].astype(np.int32)
        rows = np.zeros((len(codes), 6), dtype=np.int32)
        rows[:, 0] = codes
        rows[:, 1:3], rows[:, 3:5] = points.min(axis=1), points.max(axis=1)
        plain = _are_rectangles(points)
        if plain.all():
            return rows
        cut = [
            self._rows(int(codes[i]), cut_outline(points[i]), points[i], "an outline with slanted edges")
            for i in np.flatnonzero(~plain).tolist()
        ]
        return np.concatenate([rows[plain], *cut])

    def _path(self, run: Run) -> Int32[np.ndarray, "n 6"]:
        key = int(self._shorts(run, records.LAYER)[0]), int(self._shorts(run, records.DATATYPE)[0])
        code = self._layers.get(key)
        if code is None:
            return np.zeros((0, 6), dtype=np.int32)
        points = self.file.points(run)[0].astype(np.int64)
        (width,) = self._integers(run, records.WIDTH, "i", (0,))
        (ends,) = self._integers(run, records.PATHTYPE, "h", (0,))
        width = abs(width)
        extensions = {0: (0, 0), 2: (width // 2, width // 2)}
        if ends == 4:
            extensions[4] = (
                self._integers(run, gdsii.BGNEXTN, "i", (0,))[0],
                self._integers(run, gdsii.ENDEXTN, "i", (0,))[0],
            )
        cut = cut_path(points, width, *extensions[ends]) if ends in extensions else None
        return self._rows(code, cut, points, "a path that is slanted, rounded or of odd width")

    def _rows(self, code: int, cut: Rectangles | None, points: np.ndarray, otherwise: str) -> Int32[np.ndarray, "n 6"]:
        """Rows of the rectangles, or where there are none a remark that stands where the points are."""
        if cut is None:
            number, datatype = next(key for key, c in self._layers.items() if c == code)
            remark = self.text_index(f"{otherwise} on layer {number}/{datatype} is not measured")
            box = [self.odd, *points.min(axis=0).tolist(), *points.max(axis=0).tolist(), remark]
            return np.array([box], dtype=np.int32)
        rows = np.zeros((len(cut), 6), dtype=np.int32)
        rows[:, 0] = code
        rows[:, 1:5] = np.array(cut, dtype=np.int32).reshape(-1, 4)
        return rows

    def _label(self, run: Run) -> Int32[np.ndarray, "n 6"]:
        key = int(self._shorts(run, records.LAYER)[0]), int(self._shorts(run, records.TEXTTYPE)[0])
        code = self._text_layers.get(key)
        if code is None:
            return np.zeros((0, 6), dtype=np.int32)
        offset, length = run.fields.get(records.STRING, (0, 0))
        text = gdsii.text(self.file.bytes(run.at + offset, length))
        x, y = self.file.points(run)[0, 0].tolist()
        return np.array([[code, x, y, x, y, self.text_index(text)]], dtype=np.int32)

    # Fields

    def _shorts(self, run: Run, tag: int) -> np.ndarray:
        """A two-byte integer of each element."""
        offset, length = run.fields.get(tag, (0, 0))
        if length != 2:
            raise self.file.error(f"an element without a proper record {tag:#06x}", run.at)
        return self.file.column(">i2", run, offset)

    def _integers(self, run: Run, tag: int, form: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """The integers of a record of the first element, as many as ``default`` has."""
        offset, length = run.fields.get(tag, (0, -1))
        if length < 0:
            return default
        data = self.file.bytes(run.at + offset, length)
        try:
            return struct.unpack(f">{len(default)}{form}", data)
        except struct.error:
            raise self.file.error(f"a record {tag:#06x} has {length} bytes", run.at) from None


def _are_rectangles(points: Int32[np.ndarray, "n points 2"]) -> np.ndarray:
    """Which outlines are four corners of a rectangle, in turn, and the first one again."""
    if points.shape[1] != 5:
        return np.zeros(len(points), dtype=np.bool_)
    x, y = points[:, :, 0], points[:, :, 1]
    upright = (x[:, 0] == x[:, 1]) & (y[:, 1] == y[:, 2]) & (x[:, 2] == x[:, 3]) & (y[:, 3] == y[:, 0])
    lying = (y[:, 0] == y[:, 1]) & (x[:, 1] == x[:, 2]) & (y[:, 2] == y[:, 3]) & (x[:, 3] == x[:, 0])
    closed = (x[:, 4] == x[:, 0]) & (y[:, 4] == y[:, 0])
    solid = (x[:, 0] != x[:, 2]) & (y[:, 0] != y[:, 2])
    return np.asarray((upright | lying) & closed & solid)
