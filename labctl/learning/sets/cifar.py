"""Readers of CIFAR-10 batches, in the binary and in the Python version.

Source of both: https://www.cs.toronto.edu/~kriz/cifar.html. The Python version is a pickle, and a pickle is a program:
`pickle.load` would run it. Here nothing is run. `labctl.learning.sets.plain_pickle` reads the opcodes as data.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labctl.errors import DataError
from labctl.learning.sets.files import read_bytes
from labctl.learning.sets.plain_pickle import NotPlain, read_plain

RECORD = 1 + 3 * 32 * 32
CLASSES = 10


def read_cifar10(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read one CIFAR-10 binary batch: images uint8 [n, 3, 32, 32] (red, green, blue) and labels uint8 [n].

    Raises
    ------
    DataError
        The size is no whole number of 3073-byte records, or a label is above 9.
    """
    content = read_bytes(path)
    if not content or len(content) % RECORD:
        raise DataError(
            f"{path}: is truncated or no CIFAR-10 binary batch ({len(content)} bytes is not a whole number of "
            f"{RECORD}-byte records); fetch it again"
        )
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, RECORD)
    labels = records[:, 0]
    if labels.max() >= CLASSES:
        raise DataError(
            f"{path}: is no CIFAR-10 binary batch (a label is {labels.max()}, expected 0 to 9); fetch it again"
        )
    return records[:, 1:].reshape(-1, 3, 32, 32), labels


def read_cifar10_python(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read one CIFAR-10 batch of the Python version: images uint8 [n, 3, 32, 32] and labels uint8 [n].

    Raises
    ------
    DataError
        Truncated, damaged, no pickle of a batch, or a pickle that holds more than plain data: that is never run.
    """
    content = read_bytes(path)
    try:
        batch = read_plain(content)
    except NotPlain as error:
        raise DataError(
            f"{path}: is truncated or no CIFAR-10 Python batch ({error}); fetch cifar-10-python.tar.gz again"
        ) from error
    held = {_text(key): value for key, value in batch.items()} if isinstance(batch, dict) else {}
    images, labels = held.get("data"), held.get("labels")
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != 3072:
        raise DataError(
            f"{path}: is no CIFAR-10 Python batch (no data of uint8 [n, 3072]); put the original file there"
        )
    if not isinstance(labels, list) or len(labels) != len(images) or not labels:
        raise DataError(f"{path}: is no CIFAR-10 Python batch (no label for each of {len(images)} images)")
    if not all(type(label) is int and 0 <= label < CLASSES for label in labels):
        raise DataError(f"{path}: is no CIFAR-10 Python batch (a label is not 0 to 9); put the original file there")
    return images.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.uint8)


def _text(key: object) -> str:
    return key.decode("latin-1") if isinstance(key, bytes) else str(key)
