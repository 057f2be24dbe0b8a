"""Trained prefixes on disk or in an object store, by the hash of all that they depend on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.torch import load, save

from autocompress.prefix import Trained

LOCK_DAYS = 7
"""When a lock that nobody took since is removed."""


class DamagedEntry(Exception):
    """An entry's bytes are not those that were written."""


class Store:
    """A content-addressed store with a size limit, in a folder or at any URL that fsspec knows (`s3://...`).

    An entry is one file that appears whole: a line with the SHA-256 of what follows, a line of JSON with the plans, and
    safetensors. It is never changed, at most replaced, so reading needs no lock. Where the limit is exceeded, what was
    not used for longest is removed; an object store that cannot tell when it was read counts from when it was written.
    In a folder, files can be read and written by those who can do so with the folder.
    """

    def __init__(self, url: str | Path, limit_bytes: int) -> None:
        self._files, root = fsspec.core.url_to_fs(str(url))
        self._root, self._limit = str(root).rstrip("/"), limit_bytes
        self._local = isinstance(self._files, LocalFileSystem)
        self._locks = Path(self._root) / "locks" if self._local else _locks_of(str(url))

    def check(self) -> None:
        """Write and read as a search will; raises what the file system does, and ValueError for one of one process."""
        if isinstance(self._files, MemoryFileSystem):
            raise ValueError("each process has a memory:// of its own, and workers are processes")
        probe = f"{self._make_folder()}/.{uuid.uuid4().hex}"
        self._files.pipe_file(probe, b"written")
        try:
            if self._files.cat_file(probe) != b"written":
                raise OSError("what is read is not what was written")
        finally:
            self._files.rm_file(probe)
        self._make_locks()
        self._forget_locks()

    def get(self, key: str) -> Trained | None:
        """The entry, or None where there is none; a damaged one is removed."""
        path = self._path(key)
        try:
            found = _decode(self._files.cat_file(path))
        except FileNotFoundError:
            return None
        except DamagedEntry as damage:
            print(f"the stored training {key[:12]} is damaged ({damage}): removed")
            self.remove(key)
            return None
        with contextlib.suppress(Exception):  # another user's, removed meanwhile, no such thing there
            self._files.touch(path, truncate=False)
        return found

    def put(self, key: str, trained: Trained) -> None:
        """Keep an entry, unless it alone exceeds the limit."""
        data = _encode(trained)
        if len(data) > self._limit:
            print(f"the training is not stored: its {len(data)} bytes exceed the limit of {self._limit}")
            return
        partial = f"{self._make_folder()}/.{key}.{uuid.uuid4().hex}"
        try:
            self._files.pipe_file(partial, data)
            if self._local:
                Path(partial).chmod(_mode_in(Path(partial).parent))
            self._files.mv(partial, self._path(key))
        except BaseException:  # half of it, where the disk is full
            with contextlib.suppress(Exception):
                self._files.rm_file(partial)
            raise
        self._evict()

    def remove(self, key: str) -> None:
        """Remove an entry, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._path(key))

    def lock(self, key: str) -> FileLock:
        """Held by whoever trains a prefix; a dead holder frees it.

        It lies in the folder itself, so that it holds on all nodes that share it; for an object store it is one a node.
        Raises OSError where there can be none.
        """
        self._make_locks()
        return FileLock(self._locks / f"{key}.lock", mode=_mode_in(self._locks))

    def _make_folder(self) -> str:
        folder = f"{self._root}/entries"
        if self._local:
            _make_like_its_parent(Path(folder))
        else:
            self._files.makedirs(folder, exist_ok=True)
        return folder

    def _make_locks(self) -> None:
        if self._local:
            _make_like_its_parent(self._locks)
        else:
            self._locks.mkdir(parents=True, exist_ok=True)

    def _forget_locks(self) -> None:
        """Those that nobody took for days; who holds one so long may have its prefix trained once more."""
        oldest = time.time() - 86400 * LOCK_DAYS
        for file in self._locks.glob("*.lock"):
            with contextlib.suppress(OSError):  # another user's, removed meanwhile
                if file.stat().st_mtime < oldest:
                    file.unlink()

    def _path(self, key: str) -> str:
        return f"{self._root}/entries/{key}"

    def _evict(self) -> None:
        self._files.invalidate_cache()
        sizes = {path: info["size"] for path, info in self._files.find(f"{self._root}/entries", detail=True).items()}
        excess = sum(sizes.values()) - self._limit
        if excess <= 0:
            return
        for path in sorted(sizes, key=self._used):
            if excess <= 0:
                return
            with contextlib.suppress(PermissionError):  # another user's
                self.remove(Path(path).name)  # where another worker was faster it is gone as well
                excess -= sizes[path]

    def _used(self, path: str) -> float:
        try:
            return float(self._files.modified(path).timestamp())
        except FileNotFoundError:
            return 0.0


def _encode(trained: Trained) -> bytes:
    head: dict[str, Any] = {"plans": trained.plans, "seconds": trained.seconds, "halted": trained.halted}
    body = json.dumps(head).encode() + b"\n" + save(dict(trained.tensors))
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _decode(data: bytes) -> Trained:
    checksum, _, body = data.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != checksum:
        raise DamagedEntry("its SHA-256 differs")
    head, _, tensors = body.partition(b"\n")
    return Trained(tensors=load(tensors), **json.loads(head))


def _make_like_its_parent(folder: Path) -> None:
    """A folder that those can use who can use what it lies in, whatever this process' umask is."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(stat.S_IMODE(folder.parent.stat().st_mode))
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder")


def _mode_in(folder: Path) -> int:
    """Of a file that those can use who can use its folder."""
    return folder.stat().st_mode & 0o666


def _locks_of(url: str) -> Path:
    """A folder of this node and user, for a store that has no locks."""
    name = hashlib.sha256(url.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"autocompress-locks-{os.getuid()}" / name
