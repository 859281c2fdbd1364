"""One frame's row in the table of ``frames.h5``: its columns, its bytes, its checksums."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from labctl.bench.frames import Frame
from labctl.runs.values import to_json

_FIELDS: tuple[tuple[str, Any, str], ...] = (
    ("stack", "S32", "32s"),  # name under /frames; empty: the row was never written
    ("index", "<i8", "q"),  # frame index within the stack
    ("number", "<i8", "q"),
    ("started", "<f8", "d"),
    ("ended", "<f8", "d"),
    ("exposure_s", "<f8", "d"),
    ("slm", "S32", "32s"),
    ("input", "S32", "32s"),
    ("slm_before", "S32", "32s"),
    ("shown_slm", "<f8", "d"),
    ("shown_input", "<f8", "d"),
    ("origin", ("<i4", (2,)), "ii"),  # row and column of the frame's corner on the sensor
    ("batch", "<i4", "i"),  # which Measure of the run
    ("position", "<i4", "i"),  # which exposure of that Measure
    ("proof", "<i4", "i"),
    ("repeats", "<u2", "H"),
    ("xxh3", "<u8", "Q"),  # XXH3 (64 bits) of the frame's bytes in C order
)
ROW_BYTES, _CRC_AT = 256, 252
_PACK = struct.Struct("<" + "".join(code for _, _, code in _FIELDS))
_PADDING = bytes(_CRC_AT - _PACK.size)
ROW = np.dtype(
    {
        "names": [*(name for name, _, _ in _FIELDS), "row_crc32"],  # of the row's bytes before it, and of the tag
        "formats": [*(kind for _, kind, _ in _FIELDS), "<u4"],
        "offsets": [*np.cumsum([0, *(np.dtype(kind).itemsize for _, kind, _ in _FIELDS[:-1])]).tolist(), _CRC_AT],
        "itemsize": ROW_BYTES,  # a power of two: no row lies across two pages of the cache, where a kill could tear it
    }
)
STORAGE = ("stack", "index", "xxh3", "crc32", "row_crc32")
"""Columns that say how a frame is stored, and nothing about the frame."""
_plain = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def pack(stack: bytes, index: int, frame: Frame, *, batch: int, position: int, digest: int, tag: bytes) -> bytes:
    """The bytes of a row.

    Parameters
    ----------
    stack, index : bytes, int
        Where the frame is stored.
    digest : int
        XXH3 of its bytes.
    tag : bytes
        Its tag as text, which the row's own checksum covers as well.
    """
    row = _PACK.pack(
        stack, index, frame.number, frame.started, frame.ended, frame.exposure_s, frame.slm.encode(),
        frame.input.encode(), frame.slm_before.encode(), frame.shown_slm, frame.shown_input, *frame.origin,
        batch, position, frame.proof, min(frame.repeats, 0xFFFF), digest,
    ) + _PADDING  # fmt: skip
    return row + zlib.crc32(tag, zlib.crc32(row)).to_bytes(4, "little")


def as_text(tag: dict[str, Any]) -> bytes:
    """A tag as JSON; one of plain values takes the short way."""
    try:
        return _plain(tag).encode()
    except (TypeError, ValueError):
        return json.dumps(to_json(tag), ensure_ascii=False).encode()


def checksum(data: NDArray[Any]) -> int:
    """XXH3 (64 bits) of an array's bytes in C order."""
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(data).data)


def damage(row: Any, data: NDArray[Any], text: str) -> str:
    """What of a frame does not fit its checksum; "" if all does."""
    if "xxh3" not in row.dtype.names:
        return "" if zlib.crc32(np.ascontiguousarray(data).data) == row["crc32"] else "pixels"
    pixels = "" if checksum(data) == row["xxh3"] else "pixels"
    return " and ".join(filter(None, [pixels, "" if row_is_whole(row, text.encode()) else "row of the table or tag"]))


def row_is_whole(row: Any, tag: bytes) -> bool:
    """Whether a row of a file of this format, with its tag, is as it was written."""
    return zlib.crc32(tag, zlib.crc32(row.tobytes()[:_CRC_AT])) == row["row_crc32"]
