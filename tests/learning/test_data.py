"""Readers of the original formats, the search order, and the shipped subset."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from labctl.errors import DataError, LabctlError
from labctl.learning.data import balanced_order, default_dir, fetch_hint, find_sets, load
from labctl.learning.sets.idx import read_idx

from .conftest import idx_bytes, write_fashion

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


@pytest.mark.parametrize("compress", [True, False])
def test_reads_the_original_files(tmp_path: Path, compress: bool) -> None:
    folder = write_fashion(tmp_path, compress=compress)
    found = load("fashion-mnist", "train", data_dir=folder)
    assert found.images.shape == (200, 1, 28, 28) and found.images.dtype == torch.float32
    assert found.labels.dtype == torch.int64 and found.labels[:10].tolist() == list(range(10))
    assert float(found.images.min()) >= 0 and float(found.images.max()) <= 1
    assert (found.source, len(found.classes)) == ("full set", 10)


def test_finds_the_set_in_the_collection_that_holds_it(tiny_data: Path) -> None:
    by_collection = load("fashion-mnist", "test", data_dir=tiny_data.parent)
    assert by_collection.sha256 == load("fashion-mnist", "test", data_dir=tiny_data).sha256


def test_environment_comes_before_the_shipped_subset(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABCTL_DATA", str(tiny_data.parent))
    assert len(load("fashion-mnist", "test")) == 60
    assert default_dir() == tiny_data.parent
    assert str(tiny_data.parent) in fetch_hint("fashion-mnist")
    assert len(load("fashion-mnist", "test", source="shipped")) == 1000


def damage(folder: Path, name: str, change: object) -> None:
    path = folder / name
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]


def recompress(change: object) -> object:
    return lambda raw: gzip.compress(change(gzip.decompress(raw)), mtime=0)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        (IMAGES, lambda raw: raw[: len(raw) // 2], "truncated"),
        (IMAGES, lambda raw: raw[:1], "no gzip file"),
        (IMAGES, lambda raw: b"", "no gzip file"),
        (IMAGES, lambda raw: b"<html>404</html>", "no gzip file"),
        (IMAGES, lambda raw: raw[:20] + bytes(200) + raw[220:], "damaged|truncated"),
        (IMAGES, recompress(lambda raw: raw[:-1]), "truncated"),
        (IMAGES, recompress(lambda raw: raw + b"x"), "bytes after its end"),
        (IMAGES, recompress(lambda raw: raw[:3]), "truncated"),
        (IMAGES, recompress(lambda raw: raw[:9]), "header is cut off"),
        (IMAGES, recompress(lambda raw: b"GIF89a" + raw), "no IDX file"),
        (IMAGES, recompress(lambda raw: idx_bytes(np.zeros(200))), "holds labels, expected images"),
        (IMAGES, recompress(lambda raw: idx_bytes(np.zeros((200, 32, 32)))), "32x32"),
        (IMAGES, recompress(lambda raw: raw[:4] + b"\xff" * 12), "truncated"),
        (LABELS, recompress(lambda raw: idx_bytes(np.zeros(199))), "200 images but .* 199 labels"),
        (LABELS, recompress(lambda raw: idx_bytes(np.full(200, 10))), "label 10"),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(tiny_data: Path, name: str, change: object, says: str) -> None:
    damage(tiny_data, name, change)
    with pytest.raises(DataError, match=says) as caught:
        load("fashion-mnist", "train", data_dir=tiny_data)
    assert name.removesuffix(".gz")[:12] in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_full_set_is_not_silently_replaced_by_the_subset(
    tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(tiny_data, IMAGES, lambda raw: raw[:100])
    monkeypatch.setenv("LABCTL_DATA", str(tiny_data.parent))
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tiny_data.parent))
    with pytest.raises(DataError, match=IMAGES):
        load("fashion-mnist", "train")
    assert any(IMAGES in place.problem for place in find_sets())


def test_a_missing_half_is_named(tiny_data: Path) -> None:
    (tiny_data / LABELS).unlink()
    with pytest.raises(DataError, match="train-labels-idx1-ubyte is missing"):
        load("fashion-mnist", "train", data_dir=tiny_data)


def test_absent_sets_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="to get them"):
        load("fashion-mnist", "train", data_dir=tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        load("fashion-mnist", "train", data_dir=tmp_path / "nowhere")
    with pytest.raises(LabctlError, match="did you mean 'fashion-mnist'"):
        load("fasion-mnist", "train")
    with pytest.raises(DataError, match="limit"):
        load("fashion-mnist", "test", source="shipped", limit=0)


def test_cifar10_binary(tmp_path: Path) -> None:
    folder = tmp_path / "cifar10"
    folder.mkdir()
    records = np.random.default_rng(0).integers(0, 256, (20, 3073)).astype(np.uint8)
    records[:, 0] = np.arange(20) % 10
    (folder / "test_batch.bin").write_bytes(records.tobytes())
    found = load("cifar10", "test", data_dir=folder)
    assert found.images.shape == (20, 3, 32, 32)
    assert float(found.images[3, 2, 31, 31] * 255) == pytest.approx(int(records[3, -1]))
    (folder / "test_batch.bin").write_bytes(records.tobytes()[:-5])
    with pytest.raises(DataError, match=r"test_batch\.bin: is truncated"):
        load("cifar10", "test", data_dir=folder)
    with pytest.raises(DataError, match="to get them"):
        load("cifar10", "train", data_dir=folder)


def test_the_shipped_subset_is_balanced_and_honestly_named() -> None:
    train, test = (load("fashion-mnist", split, source="shipped") for split in ("train", "test"))  # type: ignore[arg-type]
    assert train.labels.bincount().tolist() == [500] * 10
    assert test.labels.bincount().tolist() == [100] * 10
    assert train.source == test.source == "shipped subset"
    assert train.images.shape[1:] == test.images.shape[1:] == (1, 28, 28)
    assert (train.folder / "LICENSE").is_file()
    size = sum(path.stat().st_size for path in train.folder.iterdir())
    assert size < 3_200_000


def test_limit_is_balanced_seeded_and_a_subset() -> None:
    some = load("fashion-mnist", "test", source="shipped", limit=205, seed=3)
    counts = some.labels.bincount()
    assert len(some) == 205 and int(counts.max()) - int(counts.min()) <= 1
    assert some.sha256 == load("fashion-mnist", "test", source="shipped", limit=205, seed=3).sha256
    assert some.sha256 != load("fashion-mnist", "test", source="shipped", limit=205, seed=4).sha256


def test_balanced_order_is_a_permutation_with_balanced_prefixes() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    order = balanced_order(labels, None)
    assert sorted(order) == list(range(7))
    assert labels[order].tolist() == [0, 1, 2, 0, 1, 0, 0]
    assert order.tolist() == [0, 4, 6, 1, 5, 2, 3]


def test_idx_dimensions_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(idx_bytes(np.zeros((2, 3, 4))))
    with pytest.raises(DataError, match="holds images, expected labels"):
        read_idx(path, dims=1)
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path / "absent", dims=1)
