"""Gradient x input against captum, and reasons where there is none."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum.attr import InputXGradient, LayerGradientXActivation
from torch import Tensor, nn

from autocompress import Runtime, Task
from autocompress.damage import explanation_similarity
from autocompress.damage.explanations import attributions
from autocompress.testing_families import (
    TokenEncoder,
    char_lstm,
    dict_inputs,
    encoder,
    gpt,
    gru,
    recommender,
    two_heads,
    variable_length,
)
from autocompress.testing_tasks import bright_quarters, images


def shaken(model: nn.Module) -> nn.Module:
    """Near the model, as a compressed one is."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model


def test_attributions_are_those_of_captum() -> None:
    model, inputs = images().trained_model(), images().inputs(20)
    own, answers = attributions(model, inputs)
    expected = InputXGradient(model).attribute(inputs.clone().requires_grad_(), target=answers)
    assert torch.equal(answers, model(inputs).argmax(1))
    torch.testing.assert_close(own, expected.flatten(1).double().detach())


def test_attributions_of_tokens_are_those_of_captum() -> None:
    task = encoder()
    model, tokens = task.trained_model(), task.inputs(20)
    assert isinstance(model, TokenEncoder)
    own, answers = attributions(model, tokens, embeddings=("embedding",))
    expected = LayerGradientXActivation(model, model.embedding).attribute(tokens, target=answers)
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(own, expected.sum(dim=2).double().detach(), rtol=1e-4, atol=1e-5)


def test_the_mean_is_over_the_cosines_of_samples() -> None:
    """Both models are asked about the baseline's answers, also where their own differ."""
    baseline, inputs = images().trained_model(), images().inputs(40)
    other = shaken(baseline)
    answers = baseline(inputs).argmax(1)
    first, second = (
        InputXGradient(model).attribute(inputs.clone().requires_grad_(), target=answers).detach().flatten(1)
        for model in (baseline, other)
    )
    cosines = torch.cosine_similarity(first, second)
    found = explanation_similarity(baseline, other, inputs)
    assert found.mean == pytest.approx(float(cosines.mean()), abs=1e-5)
    assert found.p10 == pytest.approx(float(cosines.quantile(0.1)), abs=1e-5)
    assert (found.samples, found.of, found.reason) == (40, "inputs", "")
    assert 0.5 < float(cosines.mean()) < 0.9999
    assert explanation_similarity(baseline, other, inputs, samples=7).samples == 7


@pytest.mark.parametrize(
    ("family", "of"),
    [
        (encoder, "embeddings"), (gpt, "embeddings"), (gru, "inputs"), (char_lstm, "embeddings"),
        (variable_length, "inputs"), (recommender, "embeddings"), (two_heads, "inputs"), (dict_inputs, "inputs"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)  # fmt: skip
def test_every_kind_of_model_is_like_itself_and_less_like_another(family: Callable[[], Task], of: str) -> None:
    baseline, inputs = family().trained_model(), family().inputs(24)
    same = explanation_similarity(baseline, copy.deepcopy(baseline), inputs)
    assert (same.samples, same.of, same.reason) == (24, of, "")
    assert same.mean == pytest.approx(1, abs=1e-6)
    assert same.plain()["mean"] == same.mean
    other = explanation_similarity(baseline, shaken(baseline), inputs)
    assert other.mean is not None and other.mean < 0.99999


def test_the_opposite_is_minus_one() -> None:
    model = nn.Linear(4, 3, bias=False)
    opposite = copy.deepcopy(model)
    opposite.weight.data.neg_()
    assert explanation_similarity(model, opposite, torch.randn(8, 4)).mean == pytest.approx(-1)


def test_the_models_are_left_as_they_were() -> None:
    model, inputs = images().trained_model(), images().inputs(4)
    before = copy.deepcopy(model.state_dict())
    with torch.inference_mode():
        explanation_similarity(model, model, torch.clone(inputs))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not inputs.requires_grad
    assert not any(module._forward_hooks for module in model.modules())


class Wrapper(nn.Module):
    """What a compiled model ships in."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any) -> Any:
        return self.model(*inputs)


def test_a_wrapped_model_is_seen_through() -> None:
    baseline, tokens = encoder().trained_model(), encoder().inputs(8)
    assert explanation_similarity(baseline, Wrapper(baseline), tokens).mean == pytest.approx(1)


def test_a_compiled_model_is_run_as_it_was_written() -> None:
    baseline, tokens = encoder().trained_model(), encoder().inputs(8)
    compiled = torch.compile(baseline, backend=refuse)
    assert explanation_similarity(baseline, compiled, tokens).mean == pytest.approx(1)  # type: ignore[arg-type]


def refuse(graph: Any, inputs: Any) -> Any:
    raise AssertionError("compiled")


class Foreign(Runtime):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


class Rounded(nn.Module):
    """Integer arithmetic."""

    def __init__(self, zero: bool) -> None:
        super().__init__()
        self.zero = zero

    def forward(self, x: Tensor) -> Tensor:
        return x.round()[:, :4].mean(dim=(2, 3)) if self.zero else x.int()[:, :4].float().mean(dim=(2, 3))


class Picky(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("int8 wants a multiple of 7\nand more")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Foreign(), "Foreign runs in another runtime, which gives no gradients"),
        (Rounded(zero=False), "the outputs carry no gradients to the inputs"),
        (Rounded(zero=True), "the gradients are zero everywhere"),
        (Picky(), "no gradients could be had: RuntimeError: int8 wants a multiple of 7"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_model_without_gradients_gives_a_reason(model: nn.Module, reason: str) -> None:
    inputs, _ = bright_quarters(8, torch.Generator().manual_seed(0))
    baseline = nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = explanation_similarity(baseline, model, inputs)
    assert (found.mean, found.p10, found.samples, found.reason) == (None, None, 0, reason)


def test_tokens_without_their_embedding_give_a_reason() -> None:
    baseline, tokens = encoder().trained_model(), encoder().inputs(8)
    other = copy.deepcopy(baseline)
    other.lookup = other.embedding
    del other.embedding
    found = explanation_similarity(baseline, other, tokens)
    assert found.reason == "the model has no module 'embedding', which looks up tokens in the baseline"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", [gru, encoder, images], ids=lambda family: str(family.__name__))
def test_on_a_gpu(family: Callable[[], Task]) -> None:
    """Also where cuDNN gives no gradients of recurrent layers."""
    baseline, inputs = family().trained_model(), family().inputs(16)
    found = explanation_similarity(baseline, copy.deepcopy(baseline).cuda(), inputs)
    assert found.reason == "" and found.mean == pytest.approx(1, abs=1e-3)
