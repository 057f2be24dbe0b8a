"""Sharing trainings: the same result as without, each prefix trained once, whoever dies."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from autocompress import Recipe, Recovery, Step, Target, Task
from autocompress.compress import finalize, resolve, train_recipe
from autocompress.plugins import Registry, registry
from autocompress.prefix import Prefixes, Trained, prefix_of
from autocompress.search.identity import task_identity
from autocompress.search.prefixes import StoreAccess, StoredPrefixes
from autocompress.testing_tasks import images

CPU = Target("cpu")
PRUNED = Recipe(steps=(Step(method="structured_magnitude"),), recovery=Recovery(epochs=1))
TRAINED = Trained({}, {"weight": torch.ones(3)}, 7.0)


def recipe(*methods: str, **recovery: Any) -> Recipe:
    written = Recipe(steps=tuple(Step(method=name) for name in methods), recovery=Recovery(**{"epochs": 1} | recovery))
    return resolve(written, registry(), images())


def prefixes(
    folder: Path, identity: str = "task", seed: int = 0, target: Target = CPU, **waiting: Any
) -> StoredPrefixes:
    return StoredPrefixes(StoreAccess(str(folder), 10**8, identity), registry(), target, seed, **waiting)


def tensors(recipe: Recipe, store: Prefixes | None) -> tuple[float, dict[str, torch.Tensor]]:
    """Seconds that the store spared, and what ships."""
    trained = train_recipe(images(), recipe, registry=registry(), target=CPU, prefixes=store)
    spared_s = trained.spared_s
    assert (spared_s > 0) != (trained.training_s > 0)
    return spared_s, finalize(trained, CPU).tensors()


@pytest.mark.parametrize(
    "methods",
    [
        ("structured_taylor", "soft_labels", "int8_weight_only"),
        ("tucker2_conv", "feature_similarity", "float16_storage"),
        ("unstructured_movement",),
        ("own_student", "low_bit_weights"),
        ("int8_qat",),
        ("int8_weight_only",),
    ],
)
def test_what_ships_is_the_same_with_and_without_the_store(methods: tuple[str, ...], tmp_path: Path) -> None:
    store = prefixes(tmp_path, task_identity(images()).digest)
    wanted = recipe(*methods)
    (_, alone), (none, first), (spared_s, second) = (tensors(wanted, each) for each in (None, store, store))
    assert none == 0 and spared_s > 0
    for found in (first, second):
        assert alone.keys() == found.keys()
        assert all(torch.equal(alone[name], found[name]) for name in alone)


def test_a_prefix_serves_other_finalizers_as_if_they_had_trained_it(tmp_path: Path) -> None:
    store = prefixes(tmp_path)
    tensors(recipe("structured_magnitude", "int8_weight_only"), store)
    other = recipe("structured_magnitude", "low_bit_weights", "channels_last")
    (_, alone), (spared_s, shared) = tensors(other, None), tensors(other, store)
    assert spared_s > 0
    assert all(torch.equal(alone[name], shared[name]) for name in alone)


def test_the_prefix_is_what_has_a_say_in_the_training() -> None:
    methods = ("structured_magnitude", "soft_labels", "int8_weight_only", "channels_last")
    kept = [step.method for step in prefix_of(recipe(*methods), registry()).steps]
    assert kept == ["structured_magnitude", "soft_labels"]
    assert [step.method for step in prefix_of(recipe("int8_qat"), registry()).steps] == ["int8_qat"]
    assert prefix_of(recipe("int8_weight_only", batch_size=32), registry()).recovery.batch_size == 32


def test_whatever_changes_a_training_changes_its_key(tmp_path: Path) -> None:
    plain = prefixes(tmp_path)
    other_ratio = Recipe(steps=(Step(method="structured_magnitude", params={"ratio": 0.3000000001}),))
    keys = [
        plain.key(PRUNED),
        plain.key(recipe("structured_magnitude", learning_rate=2e-3)),
        plain.key(recipe("structured_lamp")),
        plain.key(resolve(other_ratio, registry(), images())),
        prefixes(tmp_path, "another task").key(PRUNED),
        prefixes(tmp_path, seed=1).key(PRUNED),
        prefixes(tmp_path, target=Target("cpu", threads=2)).key(PRUNED),
        StoredPrefixes(StoreAccess(str(tmp_path), 1, "task"), upgraded(), CPU, 0).key(PRUNED),
    ]
    assert len(set(keys)) == len(keys)
    assert prefixes(tmp_path, target=Target("cpu", batch_size=8)).key(PRUNED) == keys[0]


def upgraded() -> Registry:
    return Registry(tuple(replace(plugin, version="99.0") for plugin in registry().plugins))


def test_of_many_who_want_a_prefix_at_once_one_trains_it(tmp_path: Path) -> None:
    trainings = []

    def want(number: int) -> float:
        store = prefixes(tmp_path)
        with store.claim(PRUNED) as known:
            if known is not None:
                return known.seconds
            trainings.append(number)
            time.sleep(0.2)
            store.keep(PRUNED, TRAINED)
        return 0.0

    with ThreadPoolExecutor(6) as pool:
        seconds = sorted(pool.map(want, range(6)))
    assert len(trainings) == 1
    assert seconds == [0.0, *[7.0] * 5]


HOLDER = """
import sys, time
from pathlib import Path
from tests.search.test_prefixes import PRUNED, prefixes
with prefixes(Path(sys.argv[1])).claim(PRUNED) as known:
    print(known, flush=True)
    time.sleep(600)
