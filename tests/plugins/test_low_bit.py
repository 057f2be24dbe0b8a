"""Weights stored in few bits: what is stored, that it comes back to the bit, and what it costs on disk."""

from __future__ import annotations

from pathlib import Path
from statistics import geometric_mean
from typing import Any

import pytest
import torch
from autocompress_quantization import EmbeddingLowBit, Float16Storage, Int8WeightOnly, LowBitWeights, MixedPrecision
from autocompress_quantization.grid import BINARY, INT8, TERNARY, Grid
from autocompress_quantization.mixed_precision import BITS, allot
from autocompress_quantization.packing import pack_bits, pack_trits, unpack_bits, unpack_trits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autocompress import AutocompressError, Method, NotApplicable, Plan, Recipe, Recovery, Step, Target, Task
from autocompress.artifact import load_model, write_model
from autocompress.compress import Compressed, check_order, compress, resolve
from autocompress.effect import byte_count, output_error, outputs
from autocompress.errors import InvalidInput
from autocompress.leaves import leaves
from autocompress.method import NoEffect
from autocompress.metric import top1_accuracy
from autocompress.plugins import registry
from autocompress.testing_families import FAMILIES
from autocompress.testing_tasks import features
from tests.plugins.large import large

CPU = Target("cpu")
PACKING = [
    (Int8WeightOnly(), {}),
    *((LowBitWeights(), {"bits": bits, "group_size": 32, "range": "mse"}) for bits in (4, 3, 2)),
    (MixedPrecision(), {"average_bits": 4.0, "group_size": 32}),
]
EVERY_PACKING = pytest.mark.parametrize(("method", "params"), PACKING, ids=lambda value: getattr(value, "name", ""))


def made(method: Method, params: dict[str, Any], task: Task, epochs: int = 0) -> tuple[Compressed, Recipe]:
    recipe = Recipe(steps=(Step(method=method.name, params=params),), recovery=Recovery(epochs=epochs, batch_size=64))
    resolved = resolve(recipe, registry(), task)
    return compress(task, resolved, registry=registry(), target=CPU), resolved


