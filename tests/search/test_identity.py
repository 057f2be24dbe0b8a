"""What makes a task another one."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrize import register_parametrization
from torch.utils.data import TensorDataset

from autocompress import Metric, Task
from autocompress.content import file_digest
from autocompress.search.identity import _package_digest, code_digest, requirements_of, task_identity
from autocompress.task import model_digest
from tests.conftest import tiny_data, tiny_model


class Samples:
    """Samples made by a function of their index."""

    def __init__(self, make: Callable[[int], Any], count: int = 64) -> None:
        self._make, self._count = make, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        return self._make(index)


def made_with(**changes: Any) -> Task:
    task = Task(model=tiny_model, train=tiny_data(64, 1), validation=tiny_data(32, 2), test=tiny_data(32, 3))
    return replace(task, **changes)


def with_dropout(share: float) -> nn.Module:
    return nn.Sequential(*tiny_model().children(), nn.Dropout(share))


def one_bit_off() -> TensorDataset:
    data = tiny_data(64, 1)
    data.tensors[0][37, 5] = torch.nextafter(data.tensors[0][37, 5], torch.tensor(9.0))
    return data


def one_weight_off() -> nn.Module:
    model = tiny_model()
    with torch.no_grad():
        next(model.parameters())[3, 3] += 1e-6
    return model


def loss_times(factor: float) -> Callable[[Any, Any], Tensor]:
    return lambda outputs, targets: factor * functional.cross_entropy(outputs, targets)


def test_equal_tasks_have_one_identity() -> None:
    assert task_identity(made_with()) == task_identity(made_with())
    assert task_identity(made_with()).private == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"train": one_bit_off()},
        {"train": tiny_data(63, 1)},
        {"validation": tiny_data(32, 4)},
        {"calibration": tiny_data(8, 4)},
        {"unlabelled": Samples(lambda index: torch.full((8,), float(index)))},
        {"model": one_weight_off},
        {"teachers": (tiny_model,)},
        {"students": {"small": tiny_model}},
        {"model": lambda: with_dropout(0.1)},
        {"loss": functional.mse_loss},
        {"loss": loss_times(2.0)},
        {"collate": torch.utils.data.default_collate},
        {"metrics": (Metric("f1", lambda outputs, targets: 0.0, is_share=True),)},
        {"example_inputs": torch.zeros(1, 8)},
    ],
)
def test_whatever_training_can_see_counts(changes: dict[str, Any]) -> None:
    assert task_identity(made_with(**changes)).digest != task_identity(made_with()).digest


def test_settings_without_tensors_and_closures_count() -> None:
    shares = [task_identity(made_with(model=lambda share=share: with_dropout(share))).digest for share in (0.1, 0.2)]
    factors = [task_identity(made_with(loss=loss_times(factor))).digest for factor in (1.0, 2.0)]
    assert len({*shares, *factors}) == 4


def test_the_test_data_do_not_count() -> None:
    assert task_identity(made_with(test=tiny_data(32, 9))) == task_identity(made_with())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (Samples(lambda index: (torch.randn(8), 0)), "samples differ each time they are read"),
        (Samples(lambda index: (threading.Lock(), 0)), "samples hold a lock"),
        (Samples(lambda index: (torch.zeros(8), 1 // (index - 7))), "sample 7 of the train data cannot be read: Zero"),
    ],
)
def test_data_that_cannot_be_told_are_shared_with_nobody(data: Samples, reason: str) -> None:
    first, second = (task_identity(made_with(train=data)) for _ in range(2))
    assert first.private == second.private and first.private.startswith(reason)
    assert first.digest != second.digest


SETTING = 0.1
"""What a loss reads when it is called."""


class Held(nn.Module):
    """Holds what neither its representation, its state dict nor its outputs show."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.layers, self.held = tiny_model(), held

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layers(inputs)
        return functional.dropout(outputs, 0.5, self.training)