"""


def test_a_dead_holder_frees_the_prefix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pauses = []

    @contextmanager
    def paused() -> Iterator[None]:
        pauses.append(1)
        threading.Timer(0.5, holder.send_signal, [signal.SIGKILL]).start()
        yield

    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=root
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "None\n"
        store = prefixes(tmp_path, paused=paused)
        with store.claim(PRUNED) as known:
            assert known is None
    assert pauses == [1] and store.waited_s > 0.4
    assert "another trial trains the same prefix: waiting for it" in capsys.readouterr().out


def test_who_has_no_patience_left_trains_too(tmp_path: Path) -> None:
    with prefixes(tmp_path).claim(PRUNED):
        hasty = prefixes(tmp_path, patience_s=0.1)
        with hasty.claim(PRUNED) as known:
            assert known is None
    assert hasty.waited_s >= 0.1


def test_a_training_that_fails_frees_the_prefix(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="diverged"), prefixes(tmp_path).claim(PRUNED):
        raise ValueError("diverged")
    with prefixes(tmp_path, patience_s=0.1).claim(PRUNED) as known:
        assert known is None


def test_a_store_that_cannot_be_written_costs_no_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = prefixes(tmp_path)
    (tmp_path / "entries").write_text("in the way")
    with store.claim(PRUNED) as known:
        assert known is None
        store.keep(PRUNED, TRAINED)
    assert "could not be stored: NotADirectoryError" in capsys.readouterr().out


def test_a_store_that_is_gone_is_made_anew(tmp_path: Path) -> None:
    for _ in range(2):
        store = prefixes(tmp_path / "store")
        with store.claim(PRUNED) as known:
            assert known is None
            store.keep(PRUNED, TRAINED)
        with prefixes(tmp_path / "store").claim(PRUNED) as known:
            assert known is not None
        shutil.rmtree(tmp_path / "store")


def test_a_lock_that_cannot_be_had_costs_no_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = prefixes(tmp_path)
    (tmp_path / "locks").write_text("in the way")
    with store.claim(PRUNED) as known:
        assert known is None
        store.keep(PRUNED, TRAINED)
    assert "the prefix cannot be locked, so others may train it too: NotADirectoryError" in capsys.readouterr().out
    with store.claim(PRUNED) as known:
        assert known is not None


def test_a_wait_ends_without_minutes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["autocompress.search.prefixes"], "PATIENCE_S", 0.1)
    with prefixes(tmp_path).claim(PRUNED):
        waiting = prefixes(tmp_path)
        with waiting.claim(PRUNED) as known:
            assert known is None and waiting.waited_s >= 0.1


def test_a_store_of_an_unknown_kind_costs_a_training_only(capsys: pytest.CaptureFixture[str]) -> None:
    store = StoredPrefixes(StoreAccess("nosuch://bucket", 1, "task"), registry(), CPU, 0)
    with store.claim(PRUNED) as known:
        assert known is None
        store.keep(PRUNED, TRAINED)
    assert "could not be stored: ValueError" in capsys.readouterr().out


WATCHED = """
import sys, time
from pathlib import Path
from autocompress.search.watchdog import Watchdog
dog = Watchdog(1 / 60)
with dog.watching(Path(sys.argv[1])):
    with dog.paused():
        time.sleep(2)
    print("waited", flush=True)
    time.sleep(60)
"""


def test_waiting_does_not_count_for_a_trials_minutes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WATCHED, str(tmp_path / "hang.txt")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert ended.returncode == 1 and ended.stdout == "waited\n"
    assert "in <module>" in (tmp_path / "hang.txt").read_text()


def test_a_task_without_a_store_trains(task: Task) -> None:
    trained = train_recipe(task, Recipe(recovery=Recovery(epochs=1)), registry=registry(), target=CPU)
    assert trained.training_s > 0 and trained.spared_s == 0


@pytest.mark.parametrize(
    "methods",
    [("structured_taylor", "soft_labels", "int8_weight_only"), ("tucker2_conv", "feature_similarity"), ("int8_qat",)],
)
def test_what_ships_is_the_same_when_the_training_is_halted(methods: tuple[str, ...], tmp_path: Path) -> None:
    wanted, store = recipe(*methods, epochs=3), prefixes(tmp_path)
    (_, alone), store_of = tensors(wanted, None), {1: None, 2: store}
    begun, seconds = None, 0.0
    for epoch in (1, 2):  # once it is handed on in memory, once by the store
        halted = train_recipe(
            images(), wanted, registry=registry(), target=CPU, prefixes=store_of[epoch],
            until={0: 1, 1: 2}.get, begun=begun,
        )  # fmt: skip
        begun, seconds = halted.trained(), seconds + halted.training_s
        assert begun.checkpoint is not None and begun.checkpoint.epochs == epoch
        assert begun.seconds == pytest.approx(seconds)
    found = train_recipe(images(), wanted, registry=registry(), target=CPU, prefixes=store)
    assert found.checkpoint is None and found.spared_s == pytest.approx(seconds)
    shipped = finalize(found, CPU).tensors()
    assert alone.keys() == shipped.keys()
    assert all(torch.equal(alone[name], shipped[name]) for name in alone)
    assert [path.name for path in (tmp_path / "entries").iterdir()] == [store.key(prefix_of(wanted, registry()))]
