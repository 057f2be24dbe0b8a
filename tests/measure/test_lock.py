"""The lock of a device, between real processes."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from autocompress import Target
from autocompress.measure.lock import LOG_VARIABLE, PATIENCE_S, DeviceLock

WORKER = """
import signal, sys
from pathlib import Path
from autocompress.measure.device import Target
from autocompress.measure.lock import DeviceLock
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits that it is ignored
lock = DeviceLock(Target("cpu"), Path(sys.argv[1]))
print("ready", flush=True)
while way := sys.stdin.readline().strip():
    try:
        with getattr(lock, way)():
            print("holds", flush=True)
            sys.stdin.readline()
        print("let go", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


class Worker:
    """Another process that takes the lock the way it is told, and lets go at the next word."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.words: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.words.put(line.strip())

    def tell(self, word: str) -> None:
        assert self.process.stdin
        print(word, file=self.process.stdin, flush=True)

    def hear(self, word: str) -> None:
        assert self.words.get(timeout=60) == word

    def waits(self) -> bool:
        with contextlib.suppress(queue.Empty):
            return not self.words.get(timeout=0.2)
        return True

    def take_and_let_go(self, way: str) -> None:
        self.tell(way)
        self.hear("holds")
        self.tell("enough")
        self.hear("let go")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("locks")


@pytest.fixture(scope="module")
def workers(folder: Path) -> Iterator[tuple[Worker, Worker]]:
    both = Worker(folder), Worker(folder)
    for worker in both:
        worker.hear("ready")
    yield both
    for worker in both:
        worker.process.kill()
        worker.process.communicate()


@pytest.fixture
def lock(folder: Path) -> DeviceLock:
    return DeviceLock(Target("cpu"), folder)


def test_steps_share_the_device(lock: DeviceLock, workers: tuple[Worker, Worker]) -> None:
    with lock.shared():
        for worker in workers:
            worker.take_and_let_go("shared")


@pytest.mark.parametrize(
    ("mine", "other"), [("exclusive", "shared"), ("exclusive", "exclusive"), ("shared", "exclusive")]
)
def test_a_measurement_has_it_alone(mine: str, other: str, lock: DeviceLock, workers: tuple[Worker, Worker]) -> None:
    worker, _ = workers
    with getattr(lock, mine)():
        worker.tell(other)
        assert worker.waits()
    worker.hear("holds")
    worker.tell("enough")
    worker.hear("let go")


def test_a_waiting_measurement_keeps_new_steps_out(lock: DeviceLock, workers: tuple[Worker, Worker]) -> None:
    measuring, training = workers
    with lock.shared():
        measuring.tell("exclusive")
        assert measuring.waits()
        training.tell("shared")
        assert training.waits()
    measuring.hear("holds")
    assert training.waits()
    measuring.tell("enough")
    training.hear("holds")
    training.tell("enough")
    for worker in workers:
        worker.hear("let go")


@pytest.mark.parametrize(("mine", "other"), [("shared", "exclusive"), ("exclusive", "shared")])
def test_who_gives_up_waiting_leaves_nothing_locked(
    mine: str, other: str, lock: DeviceLock, workers: tuple[Worker, Worker]
) -> None:
    impatient, next_one = workers
    with getattr(lock, mine)():
        impatient.tell(other)
        assert impatient.waits()
        impatient.process.send_signal(signal.SIGINT)
        impatient.hear("interrupted")
        next_one.tell(mine)
        assert next_one.waits() == (mine == "exclusive")
    if mine == "exclusive":
        next_one.hear("holds")
    next_one.tell("enough")
    next_one.hear("let go")


def test_a_killed_holder_frees_the_device(workers: tuple[Worker, Worker]) -> None:
    killed, next_one = workers
    killed.tell("exclusive")
    killed.hear("holds")
    next_one.tell("exclusive")
    assert next_one.waits()
    killed.process.kill()
    next_one.hear("holds")
    next_one.tell("enough")
    next_one.hear("let go")


def test_a_long_wait_is_told_with_its_holder_and_how_long_it_took(
    lock: DeviceLock, workers: tuple[Worker, Worker], caplog: pytest.LogCaptureFixture
) -> None:
    _, other = workers  # the first one was killed
    other.tell("exclusive")
    other.hear("holds")
    threading.Timer(PATIENCE_S + 0.5, other.tell, ["enough"]).start()
    with lock.exclusive() as waited_s:
        other.hear("let go")
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"waiting for cpu: held by process {other.process.pid}", told[1]]
    assert told[1].startswith("waited 1.") and told[1].endswith(" s for cpu")
    assert PATIENCE_S < waited_s < PATIENCE_S + 10


def test_a_short_wait_is_not_worth_a_word(lock: DeviceLock, caplog: pytest.LogCaptureFixture) -> None:
    with lock.shared(), lock.shared():
        pass
    with lock.exclusive():
        pass
    assert not caplog.records


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_each_hold_is_a_line_of_the_log(by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "locks.jsonl"
    if by == "environment":
        monkeypatch.setenv(LOG_VARIABLE, str(file))
    lock = DeviceLock(Target("cpu"), tmp_path, log=file if by == "argument" else None)
    start = time.monotonic()
    with lock.shared():
        pass
    with contextlib.suppress(KeyError), lock.exclusive():
        time.sleep(0.05)
        raise KeyError
    first, second = (json.loads(line) for line in file.read_text().splitlines())
    assert [row["mode"] for row in (first, second)] == ["shared", "exclusive"]
    assert {(row["device"], row["pid"]) for row in (first, second)} == {("cpu", os.getpid())}
    assert start <= first["from"] <= first["to"] <= second["from"] <= second["to"] - 0.05 <= time.monotonic()
    assert 0 <= first["waited_s"] < 1


def test_without_a_name_no_log_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LOG_VARIABLE, raising=False)
    with DeviceLock(Target("cpu"), tmp_path).exclusive():
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cpu.gate", "cpu.lock"]
