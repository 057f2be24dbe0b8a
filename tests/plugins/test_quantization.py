from __future__ import annotations

from typing import Any

import pytest
import torch
from autocompress_quantization import Int8Dynamic, Int8WeightOnly
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autocompress import NotApplicable, Target, Task
from autocompress.leaves import leaves, load_leaves
from autocompress.metric import top1_accuracy
from autocompress.testing_tasks import features, images

CPU = Target("cpu")
METHODS = pytest.mark.parametrize("method", [Int8WeightOnly(), Int8Dynamic()], ids=lambda method: method.name)


def quantized(method: Int8WeightOnly | Int8Dynamic, task: Task) -> nn.Module:
    plan = method.decide(task.trained_model(), {}, task)
    return method.finalize(task.trained_model(), plan, task, CPU)


def make_task(model: nn.Module, inputs: Tensor) -> Task:
    data = TensorDataset(inputs, torch.zeros(len(inputs), dtype=torch.long))
    return Task(model=model, train=data, validation=data, test=data)


def size_bytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in leaves(model).values())


@METHODS
def test_weights_are_stored_a_byte_each(method: Int8WeightOnly | Int8Dynamic) -> None:
    model = quantized(method, features())
    stored = leaves(model)
    assert stored["0.weight.qdata"].dtype == torch.int8 and stored["0.weight.qdata"].shape == (32, 16)
    assert stored["0.bias"].dtype == torch.float32
    assert size_bytes(model) < 0.5 * size_bytes(features().trained_model())


@METHODS
def test_outputs_are_close_to_those_of_the_trained_model(method: Int8WeightOnly | Int8Dynamic) -> None:
    inputs, targets = features().validation[:]
    with torch.no_grad():
        before, after = features().trained_model()(inputs), quantized(method, features())(inputs)
    assert (after - before).abs().max() < 0.05 * before.abs().max()
    assert top1_accuracy(after, targets) > top1_accuracy(before, targets) - 0.02


def test_weight_only_is_a_scale_a_row() -> None:
    """Against the textbook: symmetric, the largest weight of a row becomes 127.5 steps."""
    weight = features().trained_model().get_parameter("0.weight").detach()  # (32, 16)
    stored = leaves(quantized(Int8WeightOnly(), features()))
    scale = weight.abs().amax(dim=1, keepdim=True) / 127.5  # (32, 1)
    torch.testing.assert_close(stored["0.weight.scale"], scale)
    steps = (weight / scale).round().clamp(-128, 127).to(torch.int8)
    torch.testing.assert_close(stored["0.weight.qdata"], steps, atol=1, rtol=0)  # ties of rounding


@METHODS
def test_stored_tensors_load_into_the_restored_structure(method: Int8WeightOnly | Int8Dynamic) -> None:
    plan = method.decide(images().trained_model(), {}, images())
    made = method.finalize(images().trained_model(), plan, images(), CPU)
    other = images().trained_model()
    nn.init.normal_(other.get_parameter("8.weight"))
    restored = method.restore(other, plan, CPU)
    load_leaves(restored, leaves(made))
    weights = [model.get_parameter("8.weight") for model in (made, restored)]
    assert weights[0].__tensor_flatten__() == weights[1].__tensor_flatten__()  # type: ignore[attr-defined]
    inputs = images().inputs(8)
    torch.testing.assert_close(restored(inputs), made(inputs), rtol=0, atol=0)


@METHODS
def test_a_transformers_attention_is_left_alone(method: Int8WeightOnly | Int8Dynamic) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    task = make_task(nn.Sequential(nn.TransformerEncoder(layer, 1), nn.Linear(16, 3)), torch.randn(4, 5, 16))
    model, inputs = quantized(method, task).eval(), task.inputs(4)
    assert method.decide(task.trained_model(), {}, task)["layers"] == ["0.layers.0.linear1", "0.layers.0.linear2", "1"]
    assert leaves(model)["0.layers.0.self_attn.out_proj.weight"].dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(model(inputs), task.trained_model()(inputs), atol=0.1, rtol=0.1)


def test_tied_weights_are_left_alone() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.inner, self.head = nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 9)
            self.head.weight = self.embedding.weight

        def forward(self, tokens: Tensor) -> Any:
            return self.head(self.inner(self.embedding(tokens)))

    task = make_task(Tied(), torch.randint(9, (4, 3)))
    assert Int8WeightOnly().decide(task.trained_model(), {}, task)["layers"] == ["inner"]


@pytest.mark.parametrize("reduced", [True, False])
def test_the_range_is_the_plans_also_when_restored_elsewhere(reduced: bool) -> None:
    plan = {"layers": ["0"], "reduce_range_on_cpu": reduced}
    weight: Any = Int8Dynamic().restore(features().trained_model(), plan, CPU).get_parameter("0.weight")
    assert weight.qdata.int().abs().max() == (64 if reduced else 128)


@METHODS
def test_a_model_without_linear_layers_is_not_applicable(method: Int8WeightOnly | Int8Dynamic) -> None:
    task = make_task(nn.Sequential(nn.Conv1d(2, 3, 1)), torch.randn(4, 2, 5))
    reason = f"{method.name} quantizes linear layers, but this model has no nn.Linear layer for it"
    with pytest.raises(NotApplicable, match=reason):
        method.check(task, CPU)
