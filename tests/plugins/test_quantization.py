"""Weights and activations in fewer bits: what really runs as integers or in 16 bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from autocompress_quantization import Fp8Dynamic, HalfPrecision, Int8Dynamic, Int8DynamicRecurrent
from autocompress_quantization.recurrent import Int8Recurrent
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils.data import TensorDataset

from autocompress import Method, NotApplicable, Recipe, Step, Target, Task
from autocompress.compress import Compressed, check_order, compress, resolve
from autocompress.effect import output_error, outputs
from autocompress.errors import InvalidInput
from autocompress.leaves import leaves, load_leaves
from autocompress.measure.accuracy import NotANumber
from autocompress.metric import top1_accuracy
from autocompress.plugins import registry
from autocompress.testing_families import FAMILIES
from autocompress.testing_tasks import features, images

CPU = Target("cpu")
CUDA = Target("cuda:0")


def quantized(method: Method, task: Task, **params: Any) -> nn.Module:
    plan = method.decide(task.trained_model(), params, task)
    return method.finalize(task.trained_model(), plan, task, CPU).eval()


def make_task(model: nn.Module, inputs: Tensor) -> Task:
    data = TensorDataset(inputs, torch.zeros(len(inputs), dtype=torch.long))
    return Task(model=model, train=data, validation=data, test=data)


def size_bytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in leaves(model).values())


def test_weights_are_stored_a_byte_each() -> None:
    model = quantized(Int8Dynamic(), features())
    stored = leaves(model)
    assert stored["0.weight.qdata"].dtype == torch.int8 and stored["0.weight.qdata"].shape == (32, 16)
    assert stored["0.bias"].dtype == torch.float32
    assert size_bytes(model) < 0.5 * size_bytes(features().trained_model())


def test_outputs_are_close_to_those_of_the_trained_model() -> None:
    inputs, targets = features().validation[:]
    with torch.no_grad():
        before, after = features().trained_model()(inputs), quantized(Int8Dynamic(), features())(inputs)
    assert 0 < (after - before).abs().max() < 0.05 * before.abs().max()
    assert top1_accuracy(after, targets) > top1_accuracy(before, targets) - 0.02


def test_stored_tensors_load_into_the_restored_structure() -> None:
    method = Int8Dynamic()
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


def test_a_transformers_attention_is_left_alone_and_told() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    task = make_task(nn.Sequential(nn.TransformerEncoder(layer, 1), nn.Linear(16, 3)), torch.randn(4, 5, 16))
    method = Int8Dynamic()
    model, inputs = quantized(method, task), task.inputs(4)
    plan = method.decide(task.trained_model(), {}, task)
    assert plan["layers"] == ["0.layers.0.linear1", "0.layers.0.linear2", "1"]
    why = "nn.MultiheadAttention reads the weight without calling a layer"
    attention = "0.layers.0.self_attn"
    assert method.skipped(model, plan) == {
        f"{attention}.in_proj_weight": why, f"{attention}.out_proj.weight": why,
    }  # fmt: skip
    assert leaves(model)["0.layers.0.self_attn.out_proj.weight"].dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(model(inputs), task.trained_model()(inputs), atol=0.1, rtol=0.1)


def test_tied_weights_are_left_alone_and_told() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.inner, self.head = nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 9)
            self.head.weight = self.embedding.weight

        def forward(self, tokens: Tensor) -> Any:
            return self.head(self.inner(self.embedding(tokens)))

    task = make_task(Tied(), torch.randint(9, (4, 3)))
    plan = Int8Dynamic().decide(task.trained_model(), {}, task)
    assert plan["layers"] == ["inner"]
    skipped = Int8Dynamic().skipped(task.trained_model(), plan)
    assert skipped == {"embedding.weight": "another layer has the same weight"}


def test_transformers_own_linear_layers_become_integers() -> None:
    """GPT-2's Conv1D keeps its weight as (in, out)."""
    task = FAMILIES["gpt"]()
    model = quantized(Int8Dynamic(), task)
    stored = leaves(model)
    assert stored["transformer.h.0.attn.c_attn.weight.qdata"].shape == (96, 32)  # (out, in)
    assert stored["transformer.h.0.attn.c_attn.weight.qdata"].dtype == torch.int8
    expected = outputs(task.trained_model(), task.inputs(16))
    assert 0 < output_error(outputs(model, task.inputs(16)), expected) < 0.05


