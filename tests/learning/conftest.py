"""Small data sets in the original formats, and a recipe that trains on them in about a second."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

TINY_RECIPE = """
name = "tiny"
[data]
name = "fashion-mnist"
validation = 40
[teacher]
widths = [4, 4]
epochs = 2
batch = 40
[student]
maps = 2
kernel_sizes = [3, 3]
epochs = 3
batch = 40
seeds = [0, 1]
arms = ["distilled", "undistilled"]
[student.augment]
flip = true
shift_px = 1
views = 2
[student.backend]
hidden = 8
[robustness]
gain = 0.1
offset = 0.1
noise = 0.1
"""


def idx_bytes(values: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes."""
    header = bytes([0, 0, 8, values.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in values.shape)
    return header + values.astype(np.uint8).tobytes()


def write_fashion(folder: Path, *, train: int = 200, test: int = 60, compress: bool = True) -> Path:
    """A made-up set in Fashion-MNIST's format: class k is a bright bar at row 2k, on noise."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    for stem, count in (("train", train), ("t10k", test)):
        labels = np.arange(count) % 10
        images = rng.integers(0, 60, (count, 28, 28))
        for image, label in zip(images, labels, strict=True):
            image[2 * label + 3 : 2 * label + 5] += 180
        for kind, values in ((f"{stem}-images-idx3-ubyte", images), (f"{stem}-labels-idx1-ubyte", labels)):
            content = idx_bytes(values)
            path = folder / (kind + (".gz" if compress else ""))
            path.write_bytes(gzip.compress(content, mtime=0) if compress else content)
    return folder


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """These networks are too small for two threads, and with tests in parallel, waiting threads cost ten times more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny_data(tmp_path: Path) -> Path:
    """Folder of a tiny set, 200 training and 60 test images."""
    return write_fashion(tmp_path / "data" / "fashion-mnist")


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> Path:
    """A recipe file for it."""
    path = tmp_path / "tiny.toml"
    path.write_text(TINY_RECIPE, encoding="utf-8")
    return path