def finalized(method: Method, params: dict[str, Any], task: Task) -> tuple[nn.Module, Plan]:
    plan = method.decide(task.trained_model(), params, task)
    return method.finalize(task.trained_model(), plan, task, CPU), plan


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("count", [1, 7, 8, 1001])
def test_codes_come_back_from_a_stream_of_bits(bits: int, count: int) -> None:
    codes = torch.randint(2**bits, (count,), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    packed = pack_bits(codes, bits)
    assert packed.dtype == torch.uint8 and len(packed) == -(-count * bits // 8)
    assert torch.equal(unpack_bits(packed, bits, count), codes)


def test_the_first_code_is_in_the_highest_bits() -> None:
    assert pack_bits(torch.tensor([1, 2, 3, 15]), 4).tolist() == [0x12, 0x3F]
    assert pack_trits(torch.tensor([1, 2, 0, 0, 2, 1])).tolist() == [1 + 2 * 3 + 2 * 81, 1]


@pytest.mark.parametrize("count", [1, 5, 6, 1001])
def test_five_trits_are_a_byte(count: int) -> None:
    codes = torch.randint(3, (count,), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    packed = pack_trits(codes)
    assert packed.dtype == torch.uint8 and len(packed) == -(-count // 5)
    assert torch.equal(unpack_trits(packed, count), codes)


@pytest.mark.parametrize("levels", [INT8, 16, 8, 4, TERNARY, BINARY])
@pytest.mark.parametrize(("shape", "axis"), [((12, 40), 0), ((40, 12), 1), ((8, 3, 5, 5), 0), ((6, 8, 3), 1)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_values_of_a_grid_have_their_codes_again(levels: int, shape: tuple[int, ...], axis: int, scale: float) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * scale
    weight.select(axis, 2).zero_()  # a pruned channel, or the row of the padding
    grid = Grid(levels, axis, 0 if levels in (INT8, TERNARY, BINARY) else 16)
    steps = grid.fit(weight)
    codes = grid.quantize(weight, steps)
    values = grid.dequantize(codes, steps)
    assert steps.shape == grid.steps_shape(weight.shape)
    assert torch.equal(grid.dequantize(grid.quantize(values, steps), steps), values)
    assert torch.equal(grid.unpack(grid.pack(codes), weight.shape), codes)
    assert grid.stored_bytes(weight.shape) == grid.pack(codes).nbytes + steps.nbytes
    assert not values.select(axis, 2).any()
    assert len(set(values.select(axis, 0).flatten().tolist())) <= levels * steps.shape[0] / shape[axis]


def test_int8_is_the_textbooks() -> None:
    """Symmetric, a scale a row, the largest weight of a row is 127 steps; the scale has bfloat16's 8 bits."""
    weight = torch.randn(8, 30, generator=torch.Generator().manual_seed(0))
    grid = Grid(INT8, 0)
    scale = (weight.abs().amax(dim=1, keepdim=True) / 127).bfloat16()
    assert torch.equal(grid.fit(weight), scale)
    assert torch.equal(grid.quantize(weight, scale).float(), (weight / scale.float()).round().clamp(-127, 127))


def test_a_grid_may_lose_the_rounding_and_no_more() -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    for levels in (16, 8):
        grid = Grid(levels, 0, 32)
        steps = grid.fit(weight)
        difference = (grid.dequantize(grid.quantize(weight, steps), steps) - weight).abs().reshape(-1, 32)
        assert (difference <= steps[:, :1].float() * 0.6).all()  # half a step, and what bfloat16 moves the ends


@pytest.mark.parametrize("levels", [16, 4])
def test_a_search_leaves_less_error(levels: int) -> None:
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    grid = Grid(levels, 0, 64)

    def errors(search: bool) -> Tensor:
        steps = grid.fit(weight, search)
        return (grid.dequantize(grid.quantize(weight, steps), steps) - weight).square().sum(dim=1)

    assert (errors(True) <= errors(False)).all()
    assert errors(True).sum() < {16: 0.95, 4: 0.7}[levels] * errors(False).sum()


@EVERY_PACKING
@pytest.mark.parametrize("family", ["residual", "encoder", "gpt", "lstm"])
def test_what_is_unpacked_is_what_was_scored(method: Method, params: dict[str, Any], family: str) -> None:
    task = FAMILIES[family]()
    model, plan = finalized(method, params, task)
    tensors = leaves(model)
    packed = method.pack(dict(tensors), plan)
    assert byte_count(packed) < 0.6 * byte_count(leaves(task.trained_model()))
    unpacked = method.unpack(packed, tensors, plan)
    assert unpacked.keys() == tensors.keys()
    assert all(torch.equal(unpacked[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("bits", "share", "drop"), [(8, 1 / 3.8, 0.01), (4, 1 / 6, 0.02), (3, 1 / 8, 0.05), (2, 1 / 11, 0.3)]
)
def test_bytes_on_disk_and_accuracy_of_large_layers(bits: int, share: float, drop: float, tmp_path: Path) -> None:
    task = large()
    method, params = (Int8WeightOnly(), {}) if bits == 8 else (LowBitWeights(), {"bits": bits})
    compressed, recipe = made(method, params, task)
    write_model(tmp_path, compressed, recipe, CPU, registry())
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size < share * byte_count(leaves(task.trained_model()))
    loaded = load_model(tmp_path, task.model, registry(), CPU)
    expected = leaves(compressed.model)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in leaves(loaded).items())
    inputs, classes = task.validation[:]
    before, after = (top1_accuracy(model(inputs), classes) for model in (task.trained_model(), loaded))
    assert before > 0.8 and after > before - drop


@pytest.mark.parametrize(("bits", "bound"), [(4, 0.1), (3, 0.2), (2, 0.5)])
def test_fewer_bits_cost_more_of_the_outputs(bits: int, bound: float) -> None:
    task = features()
    expected = outputs(task.trained_model(), task.inputs(128))
    model, _ = finalized(LowBitWeights(), {"bits": bits, "group_size": 64, "range": "mse"}, task)
    assert bound / 20 < output_error(outputs(model, task.inputs(128)), expected) < bound


def test_a_tied_table_is_stored_once_for_both_layers() -> None:
    model, plan = finalized(EmbeddingLowBit(), {"bits": 4}, FAMILIES["gpt"]())
    assert set(plan["weights"]) == {"transformer.wte.weight", "transformer.wpe.weight"}
    assert model.get_parameter("lm_head.weight") is model.get_parameter("transformer.wte.weight")
    assert len(set(model.get_parameter("lm_head.weight")[3].tolist())) <= 16
    packed = EmbeddingLowBit().pack(leaves(model), plan)
    assert packed["transformer.wte.weight.codes"].nbytes == 32 * 32 // 2
    assert packed["transformer.wte.weight_steps"].shape == (32, 2)


def test_tables_alone_are_stored_and_follow_other_quantizers() -> None:
    task = FAMILIES["recommender"]()
    recipe = Recipe(steps=(Step(method="int8_dynamic"), Step(method="embedding_low_bit", params={"bits": 4})))
    compressed = compress(task, resolve(recipe, registry(), task), registry=registry(), target=CPU)
    stored = compressed.tensors()
    assert stored["items.weight.codes"].nbytes == 128 * 16 // 2 and "items.weight" not in stored
    assert stored["mlp.0.weight.qdata"].dtype == torch.int8


def test_a_model_without_tables_is_not_applicable() -> None:
    with pytest.raises(NotApplicable, match="weights of embedding layers in fewer bits, but this model has none"):
        EmbeddingLowBit().check(features(), CPU)


def test_weights_too_few_to_gain_are_not_applicable_or_skipped() -> None:
    data = TensorDataset(torch.randn(8, 3), torch.zeros(8, dtype=torch.long))
    small = Task(model=nn.Sequential(nn.Linear(3, 4)), train=data, validation=data, test=data)
    with pytest.raises(NotApplicable, match="only ones so small that they would gain nothing"):
        Int8WeightOnly().check(small, CPU)
    mixed = Task(
        model=nn.Sequential(nn.Linear(3, 64), nn.Linear(64, 2, bias=False), nn.Linear(2, 4)),
        train=data,
        validation=data,
        test=data,
    )
    model, plan = finalized(Int8WeightOnly(), {}, mixed)
    assert Int8WeightOnly().skipped(model, plan) == {"2.weight": "its 8 weights are too few to gain from it"}
    assert "0.weight.codes" in Int8WeightOnly().pack(leaves(model), plan)


def test_a_step_that_saves_less_than_it_takes_has_no_effect() -> None:
    """The only weight that it knows saves some bytes, which its entry in the recipe takes again."""
    data = TensorDataset(torch.randn(32, 12), torch.zeros(32, dtype=torch.long))
    model = nn.Sequential(nn.Linear(12, 4, bias=False), nn.Tanh())
    task = Task(model=model, train=data, validation=data, test=data)
    Int8WeightOnly().check(task, CPU)
    with pytest.raises(NoEffect, match="int8_weight_only is there to save bytes, but saves"):
        made(Int8WeightOnly(), {}, task)


def test_computed_weights_are_told_and_left() -> None:
    data = TensorDataset(torch.randn(8, 32), torch.zeros(8, dtype=torch.long))
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(32, 32)), nn.Linear(32, 32))
    task = Task(model=lambda: model, train=data, validation=data, test=data)
    plan = Int8WeightOnly().decide(model, {}, task)
    assert list(plan["weights"]) == ["1.weight"]
    assert Int8WeightOnly().skipped(model, plan) == {"0.weight": "a parametrization computes it"}


class Rescaled(nn.Module):
    """Tokens (B, T) to logits (B, 60), by a table whose rows a lookup rescales and that is the head's weight too."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner = nn.Embedding(60, 32, max_norm=1.0), nn.Linear(32, 32)
        self.head = nn.Linear(32, 60)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.inner(self.table(tokens)).mean(dim=1))
        return logits


@pytest.mark.parametrize(
    "name", ["int8_weight_only", "low_bit_weights", "mixed_precision", "int8_qat", "float16_storage"]
)
def test_tables_that_rescale_their_rows_are_told_and_left(name: str) -> None:
    torch.manual_seed(0)
    tokens = torch.randint(60, (32, 4))
    data = TensorDataset(tokens, tokens[:, 0])
    task, method = Task(model=Rescaled(), train=data, validation=data, test=data), registry().get(name)
    compressed, _ = made(method, {}, task, epochs=int(method.needs_training))
    stored = compressed.tensors()
    assert stored["table.weight"].dtype == torch.float32 and "inner.weight" not in stored
    told = {layer: reason for change in compressed.changes for layer, reason in change.skipped.items()}
    assert told["table.weight"] == "its rows are rescaled to `max_norm` in place where they are read"
    with pytest.raises(NotApplicable, match="this model has none; table.weight: its rows are rescaled to `max_norm`"):
        EmbeddingLowBit().check(task, CPU)


def test_weights_that_a_later_step_changed_are_not_stored() -> None:
    model, plan = finalized(LowBitWeights(), {"bits": 4, "group_size": 64, "range": "mse"}, features())
    with torch.no_grad():
        model.get_parameter("0.weight").mul_(1.01)
    with pytest.raises(AutocompressError, match="'0.weight' in few bits, but a later step changed its values"):
        LowBitWeights().pack(leaves(model), plan)


def test_packed_weights_are_not_packed_again() -> None:
    for later in (LowBitWeights(), Float16Storage(), EmbeddingLowBit()):
        with pytest.raises(InvalidInput, match="cannot follow 'int8_weight_only'"):
            check_order([Int8WeightOnly(), later])


@pytest.mark.parametrize("average", [2.0, 3.5, 6.0, 8.0])
def test_bits_are_as_many_as_wanted_on_average(average: float) -> None:
    task = FAMILIES["residual"]()
    model, plan = finalized(MixedPrecision(), {"average_bits": average, "group_size": 64}, task)
    sizes = {name: model.get_parameter(name).numel() for name in plan["weights"]}
    bits = {name: (levels + 1).bit_length() - 1 for name, (levels, _, _) in plan["weights"].items()}
    mean = sum(bits[name] * size for name, size in sizes.items()) / sum(sizes.values())
    assert average - 1 < mean <= average + 0.05  # weights too few to gain at some bits are left out
    assert set(bits.values()) <= set(BITS)


def test_bits_go_where_they_help_most() -> None:
    damage = [[10.0, 5.0, 1.0, 0.0], [0.1, 0.05, 0.01, 0.0]]
    assert allot([100, 100], damage, 3.0) == [4, 2]
    assert allot([100, 100], damage, 5.0) == [8, 2]
    assert allot([100, 100], damage, 2.0) == [2, 2]
    assert allot([100, 100], damage, 8.0) == [8, 8]


def test_bits_by_sensitivity_beat_the_same_bits_everywhere() -> None:
    """On average: the damage is estimated to first order, so that a model may come out even."""
    ratios = []
    for family in ("residual", "mobilenet", "encoder", "lstm"):
        task = FAMILIES[family]()
        expected = outputs(task.trained_model(), task.inputs(64))
        mixed, _ = finalized(MixedPrecision(), {"average_bits": 4.0, "group_size": 64}, task)
        even, _ = finalized(LowBitWeights(), {"bits": 4, "group_size": 64, "range": "mse"}, task)
        errors = [output_error(outputs(model, task.inputs(64)), expected) for model in (mixed, even)]
        ratios.append(errors[0] / errors[1])
    assert geometric_mean(ratios) < 0.8


def test_float16_is_half_the_file_and_runs_in_float32() -> None:
    task = features()
    compressed, _ = made(Float16Storage(), {}, task)
    stored = compressed.tensors()
    assert all(tensor.dtype == torch.float16 for tensor in stored.values())
    assert byte_count(stored) == byte_count(leaves(task.trained_model())) / 2
    assert all(tensor.dtype == torch.float32 for tensor in leaves(compressed.model).values())
    original = leaves(task.trained_model())
    assert all(torch.equal(tensor, original[name].half().float()) for name, tensor in leaves(compressed.model).items())


def test_values_beyond_float16_stay_float32() -> None:
    data = TensorDataset(torch.randn(8, 4), torch.zeros(8, dtype=torch.long))
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    nn.init.constant_(first.weight, 1e6 + 0.5)
    nn.init.constant_(second.bias, 1e-7 / 3)
    model = nn.Sequential(first, second)
    task = Task(model=model, train=data, validation=data, test=data)
    done, plan = finalized(Float16Storage(), {}, task)
    stored = Float16Storage().pack(leaves(done), plan)
    assert set(stored) == {"0.weight", "0.bias.float16", "1.weight.float16", "1.bias"}
    assert set(Float16Storage().skipped(done, plan)) == {"0.weight", "1.bias"}
    back = Float16Storage().unpack(stored, leaves(done), plan)
    assert all(torch.equal(back[name], tensor) for name, tensor in leaves(done).items())
