"""Linear CKA against its definition, and what it must and must not see."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from autocompress import Runtime, Task
from autocompress.damage import representation_similarity
from autocompress.damage.representations import block_paths, cka
from autocompress.testing_families import encoder, gpt, residual, variable_length, vit
from autocompress.testing_tasks import features, images


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def independence(first: Tensor, second: Tensor) -> float:
    """The unbiased HSIC of Song et al. (2012), equation 5, term by term, of inner products (N, N)."""
    count = len(first)
    k, l = (products.clone().fill_diagonal_(0) for products in (first, second))  # noqa: E741
    ones = torch.ones(count, dtype=torch.double)
    terms = (k @ l).trace() + (ones @ k @ ones) * (ones @ l @ ones) / ((count - 1) * (count - 2))
    return float((terms - 2 / (count - 2) * (ones @ k @ l @ ones)) / (count * (count - 3)))


def of(first: Tensor, second: Tensor) -> float:
    return cka(first @ first.T, second @ second.T)


@pytest.mark.parametrize("width", [2, 30, 500])
def test_it_is_as_defined(width: int) -> None:
    first, second = random(20, width, seed=0) + 1, random(20, 7, seed=1)
    second[:, :2] += first[:, :2]
    k, l = first @ first.T, second @ second.T  # noqa: E741
    expected = independence(k, l) / (independence(k, k) * independence(l, l)) ** 0.5
    assert cka(k, l) == pytest.approx(expected)


def test_with_many_samples_it_is_the_plain_one() -> None:
    """Of Kornblith et al. (2019), equation 4: the cross-covariance by the covariances."""
    first = random(3000, 5, seed=0)
    second = first @ random(5, 4, seed=1) + random(3000, 4, seed=2)
    x, y = first - first.mean(0), second - second.mean(0)
    plain = (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    assert of(first, second) == pytest.approx(float(plain), abs=2e-3)


def test_rotations_scales_and_shifts_are_not_seen() -> None:
    x = random(40, 12, seed=0)
    rotation = torch.linalg.qr(random(12, 12, seed=1)).Q
    assert of(x, x) == pytest.approx(1)
    assert of(x, 3 * x @ rotation + 5) == pytest.approx(1)
    assert of(x, x @ random(12, 12, seed=2)) < 0.95


def test_unrelated_features_are_unlike_however_many_there_are() -> None:
    """The plain estimate is near 1 here."""
    assert abs(of(random(64, 20_000, seed=0), random(64, 20_000, seed=1))) < 0.05


FAMILIES: dict[Callable[[], Task], list[str]] = {
    images: ["0", "1", "3", "4", "8"],
    residual: ["0", "1", "3", "4", "7"],
    vit: ["conv_proj", "encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1", "encoder.ln", "heads"],
    encoder: ["embedding", "encoder.layers.0", "encoder.layers.1", "head"],
    gpt: ["transformer.wte", "transformer.wpe", "transformer.h.0", "transformer.h.1", "transformer.ln_f", "lm_head"],
}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: str(family.__name__))
def test_the_blocks_of_every_kind_of_model(family: Callable[[], Task]) -> None:
    baseline, inputs = family().trained_model(), family().inputs(32)
    assert block_paths(baseline) == FAMILIES[family]
    found = representation_similarity(baseline, copy.deepcopy(baseline), inputs)
    assert [*found.blocks.values()] == pytest.approx([1.0] * len(found.blocks))
    assert {*found.blocks} | {*found.not_compared} == {*FAMILIES[family]}
    assert (found.samples, found.reason) == (32, "")
    assert found.plain()["blocks"] == found.blocks


def test_blocks_of_torchvision() -> None:
    from torchvision.models import mobilenet_v2, resnet18  # type: ignore[import-untyped]

    blocks = [f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)]
    assert block_paths(resnet18(weights=None)) == ["conv1", "bn1", *blocks, "fc"]
    assert block_paths(mobilenet_v2(weights=None)) == [*(f"features.{block}" for block in range(19)), "classifier"]


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def test_the_damaged_block_is_seen() -> None:
    baseline, inputs = residual().trained_model(), residual().inputs(64)
    other = copy.deepcopy(baseline)
    other.set_submodule("4", Noise())
    found = representation_similarity(baseline, other, inputs).blocks
    assert [found[path] for path in ("0", "1", "3")] == pytest.approx([1, 1, 1])
    assert abs(found["4"]) < 0.2


def test_widths_may_differ() -> None:
    task = features()
    found = representation_similarity(task.trained_model(), task.source("half").eval(), task.inputs(128))
    assert list(found.blocks) == ["0", "2", "4"]
    assert all(-0.1 < value < 0.95 for value in found.blocks.values())


def test_a_large_mean_leaves_digits_for_the_differences() -> None:
    """As layers before a normalization may have it."""
    plain, shifted = nn.Linear(6, 8, bias=False), nn.Linear(6, 8)
    shifted.load_state_dict({"weight": plain.weight, "bias": torch.full((8,), 3e4)})
    found = representation_similarity(nn.Sequential(plain), nn.Sequential(shifted), torch.randn(32, 6)).blocks
    assert found == pytest.approx({"0": 1}, abs=1e-3)


class Foreign(Runtime):
    pass


def test_what_cannot_be_compared_is_told() -> None:
    baseline, inputs = residual().trained_model(), residual().inputs(32)
    assert isinstance(baseline, nn.Sequential)
    fewer = copy.deepcopy(baseline)
    for place in (7, 4):
        del fewer[place]
    fewer.append(nn.Flatten())
    found = representation_similarity(baseline, fewer, inputs)
    assert found.not_compared == {"7": "gone"}
    foreign = representation_similarity(baseline, Foreign(), inputs)
    assert foreign.reason == "Foreign runs in another runtime: its blocks are hidden"
    few = representation_similarity(baseline, baseline, inputs[:3])
    assert few.reason == "it takes 4 samples, but there are 3"
    wrong = representation_similarity(baseline, features().trained_model(), inputs)
    assert wrong.reason.startswith("the blocks could not be seen: RuntimeError: ")
    constant = representation_similarity(baseline, baseline, inputs[:1].expand(8, -1, -1, -1))
    assert set(constant.not_compared.values()) == {"it gives the same for every sample"}


def test_packed_sequences_are_no_features_by_sample() -> None:
    task = variable_length()
    model = task.trained_model()
    found = representation_similarity(model, model, task.inputs(16))
    assert found.not_compared == {"rnn": "gives no features by sample"}
    assert found.blocks == pytest.approx({"head": 1})


def test_a_block_that_is_not_run_is_told() -> None:
    baseline = images().trained_model()
    other = copy.deepcopy(baseline)
    other.get_submodule("4").forward = None  # type: ignore[assignment]
    other.forward = lambda x: x
    found = representation_similarity(baseline, other, images().inputs(8))
    assert set(found.not_compared.values()) == {"never called"}


def test_only_the_first_samples_are_looked_at_and_no_hook_stays() -> None:
    baseline, inputs = images().trained_model(), images().inputs(40)
    assert representation_similarity(baseline, baseline, inputs, samples=10).samples == 10
    assert not any(module._forward_hooks for module in baseline.modules())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    baseline, inputs = residual().trained_model(), residual().inputs(64)
    found = representation_similarity(baseline, copy.deepcopy(baseline).cuda(), inputs)
    assert found.reason == "" and [*found.blocks.values()] == pytest.approx([1.0] * 5, abs=1e-3)
