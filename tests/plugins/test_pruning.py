from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_pruning as tp
from autocompress_pruning import (
    AttentionHeads,
    LayerDropping,
    StructuredBatchNormScale,
    StructuredErrorChange,
    StructuredHessian,
    StructuredLamp,
    StructuredMagnitude,
    StructuredRandom,
    StructuredTaylor,
)
from autocompress_pruning.attention import SplitAttention, attentions
from autocompress_pruning.belonging import left_out
from autocompress_pruning.lamp import lamp
from autocompress_pruning.ranking import Scope, least_important
from autocompress_pruning.replay import decode, encode, replay
from autocompress_pruning.scores import from_gradients, group_scores, magnitude
from autocompress_pruning.trace import Group, find_groups
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autocompress import Method, NotApplicable, Target, Task
from autocompress.compress import fill
from autocompress.effect import byte_count, output_error, outputs
from autocompress.leaves import leaves
from autocompress.tensors import call
from autocompress.testing_families import FAMILIES
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


def pruned(task: Task, method: Method | None = None, **params: Any) -> nn.Module:
    """By `method`, magnitude if not given, with its defaults and no rounding unless `params` say so."""
    method = method or StructuredMagnitude()
    plan = decide(task, method, **params)
    return method.reshape(task.trained_model(), plan).eval()


def decide(task: Task, method: Method, **params: Any) -> Any:
    space = method.search_space(task)
    given = ({"round_to": 1} if "round_to" in space else {}) | params
    return json.loads(json.dumps(method.decide(task.trained_model(), fill(method.name, space, given), task)))


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in leaves(model).items()}


def resnet18() -> nn.Module:
    from torchvision.models import resnet18  # type: ignore[import-untyped]

    model: nn.Module = resnet18(num_classes=5)
    return model


CASES: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "convnet": lambda: (images().trained_model(), torch.randn(4, 3, 8, 8)),
    "residual": lambda: (Residual(), torch.randn(4, 3, 8, 8)),
    "resnet18": lambda: (resnet18(), torch.randn(2, 3, 32, 32)),
}


@pytest.mark.parametrize("case", CASES)
def test_replay_gives_what_torch_pruning_itself_gives(case: str) -> None:
    torch.manual_seed(0)
    model, inputs = CASES[case]()
    task = make_task(model, inputs)
    expected = task.trained_model()
    scores = group_scores(expected, find_groups(expected, inputs), magnitude(2))
    names = {module: name for name, module in expected.named_modules()}
    tp.pruner.BasePruner(
        expected, inputs, importance=lambda group: scores[names[group[0].dep.target.module]], pruning_ratio=0.5,
        ignored_layers=[module for module in expected.modules() if isinstance(module, nn.Linear)],
        in_channel_groups={}, out_channel_groups={}, num_heads={},
    ).step()  # fmt: skip
    actual = pruned(task)
    assert shapes(actual) == shapes(expected)
    torch.testing.assert_close(actual(inputs), expected.eval()(inputs), rtol=0, atol=0)


def test_magnitude_is_torch_prunings() -> None:
    model, inputs = images().trained_model(), images().inputs(2)
    scores = group_scores(model, find_groups(model, inputs), magnitude(2))
    graph = tp.DependencyGraph().build_dependency(model, inputs)
    for name, score in scores.items():
        layer = model.get_submodule(name)
        group = graph.get_pruning_group(layer, tp.prune_conv_out_channels, list(range(len(score))))
        torch.testing.assert_close(score, tp.importance.GroupMagnitudeImportance(p=2)(group))


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
    assert shapes(pruned(images(), ratio=ratio, round_to=round_to))["3.weight"][0] == left  # of 24


@pytest.mark.parametrize("ratio", [0.1, 0.9])
def test_narrow_layers_keep_a_channel(ratio: float) -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 1, 1), nn.Flatten(), nn.Linear(16, 2))
    inputs = torch.randn(2, 3, 4, 4)
    left = pruned(make_task(model, inputs), ratio=ratio, round_to=8)
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


