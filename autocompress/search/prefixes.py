"""Trained prefixes as a trial meets them: what is there is taken, and what is not is trained by one at a time."""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import metadata

import torch
from filelock import FileLock, Timeout

from autocompress.errors import first_line
from autocompress.measure.device import Target
from autocompress.plugins import Registry
from autocompress.prefix import Trained
from autocompress.recipe import Recipe
from autocompress.search.identity import code_digest, engine_digest, requirements_of
from autocompress.search.store import Store

HALTED = ".halted"
"""What follows the key of a training that is not finished."""
PATIENCE_S = 3600.0
"""How long whoever trains a prefix is waited for, where a trial's minutes do not say it."""
Paused = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class StoreAccess:
    """What workers need to reach the store."""

    url: str
    limit_bytes: int
    identity: str
    """Of the task: see `task_identity`."""


class StoredPrefixes:
    """The `Prefixes` of one process. An error of the store costs a training, never a trial."""

    def __init__(
        self,
        access: StoreAccess,
        registry: Registry,
        target: Target,
        seed: int,
        *,
        patience_s: float | None = None,
        paused: Paused = nullcontext,
    ) -> None:
        """Whoever trains a prefix is waited for, `patience_s` or an hour at most, in the context of `paused`."""
        self._access, self._registry, self._target, self._seed = access, registry, target, seed
        self._patience_s, self._paused = PATIENCE_S if patience_s is None else patience_s, paused
        self.waited_s = 0.0
        """How long the last claim waited."""

    def key(self, prefix: Recipe) -> str:
        """SHA-256 over the task and all that makes a training what it is.

        Numbers count to their last digit. Threads are part of it, since with them the last bits of sums change; the
        make of the processor is not, so that nodes that differ a little can share.
        """
        methods = [self._registry.get(step.method) for step in prefix.steps]
        plugins = [self._registry.plugin_of(method.name) for method in methods]
        parts = {
            "task": self._access.identity,
            "prefix": prefix.plain(),
            "plugins": [plugin.release for plugin in plugins],
            "libraries": [requirements_of(plugin.distribution) for plugin in plugins],
            "code": [*(code_digest(type(method)) for method in methods), engine_digest()],
            "engine": metadata.version("autocompress"),
            "seed": self._seed,
            "device": f"{self._target.torch_device.type} x{self._target.threads}",
            "torch": torch.__version__,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @contextmanager
    def claim(self, prefix: Recipe) -> Iterator[Trained | None]:
        key, self.waited_s = self.key(prefix), 0.0
        known = self._get(key)
        if known is None:
            lock = self._locked(key)
            try:
                known = self._get(key)  # whoever was waited for has it trained
                if known is None:
                    yield self._get(key + HALTED)
                    return
            finally:
                if lock is not None:
                    lock.release()
        print(f"trained before, in {known.seconds:.1f} s: taken from the store ({key[:12]})")
        yield known

    def keep(self, prefix: Recipe, trained: Trained) -> None:
        key = self.key(prefix)
        try:
            if trained.halted:
                self._store.put(key + HALTED, trained)
                return
            self._store.put(key, trained)
            self._store.remove(key + HALTED)
        except Exception as error:  # a full disk, an object store out of reach
            print(f"the training could not be stored: {first_line(error)}")

    @functools.cached_property
    def _store(self) -> Store:
        return Store(self._access.url, self._access.limit_bytes)

    def _get(self, key: str) -> Trained | None:
        try:
            return self._store.get(key)
        except Exception as error:  # an object store out of reach
            print(f"the store could not be read: {first_line(error)}")
            return None

    def _locked(self, key: str) -> FileLock | None:
        """The prefix's lock, or None if it cannot be had: then two may train it, which is only slower."""
        try:
            lock = self._store.lock(key)
            return lock if self._acquire(lock) else None
        except Exception as error:  # a full disk, another user's file, a file system without locks
            print(f"the prefix cannot be locked, so others may train it too: {first_line(error)}")
            return None

    def _acquire(self, lock: FileLock) -> bool:
        """Whether the lock was had. No lock of a device is held here, so nobody waits for who waits for this one."""
        try:
            lock.acquire(timeout=0)
            return True
        except Timeout:
            print("another trial trains the same prefix: waiting for it")
        start = time.monotonic()
        try:
            with self._paused():
                lock.acquire(timeout=self._patience_s)
        except Timeout:
            return False
        finally:
            self.waited_s = time.monotonic() - start
            print(f"waited {self.waited_s:.1f} s")
        return True