@pytest.mark.parametrize("reduced", [True, False])
def test_the_range_is_the_plans_also_when_restored_elsewhere(reduced: bool) -> None:
    plan = {"layers": ["0"], "reduce_range_on_cpu": reduced}
    weight: Any = Int8Dynamic().restore(features().trained_model(), plan, CPU).get_parameter("0.weight")
    assert weight.qdata.int().abs().max() == (64 if reduced else 128)


def test_a_model_without_linear_layers_is_not_applicable() -> None:
    task = make_task(nn.Sequential(nn.Conv1d(2, 3, 1)), torch.randn(4, 2, 5))
    reason = "int8_dynamic quantizes linear layers, but this model has no nn.Linear layer for it"
    with pytest.raises(NotApplicable, match=reason):
        Int8Dynamic().check(task, CPU)


class ReadsWeight(nn.Module):
    """A linear layer, and the product with its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Any:
        return self.inner(x) @ self.inner.weight.t()


@pytest.mark.parametrize(
    ("model", "inputs", "reason"),
    [
        (ReadsWeight(), torch.randn(4, 8), "needs a model that runs with quantized weights, but: NotImplementedError"),
        (nn.Linear(1, 1), torch.randn(4, 3, 1), "needs a model that runs with quantized weights, but: RuntimeError"),
        (nn.Linear(8, 8).double(), torch.randn(4, 8).double(), "no nn.Linear layer for it; weight: its type is"),
    ],
    ids=["reads the weight", "1x1", "float64"],
)
def test_a_model_that_quantized_weights_would_break_is_not_applicable(
    model: nn.Module, inputs: Tensor, reason: str
) -> None:
    with pytest.raises(NotApplicable, match=reason):
        Int8Dynamic().check(make_task(model, inputs), CPU)


def test_layers_of_other_types_are_told_and_left() -> None:
    class Mixed(nn.Sequential):
        def forward(self, x: Tensor) -> Any:
            return self[1](self[0](x).double())

    task = make_task(Mixed(nn.Linear(16, 16), nn.Linear(16, 4).double()), torch.randn(8, 16))
    Int8Dynamic().check(task, CPU)
    plan = Int8Dynamic().decide(task.trained_model(), {}, task)
    assert plan["layers"] == ["0"]
    assert Int8Dynamic().skipped(task.trained_model(), plan) == {"1.weight": "its type is float64"}
    assert outputs(quantized(Int8Dynamic(), task), task.inputs(8))[0].shape == (8, 4)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize("batch_first", [True, False])
def test_recurrent_layers_compute_nearly_the_same(
    kind: type[nn.LSTM | nn.GRU], options: dict[str, Any], batch_first: bool
) -> None:
    torch.manual_seed(0)
    layer = kind(6, 24, batch_first=batch_first, **options).eval()
    made = Int8Recurrent(layer)
    x = torch.randn(5, 5, 6)
    state = torch.randn(options.get("num_layers", 1) * (1 + options.get("bidirectional", False)), 5, 24)
    start: Any = (state, state * 2) if kind is nn.LSTM else state
    one = (start[0][:, 0], start[1][:, 0]) if kind is nn.LSTM else start[:, 0]
    packed = pack_padded_sequence(x, torch.tensor([2, 5, 3, 1, 4]), batch_first=batch_first, enforce_sorted=False)
    with torch.no_grad():
        for arguments in ((x,), (x, start), (x[0], one), (packed,), (packed, start)):
            actual, expected = ([*_tensors(module(*arguments))] for module in (made, layer))
            assert 0 < output_error(actual, expected) < 0.05


def _tensors(value: Any) -> list[Tensor]:
    """Output, then states."""
    output, state = value
    sequence = output.data if isinstance(output, PackedSequence) else output
    return [sequence, *(state if isinstance(state, tuple) else (state,))]


def test_recurrent_weights_are_bytes_and_load_anew() -> None:
    torch.manual_seed(0)
    first, second = (Int8Recurrent(nn.GRU(6, 24)) for _ in range(2))
    assert leaves(first)["weight_ih_l0"].dtype == torch.int8 and leaves(first)["weight_ih_l0"].shape == (72, 6)
    x = torch.randn(3, 2, 6)
    before = second(x)[0]
    load_leaves(second, leaves(first))
    assert torch.equal(second(x)[0], first(x)[0]) and not torch.equal(second(x)[0], before)


def test_recurrent_layers_follow_linear_ones() -> None:
    task = FAMILIES["char_lstm"]()
    steps = (Step(method="int8_dynamic"), Step(method="int8_dynamic_recurrent"))
    compressed = compress(task, resolve(Recipe(steps=steps), registry(), task), registry=registry(), target=CPU)
    stored = compressed.tensors()
    assert {stored[name].dtype for name in ("rnn.weight_hh_l1", "head.weight.qdata")} == {torch.int8}
    assert isinstance(compressed.model.get_submodule("rnn"), Int8Recurrent)


def test_what_has_no_recurrent_kernel_is_told() -> None:
    task = make_task(nn.LSTM(6, 24, proj_size=8), torch.randn(4, 3, 6))
    with pytest.raises(NotApplicable, match="no int8 kernel for an LSTM with proj_size"):
        Int8DynamicRecurrent().check(task, CPU)
    for action in (lambda: Int8DynamicRecurrent().check(FAMILIES["gru"](), CUDA),
                   lambda: Int8DynamicRecurrent().restore(nn.GRU(6, 24), {"layers": [""]}, CUDA)):  # fmt: skip
        with pytest.raises(NotApplicable, match="runs on CPUs only, but the target is cuda:0@1"):
            action()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_computes_in_16_bits_behind_float32_doors(dtype: str) -> None:
    task = FAMILIES["gpt"]()
    model = quantized(HalfPrecision(), task, dtype=dtype)
    seen = []
    model.get_submodule("transformer.ln_f").register_forward_hook(lambda module, args, output: seen.append(output))
    given = model(**task.inputs(2))
    assert seen[0].dtype == getattr(torch, dtype) and given.logits.dtype == torch.float32
    assert type(given) is type(task.trained_model()(**task.inputs(2)))
    assert size_bytes(model) == size_bytes(task.trained_model()) / 2


def test_a_model_that_cannot_run_in_16_bits_is_not_applicable() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Any:
            return self.inner(x.float())

    with pytest.raises(
        NotApplicable, match="half_precision needs a model that runs in 16 bits, but: RuntimeError: mat1 and mat2"
    ):
        HalfPrecision().check(make_task(Fixed(), torch.randn(4, 4)), CPU)


def test_a_model_that_overflows_in_16_bits_is_not_shipped() -> None:
    """bfloat16 has the range of float32; in float16 the first layer's outputs are infinite, and the last one's NaN."""
    torch.manual_seed(0)
    first = nn.Linear(16, 32)
    nn.init.normal_(first.weight, std=3e4)
    task = make_task(nn.Sequential(first, nn.LayerNorm(32), nn.Linear(32, 4)), torch.randn(64, 16))

    def halved(dtype: str) -> Compressed:
        recipe = Recipe(steps=(Step(method="half_precision", params={"dtype": dtype}),))
        return compress(task, resolve(recipe, registry(), task), registry=registry(), target=CPU)

    assert outputs(halved("bfloat16").model, task.inputs(32))[0].isfinite().all()
    with pytest.raises(NotANumber, match="half_precision makes outputs NaN when it finalizes"):
        halved("float16")


def test_float8_is_for_gpus() -> None:
    with pytest.raises(NotApplicable, match="needs a CUDA GPU from sm_89, but the target is cpu@1"):
        Fp8Dynamic().check(features(), CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_float8_on_a_gpu() -> None:
    method, target, task = Fp8Dynamic(), CUDA, FAMILIES["encoder"]()
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU multiplies no float8")
    method.check(task, target)
    plan = method.decide(task.trained_model(), {}, task)
    model = method.finalize(task.trained_model().cuda(), plan, task, target)
    assert leaves(model)["encoder.layers.0.linear1.weight.qdata"].dtype == torch.float8_e4m3fn
    expected = outputs(task.trained_model().cuda(), task.inputs(32).cuda())
    assert 0 < output_error(outputs(model, task.inputs(32).cuda()), expected) < method.max_output_error


def test_16_bits_are_not_quantized_again() -> None:
    for later in ("int8_dynamic", "int8_weight_only", "float16_storage"):
        with pytest.raises(InvalidInput, match="which leaves half precision"):
            check_order([HalfPrecision(), registry().get(later)])