class Permuted(nn.Module):
    """Images (B, 3, 4, 4) -> logits (B, 5); a linear layer reads the channels place by place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 3, padding=1)
        self.hidden, self.head = nn.Linear(4 * 16, 12), nn.Linear(12, 5)

    def forward(self, images: Tensor) -> Tensor:
        mixed = self.second(self.first(images).relu()).relu()  # (B, 4, 4, 4)
        logits: Tensor = self.head(self.hidden(mixed.permute(0, 2, 3, 1).flatten(1)).relu())
        return logits


class Shuffled(nn.Module):
    """Images (B, 3, 4, 4) -> logits (B, 5); the channels of two halves are shuffled as in ShuffleNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.reader, self.head = nn.Conv2d(16, 24, 3, padding=1), nn.Linear(24, 5)

    def forward(self, images: Tensor) -> Tensor:
        first, second = self.stem(images).relu().chunk(2, dim=1)
        joined = torch.cat([first, self.branch(second)], dim=1)
        shuffled = joined.view(len(joined), 2, -1, *joined.shape[2:]).transpose(1, 2).flatten(1, 2)
        logits: Tensor = self.head(self.reader(shuffled).relu().mean((2, 3)))
        return logits


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Flatten(), nn.Linear(64, 5),
    )  # fmt: skip


def residual() -> nn.Module:
    model = Residual()
    model.norm = nn.Identity()  # type: ignore[assignment]
    return model


def silenced(model: nn.Module, plan: Any) -> nn.Module:
    """The model with zeros for all that gives the channels which go; what reads them is as it was."""
    with torch.no_grad():
        for removal in (removal for removals in plan["rounds"] for removal in removals):
            for name in removal.get("out", []):
                for parameter in model.get_submodule(name).parameters():
                    parameter[decode(removal["removed"])] = 0
    return model.eval()


@pytest.mark.parametrize(
    ("build", "size", "left_alone"),
    [(plain, 4, []), (residual, 8, []), (Permuted, 4, ["second"]), (Shuffled, 4, ["branch", "stem"])],
)
@pytest.mark.parametrize("seed", range(3))
def test_without_channels_the_model_computes_what_it_does_when_they_give_zeros(
    build: Callable[[], nn.Module], size: int, left_alone: list[str], seed: int
) -> None:
    torch.manual_seed(seed)
    model, inputs = build(), torch.randn(16, 3, size, size)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    task, method = make_task(model, inputs), StructuredMagnitude()
    plan = decide(task, method, ratio=0.4)
    assert plan["fixed"] == left_alone
    smaller = method.reshape(task.trained_model(), plan).eval()
    assert sizes(task, smaller) < 0.95
    assert output_error(outputs(smaller, inputs), outputs(silenced(task.trained_model(), plan), inputs)) < 1e-5


def test_channels_belong_together_in_any_order() -> None:
    """Norms over the channels and attention count what is left, so leaving channels out is no measure for them."""
    for task in (make_task(Residual(), torch.randn(2, 3, 8, 8)), FAMILIES["vit"](), FAMILIES["llama"]()):
        assert decide(task, StructuredMagnitude())["fixed"] == []


def test_random_removes_as_much_and_other_channels() -> None:
    plans = [decide(images(), method) for method in (StructuredMagnitude(), StructuredRandom())]
    models = [StructuredRandom().reshape(images().trained_model(), plan) for plan in plans]
    assert shapes(models[0]) == shapes(models[1]) and plans[0] != plans[1]


def test_plan_is_small() -> None:
    assert len(json.dumps(decide(images(), StructuredMagnitude()))) < 400


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
    reason = (
        "structured_magnitude removes channels of convolutions and linear layers, but this model has none that may go:"
    )
    with pytest.raises(NotApplicable, match=re.escape(reason)):
        StructuredMagnitude().check(make_task(Recurrent(), torch.randn(2, 5, 4)), CPU)


def test_a_model_that_cannot_be_traced_is_not_applicable() -> None:
    class Shuffled(nn.Sequential):
        def forward(self, input: Tensor) -> Tensor:
            logits: Tensor = self[0](input.detach()).detach()
            return logits

    reason = "structured_magnitude removes channels"
    with pytest.raises(NotApplicable, match=reason):
        StructuredMagnitude().check(make_task(Shuffled(nn.Linear(4, 2)), torch.randn(2, 4)), CPU)


