"""The records of a GDSII file, mapped and never loaded: its structures, and their elements in runs of like ones.

The format is that of the GDSII Stream Format Manual, release 6.0 (Calma, 1987).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Shaped

from pfmc.errors import ArtifactError, printable
from pfmc_backends.crossbar_gdsii.records import (
    AREF,
    BGNSTR,
    BOUNDARY,
    BOX,
    DATATYPE,
    ENDEL,
    ENDLIB,
    ENDSTR,
    HEADER,
    LAYER,
    NODE,
    PATH,
    SNAME,
    SREF,
    STRNAME,
    TEXT,
    UNITS,
    XY,
    record,
)

ELEMENTS: Final = frozenset({BOUNDARY, PATH, SREF, AREF, TEXT, NODE, BOX})
PAYLOAD: Final = frozenset({SNAME, XY, LAYER, DATATYPE})  # what may differ between the elements of a run

BGNEXTN: Final = 0x3003  # of paths: the emitter draws none
ENDEXTN: Final = 0x3103
LAYOUT_LIMIT: Final = 1024  # layouts of elements that are remembered
SHORT_RUN: Final = 8  # elements that are compared one by one
LONG_RUN: Final = 1024  # elements of a run that is remembered
RUN_LIMIT: Final = 65536  # elements decoded at once
RESIDENT_LIMIT: Final = 64 << 20  # bytes of the file looked at before the system may take them back

_head = struct.Struct(">HH").unpack_from


@dataclass(frozen=True)
class Run:
    """``count`` elements of ``size`` bytes each, from byte ``at``, made of the same records.

    ``fields`` gives for each tag the offset of its data in the element, and the data's length.
    """

    tag: int
    at: int
    count: int
    size: int
    fields: dict[int, tuple[int, int]]


@dataclass(frozen=True)
class _Layout:
    """Of an element: its size, its fields as in :class:`Run`, and all bytes but the payload, with where they stand."""

    size: int
    fields: dict[int, tuple[int, int]]
    fixed: tuple[tuple[int, int, bytes], ...]


class GdsiiFile:
    """A GDSII file.

    Every method raises ArtifactError with the byte offset where the file is not GDSII, is cut short, or lies.

    Attributes:
        database_unit: metres.
        names: of the structures, in the file's order.
        indices: of the structures, by name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database_unit = 0.0
        self.names: list[bytes] = []
        self.indices: dict[bytes, int] = {}
        self._bodies: list[int] = []  # the byte at which each structure's elements begin
        self._layouts: dict[bytes, _Layout] = {}  # the last one seen, by the first bytes of its elements
        self._long_runs: dict[int, int] = {}  # by their first byte, so that they need not be found again
        self._looked_at = 0
        try:
            with path.open("rb") as f:
                self._map = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as e:
            raise ArtifactError(f"the mask file cannot be read: {e}", str(path)) from None
        self._index()

    def error(self, what: str, at: int) -> ArtifactError:
        """An error about what stands at a byte of the file."""
        return ArtifactError(what, f"{self.path}, byte {at}", "write the file again")

    def offset(self, structure: int) -> int:
        """The byte at which a structure's elements begin."""
        return self._bodies[structure]

    def bytes(self, at: int, count: int) -> bytes:
        """Part of the file."""
        return self._map[at : at + count]

    def column(self, dtype: str, run: Run, offset: int) -> Shaped[np.ndarray, " count"]:
        """The data at an offset in each element of a run, where it lies in the file (copy it to keep it)."""
        return np.ndarray((run.count,), dtype, self._map, run.at + offset, (run.size,))

    def points(self, run: Run) -> Shaped[np.ndarray, "count points 2"]:
        """The coordinates of each element of a run, where they lie in the file (copy them to keep them)."""
        offset, length = run.fields.get(XY, (0, 0))
        if length == 0 or length % 8:
            raise self.error("an element without proper coordinates", run.at)
        return np.ndarray((run.count, length // 8, 2), ">i4", self._map, run.at + offset, (run.size, 8, 4))

    def runs(self, structure: int) -> Iterator[Run]:
        """The elements of a structure."""
        return self._runs(self._bodies[structure])

    def _record(self, at: int) -> tuple[int, int]:
        """Length and tag of the record at a byte."""
        if at + 4 > len(self._map):
            raise self.error("the file ends too early", at)
        length, tag = _head(self._map, at)
        if length < 4 or length % 2 or at + length > len(self._map):
            raise self.error(f"not a GDSII record (tag {tag:#06x}, length {length})", at)
        return length, tag

    def _index(self) -> None:
        if self._map[:4] != record(HEADER, bytes(2))[:4]:
            raise self.error("not a GDSII file: it does not begin with a header", 0)
        at = 6
        while True:
            length, tag = self._record(at)
            if tag == ENDLIB:
                return
            if tag == UNITS and length == 20:
                self.database_unit = real(self._map[at + 12 : at + 20])
            at += length
            if tag == BGNSTR:
                at = self._index_structure(at)

    def _index_structure(self, at: int) -> int:
        """Note the structure whose name stands at a byte, and give the byte after it."""
        length, tag = self._record(at)
        name = self._map[at + 4 : at + length].rstrip(b"\0")
        if tag != STRNAME or not name:
            raise self.error("a structure without a name", at)
        if name in self.indices:
            raise self.error(f"a second structure with the name {text(name)}", at)
        self.indices[name] = len(self.names)
        self.names.append(name)
        at += length
        self._bodies.append(at)
        for run in self._runs(at):
            at = run.at + run.count * run.size
        while tag != ENDSTR:
            length, tag = self._record(at)
            at += length
        return at

    def _runs(self, at: int) -> Iterator[Run]:
        while True:
            length, tag = self._record(at)
            if tag == ENDSTR:
                return
            if tag in (BGNSTR, ENDLIB):
                raise self.error("a structure does not end", at)
            if tag not in ELEMENTS:  # of no meaning to the geometry
                at += length
                continue
            layout = self._layout(at)
            count = self._count_alike(at, layout) if tag in (SREF, BOUNDARY) else 1
            if count >= LONG_RUN:
                self._long_runs[at] = count
            yield Run(tag, at, count, layout.size, layout.fields)
            at += count * layout.size
            self._release(count * layout.size)

    def _layout(self, at: int) -> _Layout:
        """The layout of the element at a byte: one seen before if it fits."""
        key = self._map[at : at + 8]
        known = self._layouts.get(key)
        if known is not None and self._fits(known, at):
            return known
        size, fields = self._element(at)
        fixed, begin = [], 0
        for offset, length in [*sorted(place for tag, place in fields.items() if tag in PAYLOAD), (size, 0)]:
            fixed.append((begin, offset, self._map[at + begin : at + offset]))
            begin = offset + length
        if len(self._layouts) >= LAYOUT_LIMIT:
            self._layouts.clear()
        layout = self._layouts[key] = _Layout(size, fields, tuple(fixed))
        return layout

    def _fits(self, layout: _Layout, at: int) -> bool:
        """Whether the element at a byte has a layout."""
        return all(self._map[at + begin : at + end] == data for begin, end, data in layout.fixed)

    def _element(self, begin: int) -> tuple[int, dict[int, tuple[int, int]]]:
        """Size of the element at a byte, and its fields."""
        fields: dict[int, tuple[int, int]] = {}
        at = begin + self._record(begin)[0]
        while True:
            length, tag = self._record(at)
            if tag == ENDEL:
                return at + length - begin, fields
            if tag in ELEMENTS or tag == ENDSTR:
                raise self.error("an element does not end", begin)
            fields.setdefault(tag, (at + 4 - begin, length - 4))
            at += length

    def _count_alike(self, at: int, layout: _Layout) -> int:
        """How many elements follow each other, this one included, that differ in their payload only."""
        if at in self._long_runs:
            return self._long_runs[at]
        size = layout.size
        limit = min((len(self._map) - at) // size, RUN_LIMIT)
        count, step = 1, 16
        while count < min(limit, SHORT_RUN) and self._fits(layout, at + count * size):
            count += 1
        if count < SHORT_RUN:
            return count
        words = [word for begin, end, _ in layout.fixed for word in _words(begin, end)]
        while count < limit:
            step = min(step, limit - count)
            alike = np.ones(step, dtype=np.bool_)
            for offset, dtype in words:
                begin = at + offset
                alike &= np.ndarray((step,), dtype, self._map, begin + count * size, (size,)) == np.frombuffer(
                    self._map, dtype, 1, begin
                )
            if not alike.all():
                return count + int(np.argmin(alike))
            count, step = count + step, step * 8
        return count

    def _release(self, count: int) -> None:
        """Let the system take back what has been looked at, now that it is so many bytes more."""
        self._looked_at += count
        if self._looked_at > RESIDENT_LIMIT and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
            self._looked_at = 0


def real(data: bytes) -> float:
    """A number as GDSII writes it: sign, exponent to the base 16 (excess 64), 56 bits of mantissa."""
    mantissa = int.from_bytes(data[1:], "big") / 2.0**56
    return (-1.0 if data[0] & 0x80 else 1.0) * mantissa * 16.0 ** ((data[0] & 0x7F) - 64)


def text(data: bytes) -> str:
    """A text or name as GDSII writes it, safe to print."""
    return printable(data.rstrip(b"\0").decode("latin-1"))


def _words(begin: int, end: int) -> Iterator[tuple[int, str]]:
    """Offsets and types of the integers that make up a range of bytes; its length is even."""
    while begin < end:
        width = 8 if end - begin >= 8 else 4 if end - begin >= 4 else 2
        yield begin, f"u{width}"
        begin += width
