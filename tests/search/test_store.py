"""The store: what is written is read back, or is not there."""

from __future__ import annotations

import os
import time
from pathlib import Path

import fsspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autocompress import Task, search
from autocompress.errors import InvalidInput
from autocompress.prefix import Trained
from autocompress.search import _store
from autocompress.search.store import Store, _decode, _encode

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
def test_a_store_that_cannot_be_used_is_said_before_the_first_trial(store: str, task: Task, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=f"store '{store}' must be a folder or URL that can be written, but: "):
        search(task, space="quickstart", store=store, runs=tmp_path, target="cpu@1", progress=False)


def test_a_limit_below_nothing_is_refused(task: Task, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="store_bytes must be at least 0, but got -1"):
        search(task, store_bytes=-1, runs=tmp_path)