def neox(use_cache: bool = False) -> nn.Module:
    """Its queries, keys and values come from one layer, head by head."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    model: nn.Module = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=40, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64,
            max_position_embeddings=16, use_cache=use_cache,
        )
    )  # fmt: skip
    return model


def test_indices_that_no_channel_has_make_no_group() -> None:
    groups = find_groups(neox(), {"input_ids": torch.randint(40, (2, 8))})
    assert groups
    assert not any("query_key_value" in group.root for group in groups)
    assert all(min(member.indices) >= 0 for group in groups for member in group.members)


def test_what_torch_pruning_fails_at_is_said_in_words() -> None:
    reason = "through the model, but it does not understand what the model's forward does with them$"
    with pytest.raises(NotApplicable, match=reason):
        find_groups(neox(use_cache=True), {"input_ids": torch.randint(40, (2, 8))})


def test_channels_that_a_grouped_transposed_convolution_reads_stay_and_that_is_said() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ConvTranspose2d(16, 32, 4, groups=4), nn.ReLU(), nn.Conv2d(32, 3, 3))
    with pytest.raises(NotApplicable, match=r"; 0: .* or a layer that reads them \(a grouped transposed convolution\)"):
        StructuredMagnitude().check(make_task(model, torch.randn(2, 3, 8, 8)), CPU)


def test_decide_needs_no_gradients_and_leaves_the_model_alone() -> None:
    model = images().trained_model()
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        params = {"ratio": 0.5, "round_to": 8, "norm": "l2"}
        plan = StructuredMagnitude().decide(model, params, images())
    assert plan["rounds"]
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


STRUCTURED = [
    StructuredBatchNormScale(), StructuredErrorChange(), StructuredHessian(), StructuredLamp(), StructuredMagnitude(),
    StructuredRandom(), StructuredTaylor(),
]  # fmt: skip


def sizes(task: Task, model: nn.Module) -> float:
    """The model's bytes by those of the task's."""
    return byte_count(leaves(model)) / byte_count(leaves(task.trained_model()))


@pytest.mark.parametrize("family", ["llama", "gpt", "bert"])
def test_width_and_feed_forward_of_language_models_go(family: str) -> None:
    task = FAMILIES[family]()
    StructuredMagnitude().check(task, CPU)
    model = pruned(task)
    assert sizes(task, model) < 0.45
    embedding = next(module for module in model.modules() if isinstance(module, nn.Embedding))
    assert embedding.embedding_dim == 16  # of 32
    assert [attention.heads for attention in attentions(model)] == [4, 4]


def test_outputs_by_name_and_a_flattened_branch_in_a_concatenation() -> None:
    model = pruned(FAMILIES["dict_inputs"]())
    assert shapes(model)["conv.0.weight"] == (8, 3, 3, 3) and shapes(model)["linear.0.weight"] == (16, 16)
    assert shapes(model)["head.weight"] == (4, 8 * 4 + 16)


def test_a_search_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autocompress_pruning.trace._STEPS_A_NODE", 0)
    with pytest.raises(NotApplicable, match="its search for channels that depend on one another has no end"):
        find_groups(images().trained_model(), images().inputs(2))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_what_a_recurrent_layer_takes_can_be_narrower(kind: type[nn.LSTM | nn.GRU | nn.RNN]) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside, self.rnn = nn.Linear(6, 16), kind(16, 8, batch_first=True, bidirectional=True)
            self.head = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.rnn(self.inside(x).relu())[0][:, -1])
            return logits

    torch.manual_seed(0)
    model, inputs = Mixed().eval(), torch.randn(2, 5, 6)
    (group,) = find_groups(model, inputs)
    with left_out(model, group, range(0, 16, 2)):
        expected = outputs(model, inputs)
    smaller = replay(copy.deepcopy(model), group.removals(range(0, 16, 2)))
    assert shapes(smaller)["rnn.weight_ih_l0_reverse"][1] == 8
    assert output_error(outputs(smaller, inputs), expected) < 1e-6


@pytest.mark.parametrize("family", ["residual", "mobilenet", "efficientnet", "grouped", "dict_inputs", "recommender"])
def test_leaving_out_is_what_removing_gives(family: str) -> None:
    task = FAMILIES[family]()
    model, inputs = task.trained_model(), task.inputs(8)
    before = copy.deepcopy(model.state_dict())
    for group in find_groups(model, inputs):
        channels = [index for index in range(group.size) if index % (group.size // group.blocks) % 2]
        with left_out(model, group, channels):
            expected = outputs(model, inputs)
        smaller = replay(copy.deepcopy(model), group.removals(channels))
        assert output_error(outputs(smaller, inputs), expected) < 1e-5
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


@pytest.mark.parametrize("method", STRUCTURED, ids=lambda method: method.name)
def test_the_ratio_is_the_share_of_channels_that_go(method: Method) -> None:
    task = FAMILIES["residual"]()
    uniform = {"scope": "uniform"} if method.name not in ("structured_random", "structured_lamp") else {}
    left = shapes(pruned(task, method, ratio=0.25, **uniform))
    widths = [left[name][0] for name in ("0.weight", "3.conv1.weight", "4.conv1.weight", "4.conv2.weight")]
    assert sum(widths) == 48  # of 4 x 16
    assert not uniform or widths == [12, 12, 12, 12]


def group(root: str, size: int, kind: str = "", blocks: int = 1) -> Group:
    return Group(root, size, blocks, kind, ())


def test_scopes() -> None:
    groups = [group("a", 4, "conv"), group("b", 4, "conv"), group("c", 4, "linear")]
    scores = {"a": torch.tensor([1.0, 2, 3, 4]), "b": torch.tensor([5.0, 6, 7, 8]), "c": torch.tensor([0.4, 0.3, 9, 9])}

    def gone(scope: Scope) -> dict[str, list[int]]:
        return least_important(groups, scores, 0.5, 1, scope)

    assert gone(Scope.UNIFORM) == {"a": [0, 1], "b": [0, 1], "c": [0, 1]}
    assert gone(Scope.ISOMORPHIC) == {"a": [0, 1, 2], "b": [0], "c": [0, 1]}
    assert gone(Scope.GLOBAL) == {"a": [0, 1, 2], "b": [0], "c": [0, 1]}
    assert least_important(groups, scores, 0.25, 1, Scope.GLOBAL) == {"a": [0], "c": [0, 1]}


def test_rounding_never_undoes_all() -> None:
    assert least_important([group("a", 128)], {"a": torch.arange(128.0)}, 0.1, 64, Scope.UNIFORM) == {
        "a": list(range(64))
    }


def test_blocks_lose_the_same_places() -> None:
    scores = {"a": torch.tensor([5.0, 1, 5, 5, 1, 5])}
    assert least_important([group("a", 6, blocks=2)], scores, 0.34, 1, Scope.UNIFORM) == {"a": [1, 4]}


def test_lamp() -> None:
    torch.testing.assert_close(lamp(torch.tensor([3.0, 1, 4])), torch.tensor([3 / 7, 1 / 8, 1.0]))


def test_rounds_end_at_the_same_width() -> None:
    once, often = (shapes(pruned(images(), StructuredTaylor(), steps=steps)) for steps in (1, 4))
    assert once == often
    plans = [decide(images(), StructuredTaylor(), steps=steps) for steps in (1, 4)]
    assert [len(plan["rounds"]) for plan in plans] == [1, 4]


def dead(task: Task) -> nn.Module:
    """The model with channels 0, 2 and 5 of its first convolution cut off from what comes after, yet large."""
    model = task.trained_model()
    with torch.no_grad():
        model.get_parameter("0.weight")[[0, 2, 5]] *= 100
        model.get_parameter("1.weight")[[0, 2, 5]] *= 10
        model.get_parameter("3.weight")[:, [0, 2, 5]] = 0
    return model


@pytest.mark.parametrize(
    ("method", "finds"),
    [
        (StructuredTaylor(), True),
        (StructuredHessian(), True),
        (StructuredMagnitude(), False),
        (StructuredBatchNormScale(), False),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_methods_that_look_at_data_find_channels_without_effect(method: Method, finds: bool) -> None:
    task = dataclasses.replace(images(), model=dead(images()))
    (removals,) = decide(task, method, ratio=0.2, scope="uniform")["rounds"]
    (first,) = (removal for removal in removals if "0" in removal.get("out", []))
    assert (decode(first["removed"]) == [0, 2, 5]) == finds


def test_gradients_are_those_of_the_loss() -> None:
    task = FAMILIES["features"]()
    model = task.trained_model()
    importance = from_gradients(model, task, 256, 256, lambda weight, gradient: gradient)
    data = torch.utils.data.default_collate([task.train[index] for index in range(256)])
    task.loss(model(data[0]), data[1]).backward()  # type: ignore[no-untyped-call]
    weight = model.get_parameter("0.weight")
    assert weight.grad is not None
    torch.testing.assert_close(importance(model, weight), weight.grad)


def test_error_change_is_the_change_of_the_loss() -> None:
    task = dataclasses.replace(images(), model=dead(images()))
    model = task.trained_model()
    groups = find_groups(model, task.inputs(2))
    params = {"samples": 256, "evaluations": 64, "seconds": 60}
    scores = StructuredErrorChange().scores(model, groups, params, task)["0"]
    assert scores[[0, 2, 5]].tolist() == [0, 0, 0]
    data = torch.utils.data.default_collate([task.train[index] for index in range(256)])
    (first,) = (group for group in groups if group.root == "0")
    without = replay(copy.deepcopy(model), first.removals([7])).eval()
    change = task.loss(without(data[0]), data[1]) - task.loss(model(data[0]), data[1])
    torch.testing.assert_close(scores[7], change.detach())


def test_error_change_keeps_to_its_evaluations() -> None:
    calls = 0
    task = images()

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return nn.functional.cross_entropy(logits, targets)

    decide(dataclasses.replace(task, loss=loss), StructuredErrorChange(), evaluations=32, samples=16)
    assert 15 < calls <= 36  # 40 channels, two at a time at least, and the loss without pruning


@pytest.mark.parametrize("family", ["vit", "encoder", "bert", "llama", "gpt"])
def test_without_heads_the_model_computes_what_it_does_without_their_part(family: str) -> None:
    task = FAMILIES[family]()
    method = AttentionHeads()
    plan = decide(task, method, ratio=0.5)
    model, inputs = method.reshape(task.trained_model(), plan).eval(), task.inputs(8)
    found = {attention.name: attention for attention in attentions(model)}
    assert plan["fixed"] == [] and [found[name].heads for name in plan["heads"]] == [2, 2]
    full = method.reshape(task.trained_model(), {"heads": dict.fromkeys(plan["heads"], []), "fixed": []}).eval()
    assert output_error(outputs(full, inputs), outputs(task.trained_model(), inputs)) < 1e-5
    silent = copy.deepcopy(full)
    for attention in attentions(silent):
        channels = [channel for head in plan["heads"][attention.name] for channel in attention.query_channels(head)]
        weight = silent.get_parameter(f"{attention.output}.weight")
        with torch.no_grad():
            weight.index_fill_(0 if family == "gpt" else 1, torch.tensor(channels), 0)
    assert output_error(outputs(model, inputs), outputs(silent, inputs)) < 1e-5


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_split_attention_is_multihead_attention(batch_first: bool, need_weights: bool) -> None:
    torch.manual_seed(0)
    whole = nn.MultiheadAttention(16, 4, batch_first=batch_first).eval()
    shape = (2, 5, 16) if batch_first else (5, 2, 16)
    query, key = torch.randn(shape), torch.randn(shape)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    causal = torch.ones(5, 5).triu(1).bool()
    arguments = {"key_padding_mask": padding, "attn_mask": causal, "need_weights": need_weights}
    expected, weights = whole(query, key, key, **arguments)
    actual, given = SplitAttention(whole)(query, key, key, **arguments)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(given, weights)


def test_a_mask_by_head_is_refused() -> None:
    attention, x = SplitAttention(nn.MultiheadAttention(16, 4, batch_first=True)), torch.randn(2, 5, 16)
    with pytest.raises(
        ValueError, match=re.escape("attn_mask must be (L, S) after heads were removed, but has shape (")
    ):
        attention(x, x, x, attn_mask=torch.zeros(8, 5, 5))


def test_heads_are_found_by_what_the_loss_needs() -> None:
    task = FAMILIES["encoder"]()
    model = task.trained_model()
    with torch.no_grad():
        for layer in (0, 1):
            model.get_parameter(f"encoder.layers.{layer}.self_attn.out_proj.weight")[:, 8:16] = 0
    heads = decide(dataclasses.replace(task, model=model), AttentionHeads(), ratio=0.25)["heads"]
    assert heads == {f"encoder.layers.{layer}.self_attn": [1] for layer in (0, 1)}


def test_a_model_without_heads_is_not_applicable() -> None:
    with pytest.raises(
        NotApplicable, match="attention_heads removes heads from nn.MultiheadAttention and from attention"
    ):
        AttentionHeads().check(images(), CPU)


@pytest.mark.parametrize("family", ["vit", "encoder", "bert", "llama", "gpt"])
def test_heads_blocks_and_channels_can_all_go(family: str) -> None:
    task = FAMILIES[family]()
    model = task.trained_model()
    for method in (AttentionHeads(), StructuredMagnitude(), LayerDropping()):
        model = pruned(dataclasses.replace(task, model=model), method)
    assert sizes(task, model) < 0.25
    assert [tensor.shape for tensor in outputs(model, task.inputs(4))] == [
        tensor.shape for tensor in outputs(task.trained_model(), task.inputs(4))
    ]
    other = dataclasses.replace(task, model=pruned(task, StructuredMagnitude()))
    assert sizes(other, pruned(other, AttentionHeads())) < 0.95


def test_the_block_without_effect_is_dropped() -> None:
    task = FAMILIES["residual"]()
    model = task.trained_model()
    with torch.no_grad():
        model.get_parameter("3.bn2.weight").zero_()
        model.get_parameter("3.bn2.bias").zero_()
    changed = dataclasses.replace(task, model=model)
    assert decide(changed, LayerDropping())["dropped"] == ["3"]
    assert output_error(outputs(pruned(changed, LayerDropping()), task.inputs(8)), outputs(model, task.inputs(8))) == 0


def test_no_list_is_emptied_and_ratio_is_of_blocks() -> None:
    task = make_task(resnet18(), torch.randn(8, 3, 32, 32))
    method = LayerDropping()
    assert len(decide(task, method, ratio=0.4)["dropped"]) == 2  # of 5 that keep their shape
    model = pruned(task, method, ratio=0.8)
    assert [len(list(model.get_submodule(f"layer{stage}").children())) for stage in (1, 2, 3, 4)] == [1, 1, 1, 1]


def test_a_shorter_decoder_still_generates_with_its_cache() -> None:
    task = FAMILIES["llama"]()
    model = LayerDropping().reshape(task.trained_model(), {"dropped": ["model.layers.0"], "fixed": []})
    tokens = task.inputs(2)["input_ids"][:, :4]
    cached, anew = (
        model.generate(tokens, max_new_tokens=4, do_sample=False, use_cache=use_cache, pad_token_id=0)  # type: ignore[operator]
        for use_cache in (True, False)
    )
    assert cached.tolist() == anew.tolist() and cached.shape == (2, 8)


def test_blocks_that_the_code_needs_stay() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Sequential(nn.Linear(8, 8)), nn.ReLU()) for _ in range(2))
            self.head = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            first, second = self.blocks
            logits: Tensor = self.head(second(first(x)))
            return logits

    with pytest.raises(NotApplicable, match="layer_dropping drops blocks, modules with layers of their own"):
        LayerDropping().check(make_task(Pair(), torch.randn(2, 8)), CPU)


def test_frozen_stay_frozen_and_the_rest_trains_without_heads() -> None:
    task = FAMILIES["encoder"]()
    frozen = task.trained_model()
    frozen.get_submodule("encoder.layers.0.self_attn").requires_grad_(False)
    model = pruned(dataclasses.replace(task, model=frozen), AttentionHeads())
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert not any(trained[f"encoder.layers.0.self_attn.{layer}.weight"] for layer in ("q_proj", "out_proj"))
    assert all(trained[f"encoder.layers.1.self_attn.{layer}.weight"] for layer in ("q_proj", "out_proj"))
    call(model.train(), task.inputs(4)).sum().backward()
