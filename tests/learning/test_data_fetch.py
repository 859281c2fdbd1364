"""Fetching public sets, from a server of the test's own."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from labctl.cli import data as data_cli
from labctl.errors import DataError
from labctl.learning.data import load
from labctl.learning.sets.fetching import fetch_set
from labctl.learning.sets.known import KNOWN, RemoteFile
from labctl.learning.sets.npz import digest_of

from .conftest import idx_bytes

RNG = np.random.default_rng(3)


class Server(http.server.ThreadingHTTPServer):
    """Files by name, with what each request asked for; some answers can be made to fail."""

    daemon_threads = False
    block_on_close = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.cut: int | None = None
        self.ranges = True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name, wanted = self.path.lstrip("/"), self.headers.get("Range")
        self.server.asked.append((name, wanted))
        content = self.server.files.get(name)
        if content is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = None if self.server.cut is None else self.server.cut
        self.wfile.write(content[start:end])

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def mnist(server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A small MNIST, on the server and in place of the real one; gives the files."""
    files, remote, digests = {}, [], {}
    for split, stem, count in (("train", "train", 30), ("test", "t10k", 10)):
        images = RNG.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        digests[split] = digest_of(images[:, None], labels)
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            files[f"{stem}-{kind}-ubyte.gz"] = gzip.compress(idx_bytes(values), mtime=0)
    for name, content in files.items():
        remote.append(RemoteFile(name, len(content), hashlib.sha256(content).hexdigest()))
    known = replace(KNOWN["mnist"], digests=digests, addresses=(server.address,), files=tuple(remote))
    monkeypatch.setitem(KNOWN, "mnist", known)
    server.files = dict(files)
    return files


def test_a_set_is_fetched_checked_and_loaded(server: Server, mnist: dict[str, bytes], tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    folder = fetch_set("mnist", data_dir=tmp_path, progress=lambda *at: seen.append(at))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == mnist
    assert len(load("mnist", "train", data_dir=tmp_path)) == 30
    assert [name for name, done, total in seen if done == total] == list(mnist)
    asked = len(server.asked)
    assert fetch_set("mnist", data_dir=tmp_path) == folder and len(server.asked) == asked


def test_what_broke_off_goes_on_where_it_stopped(server: Server, mnist: dict[str, bytes], tmp_path: Path) -> None:
    server.cut = 500
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz could not be fetched .*stopped after 500 of"):
        fetch_set("mnist", data_dir=tmp_path)
    assert (tmp_path / "mnist" / "train-images-idx3-ubyte.gz.part").stat().st_size == 500
    assert not (tmp_path / "mnist" / "train-images-idx3-ubyte.gz").exists()
    server.cut = None
    fetch_set("mnist", data_dir=tmp_path)
    assert ("train-images-idx3-ubyte.gz", "bytes=500-") in server.asked
    assert (tmp_path / "mnist" / "train-images-idx3-ubyte.gz").read_bytes() == mnist["train-images-idx3-ubyte.gz"]
    assert not list((tmp_path / "mnist").glob("*.part"))


def test_a_server_that_cannot_go_on_starts_again(server: Server, mnist: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "train-images-idx3-ubyte.gz.part").write_bytes(b"something else")
    server.ranges = False
    fetch_set("mnist", data_dir=tmp_path)
    assert (tmp_path / "mnist" / "train-images-idx3-ubyte.gz").read_bytes() == mnist["train-images-idx3-ubyte.gz"]


@pytest.mark.parametrize("change", [lambda raw: raw[:-1] + b"?", lambda raw: raw + b"more", lambda raw: raw[:-5]])
def test_a_file_that_is_not_the_published_one_never_gets_its_name(
    server: Server, mnist: dict[str, bytes], tmp_path: Path, change: object
) -> None:
    name = "t10k-labels-idx1-ubyte.gz"
    server.files[name] = change(server.files[name])  # type: ignore[operator]
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz could not be fetched .*(SHA-256|stopped after)"):
        fetch_set("mnist", data_dir=tmp_path)
    assert not (tmp_path / "mnist" / name).exists()


def test_the_next_address_is_tried(
    server: Server, mnist: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = (f"{server.address}/elsewhere", server.address)
    monkeypatch.setitem(KNOWN, "mnist", replace(KNOWN["mnist"], addresses=addresses))
    fetch_set("mnist", data_dir=tmp_path)
    assert ("elsewhere/train-images-idx3-ubyte.gz", None) in server.asked


def test_without_a_network_one_line_says_what_to_do(mnist: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no connection, is there a network\?.*put the four files") as caught:
        fetch_set("mnist", data_dir=tmp_path, mirror="http://127.0.0.1:1", timeout_s=5)
    assert "\n" not in str(caught.value) and not (tmp_path / "mnist").exists()
    with pytest.raises(DataError, match="the server answers 404"):
        fetch_set("mnist", data_dir=tmp_path, mirror=KNOWN["mnist"].addresses[0] + "/nowhere")
    with pytest.raises(DataError, match="is no address"):
        fetch_set("mnist", data_dir=tmp_path, mirror="file:///etc")


def test_sets_without_an_address_say_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="camvid-small has no public address"):
        fetch_set("camvid-small", data_dir=tmp_path)
    with pytest.raises(DataError, match="labctl data add"):
        fetch_set("my-beads", data_dir=tmp_path)


def archive(batches: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in batches.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def test_cifar_is_unpacked_and_nothing_else_is(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = RNG.integers(0, 10, (12, 3073)).astype(np.uint8)
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    parts = {f"cifar-10-batches-bin/{name}": records[2 * i : 2 * i + 2].tobytes() for i, name in enumerate(names)}
    parts |= {"cifar-10-batches-bin/batches.meta.txt": b"airplane\n", "../../escaped": b"x"}
    content = archive(parts)
    pixels, labels = records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]
    digests = {"train": digest_of(pixels[:10], labels[:10]), "test": digest_of(pixels[10:], labels[10:])}
    remote = RemoteFile("cifar-10-binary.tar.gz", len(content), hashlib.sha256(content).hexdigest())
    known = replace(KNOWN["cifar10"], digests=digests, addresses=(server.address,), files=(remote,))
    monkeypatch.setitem(KNOWN, "cifar10", known)
    server.files[remote.name] = content
    base = tmp_path / "a" / "b"
    result = CliRunner().invoke(data_cli.app, ["fetch", "cats-dogs", "--data-dir", str(base)])
    assert result.exit_code == 0 and "cats-dogs  genuine" in result.output
    assert sorted(path.name for path in (base / "cifar10").iterdir()) == ["cifar-10-batches-bin"]
    assert not list(tmp_path.rglob("escaped"))
    assert len(load("cifar10", "train", data_dir=base)) == 10
    del parts["cifar-10-batches-bin/data_batch_3.bin"]
    content = archive(parts)
    remote = RemoteFile(remote.name, len(content), hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(KNOWN, "cifar10", replace(known, files=(remote,)))
    server.files[remote.name] = content
    with pytest.raises(DataError, match="cannot be unpacked"):
        fetch_set("cifar10", data_dir=tmp_path / "c")
    assert [path.name for path in (tmp_path / "c" / "cifar10").iterdir()] == [remote.name]
