"""What a forward pass costs, against sums by hand, and what cannot be counted, told."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from autocompress import Recipe, Step, Target, Task
from autocompress.compress import compress, resolve
from autocompress.measure.cost import Cost, model_cost
from autocompress.measure.formulas import FORMULAS
from autocompress.plugins import registry
from autocompress.tensors import call
from autocompress.testing_families import bert, char_lstm, encoder, gru, lstm, variable_length, vit
from autocompress.testing_tasks import images


def cost_of(method: str, task: Task) -> Cost:
    recipe = resolve(Recipe(steps=(Step(method=method),)), registry(), task)
    model = compress(task, recipe, registry=registry(), target=Target("cpu")).model
    return model_cost(model, task.inputs(4))


@settings(max_examples=25, deadline=None)
@given(batch=st.integers(1, 9), widths=st.lists(st.integers(1, 20), min_size=2, max_size=5), bias=st.booleans())
def test_a_perceptron_by_hand(batch: int, widths: list[int], bias: bool) -> None:
    pairs = list(zip(widths, widths[1:], strict=False))
    model = nn.Sequential(*(nn.Linear(width, after, bias=bias) for width, after in pairs))
    cost = model_cost(model, torch.randn(batch, widths[0]))
    parameters = sum(width * after + bias * after for width, after in pairs)
    assert cost.parameters == parameters
    assert cost.macs == batch * sum(width * after for width, after in pairs)
    assert cost.compulsory_bytes == 4 * (parameters + batch * widths[0] + batch * widths[-1])
    assert cost.launches == len(pairs)
    moved = sum(operator.moved_bytes * operator.calls for operator in cost.operators)
    assert moved == 4 * (parameters + batch * sum(width + after for width, after in pairs))
    assert cost.unseen == ()


@pytest.mark.parametrize("family", [images, bert, variable_length])
def test_the_flops_are_those_of_pytorchs_own_counter(family: Any) -> None:
    task = family()
    model, inputs = task.trained_model(), task.inputs(4)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(model, inputs)
    assert model_cost(model, inputs).flops == counter.get_total_flops() > 0


@pytest.mark.parametrize("family", [vit, encoder])
def test_fused_transformer_layers_count_as_what_they_compute(family: Any) -> None:
    task = family()
    model, inputs = task.trained_model(), task.inputs(4)
    with FlopCounterMode(display=False) as counter:  # with gradients nothing is fused
        call(model, inputs)
    cost = model_cost(model, inputs)
    assert cost.flops == counter.get_total_flops()
    assert torch.backends.mha.get_fastpath_enabled()


def test_lstm_layers_by_hand() -> None:
    task = lstm()  # two layers of 24 units, both directions, over 8 steps of 6 channels; a head of 48 to 4
    gates = 4 * 24
    steps = 2 * 8 * gates * ((6 + 24) + (48 + 24))
    assert model_cost(task.trained_model(), task.inputs(3)).macs == 3 * (steps + 48 * 4)


def test_gru_layers_by_hand() -> None:
    task = gru()  # one layer, which has no fused operator on a CPU
    assert model_cost(task.trained_model(), task.inputs(3)).macs == 3 * (8 * 3 * 24 * (6 + 24) + 24 * 4)


def test_cudnns_recurrent_layers_by_hand() -> None:
    inputs = torch.empty(10, 2, 6, device="meta")
    weights = [torch.empty(shape, device="meta") for shape in ((96, 6), (96, 24), (96,), (96,))]
    formula = FORMULAS[torch.ops.aten._cudnn_rnn]
    assert formula(inputs, weights, 4, None, None, None, 2, out_val=None) == 2 * 10 * 2 * 96 * (6 + 24)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", [lstm, char_lstm, gru])
def test_recurrent_layers_cost_the_same_on_a_gpu(family: Any) -> None:
    task = family()
    on_cpu = model_cost(task.trained_model(), task.inputs(4))
    on_gpu = model_cost(task.trained_model().cuda(), task.inputs(4).cuda())
    assert (on_gpu.flops, on_gpu.weight_bytes, on_gpu.unseen) == (on_cpu.flops, on_cpu.weight_bytes, ())


def test_of_an_embedding_only_the_rows_are_read() -> None:
    cost = model_cost(nn.Embedding(1000, 16), torch.tensor([[1, 2, 3]]))
    rows = 3 * 16 * 4
    assert cost.weight_bytes == cost.output_bytes == rows
    assert [operator.moved_bytes for operator in cost.operators] == [rows + rows + 3 * 8]
    assert (cost.parameters, cost.flops) == (16000, 0)


class Tied(nn.Module):
    """One weight, used twice, and views between."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        once: Tensor = self.layer(x)
        again: Tensor = self.layer(once.view(2, 2, 8).transpose(0, 1).reshape(4, 8).clone())
        return again.detach()[:, :4]


def test_tied_weights_are_read_once_and_views_launch_nothing() -> None:
    cost = model_cost(Tied(), torch.randn(4, 8))
    assert cost.weight_bytes == 8 * 8 * 4
    assert {operator.name: operator.calls for operator in cost.operators} == {"aten.mm": 2, "aten.clone": 2}
    assert cost.output_bytes == 4 * 4 * 4


def test_a_model_on_the_meta_device_costs_the_same() -> None:
    model, inputs = images().trained_model(), images().inputs(4)
    assert model_cost(model.to("meta"), inputs.to("meta")) == model_cost(images().trained_model(), inputs)


def test_what_was_compiled_counts_as_its_eager_operators() -> None:
    compilations: list[Any] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        compilations.append(graph)
        return graph.forward

    model, inputs = images().trained_model(), images().inputs(4)
    compiled = torch.compile(model, backend=backend)
    assert isinstance(compiled, nn.Module)
    assert model_cost(compiled, inputs).operators == model_cost(model, inputs).operators
    assert compilations == []


def test_quantized_weights_count_as_the_bytes_they_take() -> None:
    dense, quantized = model_cost(bert().trained_model(), bert().inputs(4)), cost_of("int8_dynamic", bert())
    assert quantized.flops == dense.flops
    assert quantized.weight_bytes < 0.5 * dense.weight_bytes
    assert "aten._int_mm" in {operator.name for operator in quantized.operators}


def test_another_runtime_is_told_and_not_zero() -> None:
    cost = cost_of("onnx_runtime", images())
    assert cost.parameters is cost.flops is cost.macs is None
    assert cost.unseen == ("OnnxModel runs outside of PyTorch's operators: no FLOPs, bytes or launches seen",)
    assert json.loads(json.dumps(cost.plain()))["flops"] is None


def test_kernels_without_a_formula_are_told() -> None:
    cost = cost_of("int8_dynamic_recurrent", lstm())
    assert cost.macs == 4 * 48 * 4  # the head alone
    assert cost.unseen[0] == "aten.quantized_lstm: no formula for its FLOPs"
    assert "no operator was seen to read: rnn.weight_ih_l0" in cost.unseen[1]
    weights = 2 * 96 * ((6 + 24) + (48 + 24))
    assert cost.unseen[2] == f"{weights} integers of 8 bits in buffers, which are no parameters"


@torch.library.custom_op("autocompress_test::double", mutates_args=())
def double(x: Tensor) -> Tensor:
    return 2 * x


class Custom(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = double(x)
        return result


def test_operators_of_others_are_told() -> None:
    cost = model_cost(Custom(), torch.randn(3))
    assert cost.unseen == ("autocompress_test.double: no formula for its FLOPs",)
    assert [operator.moved_bytes for operator in cost.operators] == [24]