class Noise:
    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, module: nn.Module, inputs: Any, outputs: Tensor) -> Tensor | None:
        return outputs + self.scale * torch.randn_like(outputs) if module.training else None


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class Scaled(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * torch.randn_like(weight) if self.training else weight


def changed(change: Callable[[Any], Any]) -> nn.Module:
    model = tiny_model()
    change(next(model.children()))
    return model


def attention(dropout: float) -> nn.Module:
    torch.manual_seed(0)
    return nn.MultiheadAttention(8, 2, dropout=dropout)


def reading_a_global(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, label_smoothing=SETTING)


UNSEEN: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "what is frozen": (tiny_model, lambda: changed(lambda layer: layer.weight.requires_grad_(False))),
    "a probability": (lambda: Held(0.1), lambda: Held(0.2)),
    "nested settings": (lambda: Held({"a": [1, {"b": 2.0}]}), lambda: Held({"a": [1, {"b": 2.5}]})),
    "a function": (lambda: Held(lambda x: x + 1), lambda: Held(lambda x: x + 2)),
    "an object": (lambda: Held(Noise(1.0)), lambda: Held(Noise(2.0))),
    "dropout of attention": (lambda: attention(0.1), lambda: attention(0.7)),
    "a buffer that is not kept": (
        lambda: changed(lambda layer: layer.register_buffer("t", torch.tensor(1.0), persistent=False)),
        lambda: changed(lambda layer: layer.register_buffer("t", torch.tensor(2.0), persistent=False)),
    ),
    "a hook": (
        lambda: changed(lambda layer: layer.register_forward_hook(Noise(0.0))),
        lambda: changed(lambda layer: layer.register_forward_hook(Noise(5.0))),
    ),
    "a hook before": (tiny_model, lambda: changed(lambda layer: layer.register_forward_pre_hook(lambda *_: None))),
    "a parametrization": (
        lambda: changed(lambda layer: register_parametrization(layer, "weight", Scaled(0.0))),
        lambda: changed(lambda layer: register_parametrization(layer, "weight", Scaled(1.0))),
    ),
}


@pytest.mark.parametrize("pair", UNSEEN.values(), ids=UNSEEN.keys())
def test_whatever_a_module_holds_counts(pair: tuple[Callable[[], nn.Module], Callable[[], nn.Module]]) -> None:
    (first, again), (other, _) = ((model_digest(make), model_digest(make)) for make in pair)
    assert first == again and first != other


@pytest.mark.parametrize(
    ("held", "reason"),
    [(threading.Lock, "holds a lock"), (time.perf_counter_ns, "differs each time it is built")],
)
def test_a_model_that_cannot_be_told_is_shared_with_nobody(held: Callable[[], Any], reason: str) -> None:
    task = made_with(model=lambda: Held(held()))
    first, second = task_identity(task), task_identity(task)
    assert first.private == f"the model {reason}" and first.digest != second.digest


def test_a_loss_that_cannot_be_pickled_is_shared_with_nobody() -> None:
    lock = threading.Lock()
    assert task_identity(made_with(loss=lambda *_: lock)).private == "the loss holds a lock"


def test_what_a_loss_reads_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = task_identity(made_with(loss=reading_a_global))
    monkeypatch.setattr(sys.modules[__name__], "SETTING", 0.2)
    assert task_identity(made_with(loss=reading_a_global)) != before


def test_another_file_of_a_package_is_another_version_of_its_methods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "own_methods"
    package.mkdir()
    (package / "__init__.py").write_text("class Own: pass\n")
    (package / "ranking.py").write_text("BEST = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    digests = [code_digest(importlib.import_module("own_methods").Own)]
    (package / "ranking.py").write_text("BEST = 2\n")
    for kept in (file_digest, _package_digest):
        kept.cache_clear()
    digests.append(code_digest(sys.modules.pop("own_methods").Own))
    assert digests[0] and digests[0] != digests[1]


def test_libraries_that_methods_stand_on_are_told_without_extras() -> None:
    told = requirements_of("autocompress")
    assert told["torch-pruning"] == metadata.version("torch-pruning")
    assert not {"pytest", "onnx"} & told.keys()


def test_reading_has_a_time_bound() -> None:
    found = task_identity(made_with(), seconds=0)
    assert found.private == "the data take longer than 0 s to read"


def test_half_precision_samples_count_by_their_bits() -> None:
    def data(value: float) -> Samples:
        return Samples(lambda index: (torch.full((8,), value, dtype=torch.bfloat16), index))

    identities = [task_identity(made_with(train=data(value))) for value in (1.0, 1.0078125)]
    assert identities[0].private == "" and identities[0] != identities[1]


def told_apart() -> list[str]:
    """Identities of what processes keep in different orders and places."""
    handle = changed(lambda layer: setattr(layer, "handle", layer.register_forward_hook(Noise(1.0))))
    settings = {"names": {"one", "two", "three"}, "function": lambda x: x in {"a", "b", "c"}, "self": Noise(0.0)}
    models = (
        handle,
        changed(lambda layer: register_parametrization(layer, "weight", Doubled())),
        Held(settings),
        nn.LSTM(2, 2),
        attention(0.1),
    )
    tasks = (made_with(), made_with(loss=loss_times(2.0)), made_with(model=lambda: Held(settings)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in models:
            for parameter in layer.parameters():
                nn.init.normal_(parameter)
    assert all(not task_identity(task).private for task in tasks)
    return [task_identity(task).digest for task in tasks] + [model_digest(model) for model in models]


def test_another_process_finds_the_same_identities() -> None:
    code = (
        "from torch import nn; nn.ReLU().register_forward_hook(print);"  # so that hooks get other numbers
        "from tests.search.test_identity import *; print(*told_apart())"
    )
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=200, env=environment
    )
    here = importlib.import_module("tests.search.test_identity").told_apart()  # under the same name
    assert ended.stdout.split() == here, ended.stderr
