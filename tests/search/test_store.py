"""The store: what is written is read back, or is not there."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autocompress import Budget, SearchSpace, Target, Task, search
from autocompress.errors import InvalidInput
from autocompress.plugins import registry
from autocompress.prefix import Trained
from autocompress.prospect import PROBE_FILE
from autocompress.search import _store
from autocompress.search.context import discard_private_store, store_access
from autocompress.search.display import Display
from autocompress.search.settings import Settings
from autocompress.search.store import LOCK_DAYS, Store, _decode, _encode
from autocompress.space import bind

KEY, OTHER = "a" * 64, "b" * 64


def trained(value: float = 1.0, size: int = 10) -> Trained:
    tensors = {"weight": torch.full((size,), value), "half": torch.ones(2, 3, dtype=torch.bfloat16)}
    return Trained({"cut": {"ratio": 0.5, "layers": ["a", "b"]}}, tensors, 12.5)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path, 10**6)


def entry(folder: Path, key: str = KEY) -> Path:
    return folder / "entries" / key


def test_an_entry_is_read_back_as_it_was_written(store: Store) -> None:
    assert store.get(KEY) is None
    store.put(KEY, trained())
    found = store.get(KEY)
    assert found is not None and store.get(OTHER) is None
    assert (found.plans, found.seconds) == (trained().plans, 12.5)
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in trained().tensors.items())
    assert found.tensors["half"].dtype == torch.bfloat16


ENCODED = _encode(trained(size=1))


@given(st.integers(0, len(ENCODED) - 1), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(position: int, change: int) -> None:
    damaged = bytearray(ENCODED)
    damaged[position] ^= change
    with pytest.raises(Exception, match="SHA-256"):
        _decode(bytes(damaged))


def test_a_damaged_entry_is_none_and_is_removed(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.put(KEY, trained())
    torn = entry(tmp_path).read_bytes()[:-1]
    entry(tmp_path).write_bytes(torn)
    assert store.get(KEY) is None
    assert not entry(tmp_path).exists()
    assert "is damaged" in capsys.readouterr().out


def test_beyond_the_limit_what_was_not_used_for_longest_goes(tmp_path: Path) -> None:
    each = len(_encode(trained()))
    store = Store(tmp_path, 2 * each)
    for age, key in ((300, KEY), (200, OTHER)):
        store.put(key, trained())
        os.utime(entry(tmp_path, key), (time.time() - age, time.time() - age))
    assert store.get(KEY) is not None  # used: now the other one is the oldest
    store.put("c" * 64, trained())
    assert [store.get(key) is not None for key in (KEY, OTHER, "c" * 64)] == [True, False, True]
    assert sum(file.stat().st_size for file in (tmp_path / "entries").iterdir()) <= 2 * each


def test_what_exceeds_the_limit_alone_costs_no_other_entry(tmp_path: Path) -> None:
    store = Store(tmp_path, len(_encode(trained())))
    store.put(KEY, trained())
    store.put(OTHER, trained(size=1000))
    assert store.get(KEY) is not None and store.get(OTHER) is None


def test_an_object_store_holds_entries_and_its_limit_too() -> None:
    each = len(_encode(trained()))
    store = Store("memory://shared/prefixes", 2 * each)
    for key in (KEY, OTHER, "c" * 64):
        store.put(key, trained())
        assert store.get(key) is not None
    assert [store.get(key) is not None for key in (KEY, OTHER)] == [False, True]
    files = fsspec.filesystem("memory").find("/shared/prefixes")
    assert [Path(file).name for file in files] == [OTHER, "c" * 64]


def test_where_the_store_lies(tmp_path: Path) -> None:
    assert _store(True, tmp_path / "run") == str(tmp_path / "run" / "store")
    assert _store(tmp_path / "shared", tmp_path / "run") == str(tmp_path / "shared")
    assert _store("s3://bucket/shared", tmp_path / "run") == "s3://bucket/shared"
    assert _store(False, tmp_path / "run") is None


@pytest.mark.parametrize("store", ["nosuch://bucket", "/dev/null/store"])
def test_a_store_that_cannot_be_used_is_said_at_once(store: str, task: Task, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=f"store '{store}' must be a folder or URL that can be written, but: "):
        search(task, space="quickstart", store=store, runs=tmp_path, target="cpu@1", progress=False)
    assert not list(tmp_path.rglob(PROBE_FILE))  # nor was any method looked at before


def test_a_store_of_one_process_is_refused() -> None:
    with pytest.raises(ValueError, match="each process has a memory:// of its own"):
        Store("memory://x", 10**6).check()


def test_a_check_writes_and_leaves_nothing(store: Store, tmp_path: Path) -> None:
    store.check()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    shutil.rmtree(tmp_path / "entries")
    (tmp_path / "entries").symlink_to("/proc/self/fdinfo")  # a folder in which nobody can make a file
    with pytest.raises(OSError, match="entries"):
        store.check()


@pytest.mark.parametrize(("folder", "file"), [(0o755, 0o644), (0o2775, 0o664), (0o700, 0o600)])
def test_who_can_use_the_folder_can_use_its_files(folder: int, file: int, tmp_path: Path) -> None:
    root = tmp_path / "shared"
    root.mkdir()
    root.chmod(folder)
    store = Store(root, 10**6)
    store.put(KEY, trained())
    with store.lock(KEY):
        pass
    assert [stat.S_IMODE((root / name).stat().st_mode) for name in ("entries", "locks")] == [folder] * 2
    assert [stat.S_IMODE((root / name).stat().st_mode) for name in (f"entries/{KEY}", f"locks/{KEY}.lock")] == [
        file
    ] * 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user for a while")
def test_what_another_user_wrote_is_served() -> None:
    with tempfile.TemporaryDirectory() as root:
        Path(root).chmod(0o755)
        Store(root, 10**6).put(KEY, trained())
        os.seteuid(65534)
        try:
            assert Store(root, 10**6).get(KEY) is not None
        finally:
            os.seteuid(0)


def test_old_locks_are_forgotten(store: Store, tmp_path: Path) -> None:
    for key, age in ((KEY, 86400 * (LOCK_DAYS + 1)), (OTHER, 0)):
        with store.lock(key):
            pass
        os.utime(tmp_path / "locks" / f"{key}.lock", (time.time() - age,) * 2)
    store.check()
    assert [path.name for path in (tmp_path / "locks").iterdir()] == [f"{OTHER}.lock"]


def test_what_cannot_be_known_again_stays_out_of_a_shared_store(task: Task, tmp_path: Path) -> None:
    lock, target = threading.Lock(), Target("cpu")

    def locked(outputs: Any, targets: Any) -> Any:
        with lock:
            return task.loss(outputs, targets)

    for loss, place in ((task.loss, "shared"), (locked, "run/private_store")):
        settings = Settings(
            replace(task, loss=loss), SearchSpace(), (), Budget(), (target,), tmp_path / "run", (), 0, 1,
            1.0, 0, False, store=str(tmp_path / "shared"),
        )  # fmt: skip
        with Display(settings, bind(settings.space, task, registry(), target), registry()) as display:
            access = store_access(settings, display)
        assert access is not None and access.url == str(tmp_path / place)
    (tmp_path / "run/private_store/entry").mkdir(parents=True)
    discard_private_store(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == []


def test_a_limit_below_nothing_is_refused(task: Task, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="store_bytes must be at least 0, but got -1"):
        search(task, store_bytes=-1, runs=tmp_path)
