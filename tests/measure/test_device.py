"""Targets, and the lock of a device, between real processes."""

from __future__ import annotations

import contextlib
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from autocompress import Target
from autocompress.errors import InvalidInput
from autocompress.measure.device import DeviceLock, hardware_name


@pytest.mark.parametrize(
    ("text", "target", "short"),
    [
        ("cpu", Target("cpu"), "cpu@1"),
        ("cpu@1", Target("cpu", 1), "cpu@1"),
        (" cpu@8x2 ", Target("cpu", 8, 2), "cpu@8x2"),
        ("cpu@32x1", Target("cpu", 32), "cpu@32"),
    ],
)
def test_a_target_in_words(text: str, target: Target, short: str) -> None:
    assert Target.parse(text) == target
    assert str(target) == short
    assert Target.parse(short) == target
    assert target.torch_device == torch.device("cpu")


@pytest.mark.parametrize(
    "text", ["", "gpu", "cpu@", "cpu@0", "cpu@8x0", "cpu@-1", "cpu:0", "cuda:x", "cpu@8x2x2", "tpu@1"]
)
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"a target is DEVICE\[@BATCH\[xTHREADS\]\] like .* but got '"):
        Target.parse(text)


def test_a_device_that_is_not_there_is_refused() -> None:
    count = torch.cuda.device_count()
    with pytest.raises(
        InvalidInput, match=f"target 'cuda:{count}@4' needs cuda:{count}, but this machine has {count} CUDA"
    ):
        Target.parse(f"cuda:{count}@4")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_means_the_first_one() -> None:
    assert Target.parse("cuda@32") == Target("cuda:0", 32) == Target.parse("cuda:0@32")
    assert "NVIDIA" in hardware_name(Target("cuda:0"))


def test_the_hardware_has_a_name() -> None:
    assert hardware_name(Target("cpu"))


WORKER = """
import signal, sys
from pathlib import Path
from autocompress.measure.device import DeviceLock, Target
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
