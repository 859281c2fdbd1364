"""Readers of the original formats: what is damaged in any way is a DataError that names the file, never a traceback."""

from __future__ import annotations

import contextlib
import gzip
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from labctl.errors import DataError
from labctl.learning.data import find_sets, load
from labctl.learning.sets.cifar import RECORD, read_cifar10, read_cifar10_python
from labctl.learning.sets.idx import read_idx
from labctl.learning.sets.npz import classes_of, read_npz, splits_of
from labctl.learning.sets.plain_pickle import NotPlain, read_plain

from .conftest import idx_bytes

RNG = np.random.default_rng(5)
IDX = idx_bytes(RNG.integers(0, 256, (5, 4, 3)))
PIXELS = RNG.integers(0, 256, (6, 3072)).astype(np.uint8)
LABELS = [3, 5, 0, 9, 3, 5]


def read_or_refused(path: Path, read: Callable[[], Any]) -> Any:
    """What a reader gives, or None when it refuses the file by name; anything else that it raises fails the test."""
    try:
        return read()
    except DataError as error:
        said = str(error)
    assert str(path) in said and "\n" not in said
    return None


def records() -> bytes:
    return np.concatenate([np.array(LABELS, dtype=np.uint8)[:, None], PIXELS], axis=1).tobytes()


