"""Datasets that grow by many places at once, so that filling one place is one write to a known place of the file."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from labctl.runs.journal import JournaledFile, write_at

BIG = 2**20
"""Bytes from which on it pays to have a frame summed while it is written."""
ROOM = 64 * 2**20
"""Bytes by which a dataset grows at a time, at most: each growth doubles it until then."""


class Helper:
    """A thread for what can be done while a frame is written; it is started when it is first needed."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def do(self, job: Callable[[], int]) -> Future[int]:
        """Begin a job."""
        self._pool = self._pool or ThreadPoolExecutor(1, "labctl-summing")
        return self._pool.submit(job)

    def close(self) -> None:
        """End the thread, if there is one."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


class Slots:
    """The places along the first axis of a chunked, uncompressed dataset, allocated before they are filled.

    `write` goes past HDF5, which must neither have read nor written what is in the places itself: open the file with no
    cache for chunks.

    Parameters
    ----------
    dataset : h5py.Dataset
        Made by `Slots.create`.
    used : int
        Places that hold something.
    reserve : bool
        Let the file system set the room aside as the dataset grows, where it can: that makes writing faster.

    Attributes
    ----------
    name : bytes
        Last part of the dataset's name.
    used, room : int
        Places that hold something, and places that there are.
    item_bytes, chunk_bytes : int
    """

    def __init__(self, dataset: h5py.Dataset, io: JournaledFile, *, used: int = 0, reserve: bool = False) -> None:
        self._dataset, self._io, self._reserve = dataset, io, reserve
        self._axes: int = dataset.ndim
        self._per_chunk: int = dataset.chunks[0]
        self._starts: dict[int, int] = {}  # addresses of the chunks that have free places
        self.name: bytes = dataset.name.rsplit("/", 1)[1].encode()
        self.item_bytes = dataset.dtype.itemsize * int(np.prod(dataset.shape[1:], dtype=np.int64))
        self.chunk_bytes = self._per_chunk * self.item_bytes
        self.used, self.room = used, 0
        self._extend(-(-dataset.shape[0] // self._per_chunk))

    @staticmethod
    def create(
        file: h5py.File, name: str, shape: tuple[int, ...], dtype: Any, *, per_chunk: int, zeros: bool
    ) -> h5py.Dataset:
        """Make an empty dataset of items of `shape`; with `zeros` its free places hold zeros."""
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        return file.create_dataset(
            name, (0, *shape), dtype, maxshape=(None, *shape), chunks=(per_chunk, *shape), dcpl=plist,
            fill_time="alloc" if zeros else "never",
        )  # fmt: skip

    @property
    def growth(self) -> int:
        """Bytes that the next `grow` takes."""
        return max(1, min(self.room * self.item_bytes, ROOM) // self.chunk_bytes) * self.chunk_bytes

    def grow(self, *, least: bool = False) -> None:
        """Make room for more. A change of the file's structure: flush and commit it before `write`.

        Parameters
        ----------
        least : bool
            For one chunk only: the disk is nearly full.
        """
        self._extend(self.room // self._per_chunk + (1 if least else self.growth // self.chunk_bytes))

    @property
    def address(self) -> int:
        """Of the next free place in the file."""
        chunk, within = divmod(self.used, self._per_chunk)
        return self._starts[chunk] + within * self.item_bytes

    def write(self, data: Any) -> None:
        """Put the bytes of `data` into the next free place, which counts as used once `used` is raised."""
        write_at(self._io.fd, data, self.address)

    def write_summed(self, data: NDArray[Any], helper: Helper) -> int:
        """The same for a C-contiguous array; returns the XXH3 (64 bits) of its bytes.

        A big array is summed by the helper while it is written.
        """
        if data.nbytes < BIG:
            self.write(data)
            return xxhash.xxh3_64_intdigest(data.data)
        digest = helper.do(partial(xxhash.xxh3_64_intdigest, data.data))
        try:
            self.write(data)
        finally:
            summed = digest.result()
        return summed

    def fill(self, texts: list[bytes]) -> None:
        """Put these into the next free places, padded with zeros, as a change of the file's structure."""
        for text in texts:
            self._put(self.used, text.ljust(self.item_bytes, b"\0"))
            self.used += 1

    def clear(self) -> None:
        """Zeros into every free place, as a change of the file's structure: after a crash they may hold anything."""
        for place in range(self.used, self.room):
            self._put(place, bytes(self.item_bytes))

    def trim(self) -> None:
        """Give the free places back. A change of the file's structure, and the last."""
        self._dataset.resize(self.used, axis=0)
        self.room = self.used

    def _put(self, place: int, data: bytes) -> None:
        chunk, within = divmod(place, self._per_chunk)
        self._io.seek(self._starts[chunk] + within * self.item_bytes)
        self._io.write(data)

    def _extend(self, chunks: int) -> None:
        first, self.room = self.used // self._per_chunk, chunks * self._per_chunk
        if self._dataset.shape[0] != self.room:
            self._dataset.resize(self.room, axis=0)
        self._starts = {chunk: start for chunk, start in self._starts.items() if chunk >= first}
        fresh = [chunk for chunk in range(first, chunks) if chunk not in self._starts]
        for chunk in fresh:
            place = (chunk * self._per_chunk,) + (0,) * (self._axes - 1)
            self._starts[chunk] = self._dataset.id.get_chunk_info_by_coord(place).byte_offset
        if self._reserve and hasattr(os, "posix_fallocate"):
            with suppress(OSError):  # then the frame itself will be told that the disk is full
                for start, size in _joined([self._starts[chunk] for chunk in fresh], self.chunk_bytes):
                    os.posix_fallocate(self._io.fd, start, size)


def _joined(starts: list[int], size: int) -> list[tuple[int, int]]:
    """Start and length of the stretches that blocks of one size make."""
    found: list[tuple[int, int]] = []
    for start in sorted(starts):
        if found and sum(found[-1]) == start:
            found[-1] = (found[-1][0], found[-1][1] + size)
        else:
            found.append((start, size))
    return found
