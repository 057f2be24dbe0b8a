"""Trained prefixes on disk or in an object store, by the hash of all that they depend on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import uuid
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem
from safetensors.torch import load, save

from autocompress.prefix import Trained


class DamagedEntry(Exception):
    """An entry's bytes are not those that were written."""


class Store:
    """A content-addressed store with a size limit, in a folder or at any URL that fsspec knows (`s3://...`).

    An entry is one file that appears whole: a line with the SHA-256 of what follows, a line of JSON with the plans, and
    safetensors. It is never changed, at most replaced, so reading needs no lock. Where the limit is exceeded, what was
    not used for longest is removed; an object store that cannot tell when it was read counts from when it was written.
    """

    def __init__(self, url: str | Path, limit_bytes: int) -> None:
        self._files, root = fsspec.core.url_to_fs(str(url))
        self._root, self._limit = str(root).rstrip("/"), limit_bytes
        self._files.makedirs(f"{self._root}/entries", exist_ok=True)
        local = isinstance(self._files, LocalFileSystem)
        self._locks = Path(self._root) / "locks" if local else _locks_of(str(url))
        self._locks.mkdir(parents=True, exist_ok=True)

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
        with contextlib.suppress(FileNotFoundError, NotImplementedError):  # removed meanwhile; no such thing there
            self._files.touch(path, truncate=False)
        return found

    def put(self, key: str, trained: Trained) -> None:
        """Keep an entry, unless it alone exceeds the limit."""
        data = _encode(trained)
        if len(data) > self._limit:
            print(f"the training is not stored: its {len(data)} bytes exceed the limit of {self._limit}")
            return
        partial = f"{self._root}/entries/.{key}.{uuid.uuid4().hex}"
        self._files.pipe_file(partial, data)
        self._files.mv(partial, self._path(key))
        self._evict()

    def remove(self, key: str) -> None:
        """Remove an entry, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._path(key))

    def lock(self, key: str) -> FileLock:
        """Held by whoever trains a prefix; a dead holder frees it.

        It lies in the folder itself, so that it holds on all nodes that share it; for an object store it is one a node.
        """
        return FileLock(self._locks / f"{key}.lock")

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
            excess -= sizes[path]
            with contextlib.suppress(FileNotFoundError):  # another worker was faster
                self._files.rm_file(path)

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


def _locks_of(url: str) -> Path:
    """A folder of this node and user, for a store that has no locks."""
    name = hashlib.sha256(url.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"autocompress-locks-{os.getuid()}" / name