def python2_batch() -> bytes:
    """A batch as cPickle of Python 2 wrote CIFAR-10's own: protocol 2, byte strings, numpy's names of then."""
    short = lambda text: b"U" + bytes([len(text)]) + text  # noqa: E731
    shape = b"K" + bytes([len(PIXELS)]) + b"M\x00\x0c\x86"
    dtype = (
        b"cnumpy\ndtype\nq\x09"
        + short(b"u1")
        + b"K\x00K\x01\x87Rq\x0a(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85U\x01b\x87Rq\x08(K\x01" + (
        shape + dtype + b"\x89T" + PIXELS.nbytes.to_bytes(4, "little") + PIXELS.tobytes() + b"tb"
    )
    labels = b"]q\x04(" + b"".join(b"K" + bytes([label]) for label in LABELS) + b"e"
    names = b"]q\x0c(" + b"".join(short(b"cat_s_%06d.png" % i) for i in range(6)) + b"e"
    items = (
        (b"batch_label", short(b"training batch 1 of 5")),
        (b"labels", labels),
        (b"data", array),
        (b"filenames", names),
    )
    return b"\x80\x02}q\x01(" + b"".join(short(key) + value for key, value in items) + b"u."


def python3_batch(protocol: int) -> bytes:
    names = [f"cat_s_{i:06d}.png" for i in range(6)]
    batch = {b"batch_label": b"x", b"labels": LABELS, b"data": PIXELS, b"filenames": names}
    return pickle.dumps(batch, protocol=protocol)


@given(st.integers(0, len(IDX) - 1))
def test_a_truncated_idx_file_is_refused(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    path = tmp_path_factory.mktemp("idx") / "train-images-idx3-ubyte"
    path.write_bytes(IDX[:length])
    with pytest.raises(DataError, match=r"ubyte: is truncated"):
        read_idx(path, dims=3)


@given(st.integers(0, 16 * 8 - 1))
def test_a_flipped_bit_in_an_idx_header_is_refused(tmp_path_factory: pytest.TempPathFactory, bit: int) -> None:
    content = bytearray(IDX)
    content[bit // 8] ^= 1 << bit % 8
    path = tmp_path_factory.mktemp("idx") / "images"
    path.write_bytes(content)
    with pytest.raises(DataError, match="images: "):
        read_idx(path, dims=3)


@given(st.integers(0, 200), st.integers(0, 255))
def test_a_changed_byte_in_a_gzip_file_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int
) -> None:
    content = bytearray(gzip.compress(IDX, mtime=0))
    content[at % len(content)] = value
    path = tmp_path_factory.mktemp("idx") / "images.gz"
    path.write_bytes(content)
    read = read_or_refused(path, lambda: read_idx(path, dims=3))
    # some bytes of gzip's header say nothing about the content
    assert read is None or idx_bytes(read) == IDX


@given(st.integers(0, 6 * RECORD - 1))
def test_a_cifar_batch_cut_within_a_record_is_refused(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    path = tmp_path_factory.mktemp("cifar") / "test_batch.bin"
    path.write_bytes(records()[:length])
    if length % RECORD or not length:
        with pytest.raises(DataError, match=r"test_batch\.bin: is truncated"):
            read_cifar10(path)
    else:
        assert len(read_cifar10(path)[1]) == length // RECORD


def test_a_cifar_batch_cut_between_records_shows_beside_the_others(tmp_path: Path) -> None:
    for number in range(1, 6):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(records()[: (5 if number == 4 else 6) * RECORD])
    with pytest.raises(DataError, match=r"data_batch_4\.bin: is truncated \(5 images, the batches beside it hold 6"):
        load("cifar10", "train", data_dir=tmp_path)


@pytest.mark.parametrize(
    "content", [python2_batch(), *(python3_batch(protocol) for protocol in (1, 2, 3, 4))], ids=["2.7", *"1234"]
)
def test_python_batches_read_as_the_binary_ones(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "py").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "py" / "test_batch").write_bytes(content)
    (tmp_path / "bin" / "test_batch.bin").write_bytes(records())
    assert pickle.loads(content, encoding="bytes")[b"labels"] == LABELS  # noqa: S301  # the real reader agrees
    one, other = (load("cifar10", "test", data_dir=tmp_path / name) for name in ("py", "bin"))
    assert one.sha256 == other.sha256 and one.labels.tolist() == LABELS
    assert [place.test for place in find_sets(tmp_path / "py") if place.name == "cats-dogs"] == [4]


def test_cats_dogs_are_the_third_and_fifth_class_of_cifar(tmp_path: Path) -> None:
    (tmp_path / "cifar10" / "cifar-10-batches-py").mkdir(parents=True)
    (tmp_path / "cifar10" / "cifar-10-batches-py" / "test_batch").write_bytes(python2_batch())
    both = load("cats-dogs", "test", data_dir=tmp_path)
    assert both.labels.tolist() == [0, 1, 0, 1] and both.classes == ("cat", "dog")
    assert (both.images[1] * 255).round().numpy().astype(np.uint8).tobytes() == PIXELS[1].tobytes()


@given(st.integers(0, len(python2_batch()) - 1))
@example(0)
@example(len(python2_batch()) - 1)
def test_a_truncated_python_batch_is_refused(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    path = tmp_path_factory.mktemp("cifar") / "data_batch_1"
    path.write_bytes(python2_batch()[:length])
    with pytest.raises(DataError, match="data_batch_1: is truncated or no CIFAR-10 Python batch"):
        read_cifar10_python(path)


@given(st.integers(0, 250), st.integers(0, 255))
def test_a_changed_byte_in_a_python_batch_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int
) -> None:
    content = bytearray(python2_batch())
    content[at] = value
    path = tmp_path_factory.mktemp("cifar") / "data_batch_1"
    path.write_bytes(content)
    read = read_or_refused(path, lambda: read_cifar10_python(path))
    assert read is None or (read[0].shape == (6, 3, 32, 32) and read[1].max() < 10)


class Evil:
    """What a pickle may do to whoever loads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_pickle_that_would_run_something_is_refused_and_does_not_run(tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "was-here"
    batch = {"labels": LABELS, "data": PIXELS, "x": Evil(trace)}
    with pytest.raises(NotPlain):
        read_plain(pickle.dumps(batch, protocol=protocol))
    assert not trace.exists()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**31), 2**31 - 1) | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
        max_leaves=20,
    ),
    st.sampled_from([2, 3, 4]),
)
def test_plain_data_reads_as_the_real_reader_reads_it(value: object, protocol: int) -> None:
    assert read_plain(pickle.dumps(value, protocol=protocol)) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_plain_data_or_refused(content: bytes) -> None:
    with contextlib.suppress(NotPlain):
        read_plain(content)


def npz(path: Path, *, compress: bool = False, **arrays: np.ndarray) -> Path:
    (np.savez_compressed if compress else np.savez)(path, **arrays)  # type: ignore[operator]
    return path


def small(n: int = 4) -> dict[str, np.ndarray]:
    return {"x_train": RNG.integers(0, 256, (n, 6, 5, 3)).astype(np.uint8), "y_train": np.arange(n)}


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("rows", [6, 600])
def test_npz_with_and_without_compression_small_and_mapped(tmp_path: Path, compress: bool, rows: int) -> None:
    images = RNG.integers(0, 256, (200, rows, 10)).astype(np.uint8)
    path = npz(tmp_path / "a.npz", compress=compress, x_train=images, y_train=np.arange(200, dtype=np.int64))
    read, labels = read_npz(path, "train")
    assert isinstance(read.base, np.memmap) == (rows == 600 and not compress)
    np.testing.assert_array_equal(read[:, 0], images)
    assert labels.dtype == np.uint8 and labels.tolist() == list(range(200))
    assert splits_of(path) == {"train": 200} and classes_of(path) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x_train": np.zeros((4, 6, 5), dtype=np.float32)}, "x_train is float32"),
        ({"x_train": np.zeros((4, 3, 6, 5), dtype=np.uint8)}, r"1 or 3\s+channels"),
        ({"x_train": np.zeros((0, 6, 5), dtype=np.uint8)}, "is empty"),
        ({"y_train": np.zeros((4, 10), dtype=np.uint8)}, r"y_train is uint8 \[4, 10\]"),
        ({"y_train": np.array([0, 1, 2, 300])}, "labels 0 to 300"),
        ({"y_train": np.array([0, 1, 2, -1])}, "labels -1 to 2"),
        ({"y_train": np.array([0, 1, 2, None], dtype=object)}, "Python objects"),
        ({"y_train": np.array([0.0, 1, 2, 3])}, "y_train is float64"),
    ],
)
def test_npz_of_the_wrong_kind_is_refused(tmp_path: Path, change: dict[str, np.ndarray], says: str) -> None:
    path = npz(tmp_path / "a.npz", **(small() | change))
    with pytest.raises(DataError, match=says) as caught:
        read_npz(path, "train")
    assert str(path) in str(caught.value)


def test_npz_that_lacks_an_array_or_is_none(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", **small())
    with pytest.raises(DataError, match=r"has no array x_test \(it has x_train, y_train\)"):
        read_npz(path, "test")
    path.write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(DataError, match=r"no \.npz file"):
        splits_of(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", b"\x93NUMPY\x03\x00 something")
    with pytest.raises(DataError, match="version"):
        splits_of(path)


NPZ, SMALL = io.BytesIO(), small(2)
np.savez(NPZ, **SMALL)  # type: ignore[arg-type]


def read_npz_bytes() -> bytes:
    return np.ascontiguousarray(SMALL["x_train"].transpose(0, 3, 1, 2)).tobytes()


@given(st.integers(0, len(NPZ.getvalue()) - 1))
def test_a_truncated_npz_is_refused(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    path.write_bytes(NPZ.getvalue()[:length])
    with pytest.raises(DataError, match=r"a\.npz: "):
        read_npz(path, "train")


@given(st.integers(0, len(NPZ.getvalue()) - 1), st.integers(0, 7))
def test_a_flipped_bit_in_an_npz_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, at: int, bit: int
) -> None:
    content = bytearray(NPZ.getvalue())
    content[at] ^= 1 << bit
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    path.write_bytes(content)
    read = read_or_refused(path, lambda: read_npz(path, "train"))
    # time stamps, rights and the like may change; pixels have a checksum
    assert read is None or read[0].tobytes() == read_npz_bytes()
