from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_pruning as tp
import torchvision  # type: ignore[import-untyped]
from autocompress_pruning import StructuredMagnitude, StructuredRandom
from autocompress_pruning.replay import decode, encode
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autocompress import NotApplicable, Target, Task
from autocompress.leaves import leaves
from autocompress.testing_tasks import images

CPU = Target("cpu")


class Residual(nn.Module):
    """Images (B, 3, 8, 8); a residual block with a depthwise convolution -> logits (B, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.block = nn.Sequential(
            nn.Conv2d(16, 32, 1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.Conv2d(32, 16, 1),
        )  # fmt: skip
        self.norm = nn.GroupNorm(4, 16)
        self.head = nn.Linear(16 * 4, 5)

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images)
        mixed = self.norm(stem + self.block(stem))  # (B, 16, 8, 8)
        logits: Tensor = self.head(nn.functional.adaptive_avg_pool2d(mixed, 2).flatten(1))
        return logits


class Encoder(nn.Module):
    """Tokens (B, 6) -> logits (B, 6, 50); the embedding is tied to the head, the positions are a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 6, 32))
        self.embedding = nn.Embedding(50, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 50)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(self.embedding(tokens) + self.positions))
        return logits


def make_task(model: nn.Module, inputs: Tensor) -> Task:
    data = TensorDataset(inputs, torch.zeros(len(inputs), dtype=torch.long))
    return Task(model=model, train=data, validation=data, test=data)


def pruned(task: Task, ratio: float = 0.5, round_to: int = 1) -> nn.Module:
    method = StructuredMagnitude()
    plan = method.decide(task.trained_model(), {"ratio": ratio, "round_to": round_to}, task)
    return method.reshape(task.trained_model(), json.loads(json.dumps(plan)))


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in leaves(model).items()}


CASES: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "convnet": lambda: (images().trained_model(), torch.randn(4, 3, 8, 8)),
    "residual": lambda: (Residual(), torch.randn(4, 3, 8, 8)),
    "resnet18": lambda: (torchvision.models.resnet18(num_classes=5), torch.randn(2, 3, 32, 32)),
}


@pytest.mark.parametrize("case", CASES)
def test_replay_gives_what_torch_pruning_itself_gives(case: str) -> None:
    torch.manual_seed(0)
    model, inputs = CASES[case]()
    task = make_task(model, inputs)
    expected = task.trained_model()
    heads = [module for module in expected.modules() if isinstance(module, nn.Linear)]
    tp.pruner.BasePruner(
        expected, inputs, importance=tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=0.5,
        ignored_layers=heads, in_channel_groups={}, out_channel_groups={}, num_heads={},
    ).step()  # fmt: skip
    actual = pruned(task)
    assert shapes(actual) == shapes(expected)
    torch.testing.assert_close(actual(inputs), expected.eval()(inputs), rtol=0, atol=0)


def test_channels_are_gone_and_the_head_is_kept() -> None:
    model = pruned(images())
    assert shapes(model)["0.weight"] == (8, 3, 3, 3)
    assert shapes(model)["3.weight"] == (12, 8, 3, 3)
    assert shapes(model)["8.weight"] == (4, 12 * 4)


def test_a_depthwise_convolution_and_a_group_norm_follow() -> None:
    torch.manual_seed(0)
    model = pruned(make_task(Residual(), torch.randn(2, 3, 8, 8)))
    depthwise = model.get_submodule("block.3")
    assert isinstance(depthwise, nn.Conv2d) and depthwise.groups == depthwise.out_channels == 16
    assert shapes(model)["norm.weight"] == (8,)
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 5)


@pytest.mark.parametrize(("ratio", "round_to", "left"), [(0.25, 1, 18), (0.25, 8, 16), (0.9, 1, 2), (0.9, 8, 8)])
def test_ratio_and_rounding(ratio: float, round_to: int, left: int) -> None:
    assert shapes(pruned(images(), ratio, round_to))["3.weight"][0] == left  # of 24


@pytest.mark.parametrize("ratio", [0.1, 0.9])
def test_narrow_layers_keep_a_channel(ratio: float) -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 1, 1), nn.Flatten(), nn.Linear(16, 2))
    inputs = torch.randn(2, 3, 4, 4)
    left = pruned(make_task(model, inputs), ratio, round_to=8)
    assert shapes(left)["0.weight"][0] >= 1 and left(inputs).shape == (2, 2)


def test_transformer_keeps_its_ties_and_whole_heads() -> None:
    torch.manual_seed(0)
    model = pruned(make_task(Encoder(), torch.randint(50, (4, 6))))
    assert shapes(model)["positions"] == (1, 6, 16)
    assert model.get_parameter("head.weight") is model.get_parameter("embedding.weight")
    assert model(torch.randint(50, (2, 6))).shape == (2, 6, 50)


def test_frozen_parameters_stay_frozen() -> None:
    model = pruned(make_task(images().trained_model().requires_grad_(False), torch.randn(2, 3, 8, 8)))
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_width_in_the_models_own_code_is_left_alone() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fixed, self.free, self.head = nn.Linear(4, 12), nn.Linear(4, 16), nn.Linear(16, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            folded = self.fixed(inputs).view(-1, 3, 4).sum(1)  # (B, 4)
            logits: Tensor = self.head(self.free(folded).relu())
            return logits

    model = pruned(make_task(Fixed(), torch.randn(2, 4)))
    assert shapes(model)["fixed.weight"] == (12, 4) and shapes(model)["free.weight"] == (8, 4)


def test_random_removes_as_much_and_other_channels() -> None:
    params = {"ratio": 0.5, "round_to": 1}
    methods = StructuredMagnitude(), StructuredRandom()
    plans = [method.decide(images().trained_model(), params, images()) for method in methods]
    models = [StructuredRandom().reshape(images().trained_model(), plan) for plan in plans]
    assert shapes(models[0]) == shapes(models[1]) and plans[0] != plans[1]


def test_plan_is_small() -> None:
    plan = StructuredMagnitude().decide(images().trained_model(), {"ratio": 0.5, "round_to": 8}, images())
    assert len(json.dumps(plan)) < 400


@pytest.mark.parametrize(("indices", "text"), [([], ""), ([3], "3"), ([5, 0, 1, 2, 7, 8], "0-2 5 7-8")])
def test_ranges(indices: list[int], text: str) -> None:
    assert encode(indices) == text and decode(text) == sorted(indices)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(4, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.gru(inputs)[0][:, -1])
        return logits


def test_recurrent_model_is_not_applicable() -> None:
    reason = "structured_magnitude removes channels of Conv and Linear layers, but this model has none that may go:"
    with pytest.raises(NotApplicable, match=re.escape(reason)):
        StructuredMagnitude().check(make_task(Recurrent(), torch.randn(2, 5, 4)), CPU)


def test_a_model_that_cannot_be_traced_is_not_applicable() -> None:
    class Named(nn.Sequential):
        def forward(self, input: Tensor) -> Any:
            return {"logits": self[0](input), "name": "a string has no gradient"}

    reason = "Torch-Pruning must be able to trace the model, but: AttributeError: 'str' object has no attribute"
    with pytest.raises(NotApplicable, match=re.escape(reason)):
        StructuredMagnitude().check(make_task(Named(nn.Linear(4, 2)), torch.randn(2, 4)), CPU)


def test_decide_needs_no_gradients_and_leaves_the_model_alone() -> None:
    model = images().trained_model()
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        plan = StructuredMagnitude().decide(model, {"ratio": 0.5, "round_to": 8}, images())
    assert plan["removals"]
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
