"""Fetching the public sets from where their authors, or mirrors, offer them.

A file comes in under a name of its own, `NAME.part`, and gets its real name only when its SHA-256 is the published one.
What was cut off is gone on with, where the server can do that.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import ssl
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from labctl.errors import DataError
from labctl.learning.sets.cifar import RECORD
from labctl.learning.sets.known import KNOWN, KnownSet, RemoteFile
from labctl.learning.sets.npz import digest_of
from labctl.learning.sets.official import read_split, split_files
from labctl.learning.sets.places import collections

TIMEOUT_S = 30.0
BLOCK = 1 << 16
#: Called with the file's name, bytes that are here, and bytes in all.
Progress = Callable[[str, int, int], None]


def fetch_set(
    name: str,
    *,
    data_dir: Path | None = None,
    mirror: str | None = None,
    progress: Progress | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Path:
    """Fetch a public image set in its original format.

    Parameters
    ----------
    name
        One of `labctl.learning.data.KNOWN`. A set that is drawn from another fetches that one.
    data_dir
        The collection to put it in; default: where full sets belong.
    mirror
        An http(s) address to fetch the files from instead, for a computer without the internet. The checksums are the
        same, so that it need not be trusted.
    timeout_s
        How long a silent server is waited for.

    Returns
    -------
    The folder of the set. What is there already and is right is not fetched again.

    Raises
    ------
    DataError
        No such set, no network, a server that has not the file, a checksum that is wrong, or a full disk. Says what to
        do; a file that is not right never gets its real name.
    """
    if name not in KNOWN:
        raise DataError(
            f"{name!r} has no public address (known sets: {', '.join(KNOWN)}); `labctl data add` adds files"
        )
    known = KNOWN[KNOWN[name].folder_name]
    folder = collections(data_dir)[0] / known.name
    if not known.files:
        raise DataError(f"{name} has no public address: {known.hint.format(folder=folder)}")
    addresses = known.addresses if mirror is None else (_checked_mirror(mirror),)
    if _is_genuine(known, folder):
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in known.files:
            _fetch_file(known, file, folder, addresses, progress, timeout_s)
        if known.format == "cifar10":
            _unpack(folder / known.files[0].name, folder)
        _check(known, folder)
        if known.format == "cifar10":
            (folder / known.files[0].name).unlink()
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror or error}); see to it and fetch again"
        ) from error
    finally:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    return folder


def _is_genuine(known: KnownSet, folder: Path) -> bool:
    try:
        _check(known, folder)
    except DataError:
        return False
    return True


def _checked_mirror(mirror: str) -> str:
    parts = urllib.parse.urlsplit(mirror)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise DataError(f"{mirror!r} is no address to fetch from; give one that starts with http:// or https://")
    return mirror.rstrip("/")


def _fetch_file(
    known: KnownSet,
    file: RemoteFile,
    folder: Path,
    addresses: tuple[str, ...],
    progress: Progress | None,
    timeout_s: float,
) -> None:
    """One file, from the first address that gives the right one."""
    target, part = folder / file.name, folder / f"{file.name}.part"
    if target.is_file() and target.stat().st_size == file.size and _sha256(target) == file.sha256:
        if progress is not None:
            progress(file.name, file.size, file.size)
        return
    failures: dict[str, list[str]] = {}
    for address in addresses:
        url = f"{address}/{file.name}"
        try:
            _receive(url, part, file, progress, timeout_s)
        except (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, TimeoutError, ConnectionError) as error:
            failures.setdefault(_reason(error), []).append(url)
            continue
        held = part.stat().st_size
        if held == file.size and _sha256(part) == file.sha256:
            os.replace(part, target)
            return
        if held < file.size:
            failures.setdefault(f"stopped after {held} of {file.size} bytes", []).append(url)
            continue
        part.unlink()
        failures.setdefault("is not the published file, its SHA-256 differs", []).append(url)
    why = "; ".join(f"{', '.join(urls)}: {reason}" for reason, urls in failures.items())
    raise DataError(
        f"{known.name}: {file.name} could not be fetched ({why}); the same command goes on where it "
        f"stopped, or {known.hint.split(', or ', 1)[-1].format(folder=folder)}"
    )


def _receive(url: str, part: Path, file: RemoteFile, progress: Progress | None, timeout_s: float) -> None:
    """Append to `part` what is missing of a file, or begin again where the server cannot go on."""
    held = part.stat().st_size if part.is_file() else 0
    if held >= file.size:
        # whole, and wrong: it had been renamed otherwise
        part.unlink()
        held = 0
    headers = {"User-Agent": "labctl"} | ({"Range": f"bytes={held}-"} if held else {})
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:
        goes_on = held > 0 and answer.status == http.HTTPStatus.PARTIAL_CONTENT
        if goes_on and not str(answer.headers.get("Content-Range", "")).startswith(f"bytes {held}-"):
            raise http.client.HTTPException("the server went on at another place than it was asked to")
        done = held if goes_on else 0
        with part.open("ab" if goes_on else "wb") as out:
            while done <= file.size and (block := answer.read(BLOCK)):
                out.write(block)
                done += len(block)
                if progress is not None:
                    progress(file.name, min(done, file.size), file.size)
            out.flush()
            os.fsync(out.fileno())


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        return f"the server answers {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return f"no connection, is there a network? ({error.reason})"
    return f"the connection broke ({error or type(error).__name__})"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack CIFAR-10's batches, and nothing else: members are looked for by name and written by us."""
    target = folder / "cifar-10-batches-bin"
    work = folder / f".unpacking.{uuid4().hex[:8]}"
    wanted = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin", "batches.meta.txt"]
    try:
        work.mkdir()
        with tarfile.open(archive, "r:gz") as tar:
            for name in wanted:
                content = tar.extractfile(f"{target.name}/{name}")
                if content is None:
                    raise KeyError(name)
                with content, (work / name).open("wb") as out:
                    shutil.copyfileobj(content, out)
        batches = [path.stat().st_size for path in work.glob("*.bin")]
        if any(size % RECORD for size in batches):
            raise DataError(f"{archive}: a batch in it is cut off; delete it and fetch it again")
        target.mkdir(exist_ok=True)
        for name in wanted:
            os.replace(work / name, target / name)
    except (tarfile.TarError, KeyError, EOFError, zlib.error) as error:
        raise DataError(f"{archive}: cannot be unpacked ({error}); delete it and fetch it again") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check(known: KnownSet, folder: Path) -> None:
    """Read what was fetched as `load` will, and compare it with what is known of it."""
    inner = folder / "cifar-10-batches-bin" if known.format == "cifar10" else folder
    for split in known.splits:
        files = split_files(known.format, inner, split)
        if not files:
            raise DataError(f"{folder}: has no {split} images")
        if digest_of(*read_split(known, files, split)) != known.digests[split]:
            raise DataError(f"{folder}: the {split} images are not those of {known.name}; delete it and fetch again")
