"""Training with what int8 will make of weights and activations."""

from __future__ import annotations

import copy
from collections.abc import Callable

import onnx
import pytest
import torch
from autocompress_acceleration.onnx_model import OnnxModel
from autocompress_quantization import OnnxInt8Qat, OnnxInt8Static
from autocompress_quantization.onnx_int8 import int8_weights
from autocompress_quantization.onnx_int8_qat import INT7, rounded_layers
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autocompress import Metric, NotApplicable, Recipe, Recovery, Step, Target, Task
from autocompress.compress import compress, fill, resolve
from autocompress.effect import output_error, outputs
from autocompress.plugins import registry
from autocompress.testing_families import FAMILIES
from autocompress.testing_tasks import images

CPU = Target("cpu")
METHOD = OnnxInt8Qat()


def reshaped(task: Task) -> nn.Module:
    model = task.trained_model()
    plan = METHOD.decide(model, fill(METHOD.name, METHOD.search_space(task), {}), task)
    return METHOD.reshape(model, plan).eval()


def distinct(values: Tensor) -> int:
    return len(set(values.flatten().tolist()))


def test_layers_see_few_weights_and_inputs() -> None:
    task = images()
    model = reshaped(task)
    seen: list[Tensor] = []
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    for layer in layers:
        layer.register_forward_hook(lambda layer, args, output: seen.append(args[0]))
    outputs(model, task.inputs(64))
    assert len(seen) == len(layers) == 3
    for layer, given in zip(layers, seen, strict=True):
        assert distinct(given) <= 256
        rows = layer.get_parameter("parametrizations.weight.original").shape[0]
        assert max(map(distinct, layer.weight.detach().reshape(rows, -1))) <= 255


def test_gradients_reach_weights_and_inputs() -> None:
    task = images()
    model = reshaped(task)
    inputs, targets = task.train[:16]
    inputs = inputs.clone().requires_grad_(True)
    task.loss(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    assert inputs.grad is not None and inputs.grad.any()


@pytest.mark.parametrize("family", ["images", "encoder", "mobilenet"])
def test_what_ships_computes_what_was_trained(family: str) -> None:
    """More nearly than a model that was trained without rounding is computed by its int8 copy."""
    task, shipped = FAMILIES[family](), list[OnnxModel]()

    def error(method: OnnxInt8Static, plan_of: Callable[[nn.Module], nn.Module]) -> float:
        model = task.trained_model()
        plan = method.decide(model, fill(method.name, method.search_space(task), {}), task)
        model = plan_of(method.reshape(model, plan)).eval()
        expected = outputs(copy.deepcopy(model), task.inputs(64))
        made = method.finalize(model, plan, task, CPU)
        assert isinstance(made, OnnxModel)
        shipped.append(made)
        return output_error(outputs(made, task.inputs(64)), expected)

    trained, plain = error(METHOD, lambda model: model), error(OnnxInt8Static(), lambda model: model)
    assert trained < 0.95 * plain
    stored = [len(int8_weights(onnx.load_from_string(model.file.numpy().tobytes()))) for model in shipped]
    assert stored[0] == stored[1] > 0


def test_it_is_trained_and_ships_int8_after_pruning() -> None:
    task = images()
    steps = (Step(method="structured_magnitude", params={"ratio": 0.25, "round_to": 1}), Step(method=METHOD.name))
    recipe = resolve(Recipe(steps=steps, recovery=Recovery(epochs=2, learning_rate=3e-3)), registry(), task)
    made = compress(task, recipe, registry=registry(), target=CPU)
    change = made.changes[-1]
    assert change.method == METHOD.name and change.output_error is not None and change.output_error < 0.05


def test_weights_have_seven_bits_where_sums_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autocompress_quantization.onnx_int8_qat.reduce_range", lambda: True)
    weight = reshaped(images()).get_submodule("0").weight
    assert isinstance(weight, Tensor)
    assert max(map(distinct, weight.detach().reshape(len(weight), -1))) <= INT7


def test_embeddings_and_recurrent_layers_are_trained_as_they_are() -> None:
    names = {weight.name for weight in rounded_layers(FAMILIES["char_lstm"]().trained_model())}
    assert names == {"head.weight"}


def test_attention_keeps_knowing_that_it_looks_at_itself() -> None:
    """Or it would multiply with each third of its weights apart."""
    given: list[tuple[Tensor, ...]] = []
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    plan = {"weights": {"self_attn.in_proj_weight": [255, 0]}}
    METHOD.reshape(model, plan).get_submodule("self_attn").register_forward_pre_hook(
        lambda layer, args: given.append(args)
    )
    model(torch.randn(2, 5, 8))
    query, key, value = given[0][:3]
    assert query is key is value and distinct(query) <= 256


def test_a_mask_is_not_rounded() -> None:
    layer = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    METHOD.reshape(layer, {"weights": {"in_proj_weight": [255, 0]}})
    inputs, mask = torch.randn(2, 5, 8), torch.full((5, 5), -torch.inf).triu(1)
    attended, _ = layer(inputs, inputs, inputs, None, False, mask)
    assert attended.isfinite().all()
    torch.testing.assert_close(
        attended[:, 0], layer(inputs[:, :1], inputs[:, :1], inputs[:, :1])[0][:, 0], atol=0.05, rtol=0
    )


def test_no_rows_are_no_error() -> None:
    layer = METHOD.reshape(nn.Linear(8, 3), {"weights": {"weight": [255, 0]}})
    assert layer(torch.empty(0, 8)).shape == (0, 3)


def test_a_model_with_nothing_to_round_is_told() -> None:
    torch.manual_seed(0)
    tables = nn.Sequential(nn.Embedding(50, 8), nn.Flatten())
    data = TensorDataset(torch.randint(50, (8, 4)), torch.zeros(8, 32))
    error = Metric("mse", lambda outputs, targets: float((outputs - targets).square().mean()), higher_is_better=False)
    task = Task(model=tables, train=data, validation=data, test=data, loss=nn.functional.mse_loss, metrics=(error,))
    with pytest.raises(NotApplicable, match="trains linear layers and convolutions, but this model has none"):
        METHOD.check(task, CPU)
