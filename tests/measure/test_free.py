"""The acceleration that costs nothing."""

from __future__ import annotations

import copy
import json
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress import Target
from autocompress.effect import output_error, outputs
from autocompress.measure import free
from autocompress.measure.free import fastest_free, free_variants

CPU = Target("cpu", batch_size=2)
FOLDED = "folded batch norm"
LAID_OUT = f"{FOLDED} + channels_last"
COMPILED = f"{LAID_OUT} + torch.compile"


def convnet() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4),
    )  # fmt: skip
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return model.eval()


def images() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that are not about torch.compile need not wait for it."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", refuse)


def test_each_variant_computes_what_the_model_computes() -> None:
    model, inputs = convnet(), images()
    before = copy.deepcopy(model.state_dict())
    variants = free_variants(model, inputs, CPU)
    skipped = {"16 bits": "for GPUs: most CPUs are several times slower in them"}
    if COMPILED not in variants.models:
        assert "ompiler" in variants.skipped.pop(COMPILED)  # a machine without one
    assert variants.skipped == skipped
    assert {FOLDED, LAID_OUT} <= variants.models.keys() <= {FOLDED, LAID_OUT, COMPILED}
    for variant in variants.models.values():
        with torch.inference_mode():
            assert output_error(outputs(variant, inputs), outputs(model, inputs)) < 1e-5
    assert not any(isinstance(module, nn.BatchNorm2d) for module in variants.models[LAID_OUT].modules())
    weight = next(p for p in variants.models[LAID_OUT].parameters() if p.dim() == 4)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_machine_without_a_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    variants = free_variants(nn.Linear(3, 2), torch.randn(2, 3), CPU)
    assert variants.models == {}
    assert variants.skipped["torch.compile"].startswith("InvalidCxxCompiler: No working C++ compiler found")


@pytest.mark.usefixtures("without_compiler")
def test_what_has_nothing_to_do_is_told() -> None:
    variants = free_variants(nn.Linear(3, 2), torch.randn(2, 3), CPU)
    assert variants.models == {}
    assert variants.skipped == {
        "folded batch norm": "the model has no batch norm",
        "channels_last": "the model has no 2-d convolution",
        "16 bits": "for GPUs: most CPUs are several times slower in them",
        "torch.compile": "RuntimeError: no compiler",
    }


class Branching(nn.Module):
    """Its forward depends on values, so that it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.model = convnet()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.model(x) if x.sum() > -1e9 else x
        return result


@pytest.mark.usefixtures("without_compiler")
def test_a_step_that_fails_is_told_and_the_next_goes_on_without_it() -> None:
    variants = free_variants(Branching(), images(), CPU)
    assert variants.models.keys() == {"channels_last"}
    assert variants.skipped[FOLDED].startswith("TraceError: symbolically traced variables cannot be used")


@pytest.mark.usefixtures("without_compiler")
def test_other_outputs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: nn.Module) -> nn.Module:
        return nn.Sequential(model, nn.Softmax(dim=1))

    monkeypatch.setattr(free, "_channels_last", wrong)
    variants = free_variants(convnet(), images(), CPU)
    assert variants.models.keys() == {FOLDED}
    assert "of their RMS, and may by 0.001" in variants.skipped[LAID_OUT]


def test_sixteen_bits_with_float32_at_the_doors() -> None:
    model, inputs = convnet(), images()
    half = free._Half(copy.deepcopy(model), "bfloat16")
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert half(inputs).dtype == torch.float32
    assert 0 < output_error(outputs(half, inputs), outputs(model, inputs)) < free.SAME_IN_HALF


class Pausing(nn.Module):
    """Waits unless its weights have their channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        if not self.conv.weight.is_contiguous(memory_format=torch.channels_last):
            time.sleep(0.005)
        result: Tensor = self.conv(x)
        return result


@pytest.mark.usefixtures("without_compiler")
def test_the_fastest_is_chosen_by_measurement() -> None:
    found = fastest_free(Pausing(), images(), CPU, seconds=0.2)
    assert (found.name, found.others) == ("channels_last", {})
    assert found.latency.speedup_low > 1
    assert found.latency.baseline_latency_ms > 5
    assert json.loads(json.dumps(found.plain())) == found.plain()


@pytest.mark.usefixtures("without_compiler")
def test_nothing_faster_is_eager() -> None:
    found = fastest_free(nn.Linear(3, 2), torch.randn(2, 3), CPU, seconds=0.2)
    assert (found.name, found.others) == ("eager", {})
    assert found.latency.rounds >= 30


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_sixteen_bits_are_free() -> None:
    variants = free_variants(convnet(), images(), Target("cuda:0", 2))
    assert {f"{LAID_OUT} + float16", f"{LAID_OUT} + bfloat16"} <= variants.models.keys()
    for variant in variants.models.values():
        assert {parameter.device.type for parameter in variant.parameters()} == {"cuda"}
