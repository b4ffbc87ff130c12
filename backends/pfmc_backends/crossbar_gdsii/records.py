"""GDSII stream format: record types and how they are written; all that the emitter and the reader share of the format.

A record is a big-endian uint16 length (of the whole record), a byte that says what it is and a byte for its data type,
then data (Calma, GDSII Stream Format Manual, release 6.0, 1987). Both bytes together are called a tag here.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from datetime import datetime
from typing import Final

import numpy as np

HEADER: Final = 0x0002
BGNLIB: Final = 0x0102
LIBNAME: Final = 0x0206
UNITS: Final = 0x0305
ENDLIB: Final = 0x0400
BGNSTR: Final = 0x0502
STRNAME: Final = 0x0606
ENDSTR: Final = 0x0700
BOUNDARY: Final = 0x0800
PATH: Final = 0x0900
SREF: Final = 0x0A00
AREF: Final = 0x0B00
TEXT: Final = 0x0C00
LAYER: Final = 0x0D02
DATATYPE: Final = 0x0E02
WIDTH: Final = 0x0F03
XY: Final = 0x1003
ENDEL: Final = 0x1100
SNAME: Final = 0x1206
COLROW: Final = 0x1302
NODE: Final = 0x1500
TEXTTYPE: Final = 0x1602
STRING: Final = 0x1906
STRANS: Final = 0x1A01
MAG: Final = 0x1B05
ANGLE: Final = 0x1C05
PATHTYPE: Final = 0x2102
PROPATTR: Final = 0x2B02
PROPVALUE: Final = 0x2C06
BOX: Final = 0x2D00
BOXTYPE: Final = 0x2E02

# Name of a structure as the format allows it: 32 characters.
STRUCTURE_NAME: Final = re.compile(r"[A-Za-z0-9_?$]{1,32}")


def record(tag: int, data: bytes = b"") -> bytes:
    """One record."""
    return struct.pack(">HH", 4 + len(data), tag) + data


def text(tag: int, value: str) -> bytes:
    """A record that holds text, padded to an even length as the format wants it."""
    data = value.encode("latin-1")
    return record(tag, data + b"\0" * (len(data) % 2))


def dated(tag: int, moment: datetime) -> bytes:
    """The record that begins a library or a structure: when it was last modified and last accessed."""
    return record(tag, struct.pack(">6h", *moment.timetuple()[:6]) * 2)


def real8(value: float) -> bytes:
    """A positive number as the format's excess-64 base-16 floating point."""
    mantissa, exponent = math.frexp(value)
    sixteens = -(-exponent // 4)
    return struct.pack(">Q", (sixteens + 64) << 56 | round(math.ldexp(mantissa, 56 + exponent - 4 * sixteens)))


def sref_type(name_bytes: int) -> np.dtype[np.void]:
    """The bytes of one reference as a structured type, for names of a fixed, even number of bytes."""
    return np.dtype(
        [
            ("sref", ">u2", 2),
            ("sname", ">u2", 2),
            ("name", f"S{name_bytes}"),
            ("xy", ">u2", 2),
            ("x", ">i4"),
            ("y", ">i4"),
            ("endel", ">u2", 2),
        ]
    )


def srefs(names: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """References to structures at x, y (database units), encoded; ``names`` are bytes of one even width."""
    encoded = np.zeros(len(names), dtype=sref_type(names.dtype.itemsize))
    encoded["sref"] = 4, SREF
    encoded["sname"] = 4 + names.dtype.itemsize, SNAME
    encoded["name"], encoded["x"], encoded["y"] = names, x, y
    encoded["xy"] = 12, XY
    encoded["endel"] = 4, ENDEL
    return encoded


def walk(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Tag, start and end of each record of a well-formed stream."""
    at = 0
    while at < len(data):
        length, tag = struct.unpack_from(">HH", data, at)
        yield tag, at, at + length
        if tag == ENDLIB:
            return
        at += length
