"""What only a GPU can show: kernels timed by CUDA events, models finalized and loaded there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from autocompress import Budget, Recipe, Recovery, Step, Target, Task, search
from autocompress.measure.latency import measure_latency

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_the_first_gpu_is_the_default_target() -> None:
    assert str(Target.default()) == "cuda:0@1"


def test_latency_on_a_gpu_is_that_of_the_kernels() -> None:
    small, large = (nn.Linear(width, width).cuda() for width in (64, 8192))
    both = nn.ModuleDict({"small": small, "large": large})
    target = Target("cuda:0", batch_size=64)
    inputs = {"x": torch.randn(64, 8192)}

    class Large(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(both["large"](x))

    class Small(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(both["small"](x[:, :64]))

    latency = measure_latency(Small(), Large(), inputs, target, seconds=1)
    assert latency.speedup_low > 1
    assert latency.hardware == torch.cuda.get_device_name(0)


def test_a_search_on_a_gpu(task: Task, tmp_path: Path) -> None:
    steps = (Step(method="structured_magnitude"), Step(method="int8_weight_only"))
    recipe = Recipe(steps=steps, recovery=Recovery(epochs=1))
    run = search(
        replace(task, name="gpu"),
        recipes=[recipe],
        budget=Budget(trials=3),
        limits=[],
        runs=tmp_path,
        latency_seconds=0.2,
    )
    assert run.config.targets == ("cuda:0@1",)
    assert run.trials["state"].tolist() == ["ok"] * 3
    model = run.trial(1).load()
    assert next(iter(model.state_dict().values())).device.type == "cuda"


def test_a_search_for_a_gpu_and_the_cpu(task: Task, tmp_path: Path) -> None:
    run = search(
        replace(task, name="both"),
        recipes=[Recipe(steps=(Step(method="int8_weight_only"),))],
        budget=Budget(trials=2),
        limits=["latency[cpu@8] <= 900% of baseline"],
        target=["cuda:0@1", "cuda:0@64", "cpu@8"],
        runs=tmp_path,
        latency_seconds=0.2,
        hardware_seconds=5,
    )
    assert run.trials["state"].tolist() == ["ok"] * 2
    assert {"speedup", "speedup[cuda:0@64]", "speedup[cpu@8]"} <= set(run.finals[1].scores)
    assert set(run.surroundings) == {"cuda:0@1", "cuda:0@64", "cpu@8"}
    for device in ("cuda:0", "cpu"):
        model = run.trial(1).load(device=device)
        assert {tensor.device.type for tensor in model.state_dict().values()} == {device.split(":")[0]}
