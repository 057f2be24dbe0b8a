"""Single weights set to zero: which, when, and what that takes on disk."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from autocompress_pruning import SemiStructured24, UnstructuredMagnitude, UnstructuredMovement
from autocompress_pruning.gradual import RAMP, GradualPruning, largest, share_of_zeros, weights
from autocompress_pruning.semi_structured_24 import Linear24, two_of_four
from autocompress_pruning.sparse_storage import STORED, pack_zeros, unpack_zeros
from autocompress_pruning.unstructured_magnitude import MagnitudeMasking
from autocompress_pruning.unstructured_movement import MovementMasking
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autocompress import Method, NotApplicable, Recipe, Recovery, Step, Target, Task, Trait
from autocompress.artifact import load_model, shipped_bytes, write_model
from autocompress.compress import Compressed, check_order, compress, resolve
from autocompress.effect import output_error
from autocompress.errors import InvalidInput
from autocompress.leaves import leaves
from autocompress.method import NoEffect
from autocompress.plugins import registry
from autocompress.testing_families import char_lstm
from autocompress.testing_tasks import features

CPU = Target("cpu")
GRADUAL = pytest.mark.parametrize(
    "method", [UnstructuredMagnitude(), UnstructuredMovement()], ids=lambda method: method.name
)


@functools.cache
def wide_task() -> Task:
    """A perceptron of 301,066 trained parameters; features (64,) whose class is the best of ten directions."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1024, 64, generator=generator)
    targets = (inputs @ torch.randn(64, 10, generator=generator)).argmax(dim=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[:768]), targets[:768]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    train, validation = (TensorDataset(inputs[rows], targets[rows]) for rows in (slice(768), slice(768, None)))
    return Task(model=lambda: copy.deepcopy(model), train=train, validation=validation, test=validation)


def recipe_of(method: Method, epochs: int = 3, **params: Any) -> Recipe:
    step = Step(method=method.name, params=params)
    return Recipe(steps=(step,), recovery=Recovery(epochs=epochs, batch_size=64))


def sparsified(method: Method, task: Task, epochs: int = 3, **params: Any) -> Compressed:
    recipe = resolve(recipe_of(method, epochs, **params), registry(), task)
    return compress(task, recipe, registry=registry(), target=CPU)


def zeros(model: nn.Module) -> dict[str, float]:
    return {name: float((tensor == 0).float().mean()) for name, tensor in weights(model).items()}


def accuracy(model: nn.Module, task: Task) -> float:
    inputs, targets = task.validation[:]
    with torch.no_grad():
        return task.objective.function(model(inputs), targets)


@GRADUAL
def test_a_fifth_of_the_weights_takes_a_quarter_of_the_bytes(method: GradualPruning, tmp_path: Path) -> None:
    task = wide_task()
    compressed = sparsified(method, task, sparsity=0.8)
    assert zeros(compressed.model) == pytest.approx({"0.weight": 0.8, "2.weight": 0.8, "4.weight": 0.8}, abs=1e-3)
    write_model(tmp_path, compressed, recipe_of(method), CPU, registry())
    dense = sum(4 * parameter.numel() for parameter in task.trained_model().parameters())
    assert dense > 4 * 200_000
    assert shipped_bytes(tmp_path) < 0.25 * dense
    loaded = leaves(load_model(tmp_path, task.model, registry()))
    for name, tensor in leaves(compressed.model).items():
        assert torch.equal(loaded[name], tensor)
    assert accuracy(compressed.model, task) > 0.5  # of ten classes; 0.7 before


@GRADUAL
def test_recurrent_and_embedding_weights_take_part(method: GradualPruning) -> None:
    found = zeros(sparsified(method, char_lstm(), epochs=1, sparsity=0.5).model)
    assert found.keys() == {
        "embedding.weight", "head.weight",
        "rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.weight_ih_l1", "rnn.weight_hh_l1",
    }  # fmt: skip
    assert all(share == pytest.approx(0.5, abs=0.01) for share in found.values())


@GRADUAL
def test_without_training_there_are_no_zeros_and_that_is_said(method: GradualPruning) -> None:
    with pytest.raises(NoEffect, match="in the recovery, which needs epochs"):
        sparsified(method, features(), epochs=0)


class Normed(nn.Module):
    """Sequences (B, 4, 12) to logits (B, 5), by layers whose weights are computed and one whose weight is its own."""

    def __init__(self, weight_norm: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.conv, self.mixed = weight_norm(nn.Conv1d(4, 16, 3)), weight_norm(nn.Linear(16, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.mixed(self.conv(x).relu().mean(-1)).relu())
        return logits


@GRADUAL
@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm.*:FutureWarning")
@pytest.mark.parametrize("weight_norm", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
def test_what_a_weight_is_computed_from_stays_dense(
    method: GradualPruning, weight_norm: Callable[[nn.Module], nn.Module]
) -> None:
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(64, 4, 12), torch.randint(5, (64,)))
    task = Task(model=lambda: Normed(weight_norm), train=data, validation=data, test=data)
    model = sparsified(method, task, epochs=1, sparsity=0.95).model
    assert zeros(model) == {"head.weight": pytest.approx(0.95, abs=0.01)}
    assert not model(torch.randn(2, 4, 12)).isnan().any()
    dense = method.skipped(model, {})
    assert len(dense) >= 2 and all(reason.startswith("is what another weight") for reason in dense.values())


def test_global_ranking_spares_the_layers_with_large_weights() -> None:
    found = zeros(sparsified(UnstructuredMagnitude(), wide_task(), sparsity=0.8, scope="global").model)
    sizes = {name: tensor.numel() for name, tensor in weights(wide_task().trained_model()).items()}
    assert sum(found[name] * size for name, size in sizes.items()) / sum(sizes.values()) == pytest.approx(0.8, abs=1e-3)
    assert found["0.weight"] < 0.6 < found["2.weight"]


def test_a_global_ranking_cuts_no_layer_through() -> None:
    small, large = torch.full((10, 10), 1e-3), torch.rand(100, 100) + 1
    kept = largest([small, large], 0.1, "global")
    assert int(kept[0].sum()) == 2 and int(kept[0].sum() + kept[1].sum()) == 1010


def test_the_share_of_zeros_rises_as_in_the_paper() -> None:
    assert share_of_zeros(0.8, 0.0) == 0.0
    assert share_of_zeros(0.8, RAMP / 2) == pytest.approx(0.8 * (1 - 0.5**3))
    assert share_of_zeros(0.8, RAMP) == share_of_zeros(0.8, 1.0) == 0.8


def test_masks_live_while_training_and_weights_come_back() -> None:
    weight = nn.Parameter(torch.tensor([[1.0, -2.0], [3.0, -4.0]]))
    masking = MagnitudeMasking([weight], 0.5, "layer")
    masking(0.75)
    assert weight.tolist() == [[0, 0], [3, -4]]
    with torch.no_grad():
        weight.copy_(torch.tensor([[9.0, 9.0], [0.5, -4.0]]))  # what an optimizer does to zeros does not count
    masking(0.76)
    assert weight.tolist() == [[0, 0], [0.5, -4]]
    masking(1.0)
    assert weight.tolist() == [[0, -2], [0, -4]]  # larger than the one that shrank, with the value that it had
    assert not torch.signbit(weight[weight == 0]).any()


def test_movement_keeps_what_grows_and_not_what_is_large() -> None:
    weight = nn.Parameter(torch.tensor([[5.0, -5.0], [0.1, -0.1]]))
    masking = MovementMasking([weight], 0.5, "layer")
    masking(0.0)
    weight.grad = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])  # descent shrinks the first two and grows the others
    masking(1.0)
    assert weight.tolist() == [[0, 0], pytest.approx([0.1, -0.1])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.float64])
def test_packed_tensors_come_back_bit_for_bit(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    values = (torch.randn(37, 11, generator=generator) * 20).to(dtype)
    values[torch.rand(values.shape, generator=generator) < 0.8] = 0
    dense = torch.randn(9, generator=generator)
    tensors = {"a": values, "bias": dense, "b": values.t().contiguous()[:, :3], "none": torch.zeros(0)}
    packed = pack_zeros(tensors)
    assert packed.keys() == {"bias", "none", STORED}
    restored = unpack_zeros(packed, {name: torch.empty_like(tensor) for name, tensor in tensors.items()})
    assert restored.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert restored[name].dtype == tensor.dtype and torch.equal(restored[name], tensor)


def test_negative_zero_is_kept() -> None:
    tensors = {"a": torch.tensor([-0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0])}
    assert torch.signbit(unpack_zeros(pack_zeros(tensors), tensors)["a"]).tolist() == [True] + [False] * 8


def test_what_has_no_zeros_is_left_as_it_is() -> None:
    tensors = {"a": torch.randn(8, 8, generator=torch.Generator().manual_seed(0)), "empty": torch.zeros(0)}
    assert pack_zeros(tensors) == tensors
    assert unpack_zeros(tensors, tensors) == tensors


@GRADUAL
def test_a_model_of_vectors_is_not_for_them(method: GradualPruning) -> None:
    data = TensorDataset(torch.randn(4, 8), torch.zeros(4, dtype=torch.long))
    task = Task(model=nn.LayerNorm(8), train=data, validation=data, test=data)
    with pytest.raises(NotApplicable, match="no trainable weight of two or more dimensions"):
        method.check(task, CPU)


def test_two_sparse_methods_do_not_follow_each_other() -> None:
    with pytest.raises(InvalidInput, match="leaves zeros that must stay"):
        check_order([UnstructuredMagnitude(), UnstructuredMovement()])


# 2:4 sparsity


def test_two_of_four_keeps_the_two_largest() -> None:
    mask = two_of_four(torch.tensor([[1.0, -4.0, 3.0, 2.0, 0.5, 0.4, -0.3, 0.2]]))
    assert mask.tolist() == [[False, True, True, False, True, True, False, False]]


def encoder(width: int = 64) -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(width, 4, 128, batch_first=True, dropout=0.0)
    return nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Linear(width, 5)).eval()


def encoder_task(width: int = 64) -> Task:
    inputs = torch.randn(32, 6, width, generator=torch.Generator().manual_seed(1))
    data = TensorDataset(inputs, torch.zeros(32, 6, dtype=torch.long))
    return Task(model=functools.partial(encoder, width), train=data, validation=data, test=data, loss=sequence_loss)


def sequence_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def test_masks_of_2_4_live_while_training_and_the_stored_layer_computes_the_same() -> None:
    method, task = SemiStructured24(), encoder_task()
    compressed = sparsified(method, task, epochs=2)
    found = {name: layer for name, layer in compressed.model.named_modules() if isinstance(layer, Linear24)}
    assert set(found) == {f"0.layers.{index}.linear{which}" for index in (0, 1) for which in (1, 2)}
    (change,) = compressed.changes
    assert change.output_error is not None and 0 < change.output_error < 2e-3
    linear = task.trained_model().get_submodule("0.layers.0.linear1")
    moved = found["0.layers.0.linear1"].dense().float() - linear.get_parameter("weight") * two_of_four(
        linear.get_parameter("weight")
    )
    assert 1e-4 < moved.abs().max() < 0.1  # trained on, under the mask of the trained weights
    assert not moved[~two_of_four(linear.get_parameter("weight"))].any()
    assert change.skipped["1"] == "has a weight of 5 x 64, but the kernels need multiples of 32 x 64"


def test_a_2_4_layer_is_its_own_dense_weight() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 32)
    expected = linear.weight.detach() * two_of_four(linear.weight)
    layer = Linear24(linear)
    assert torch.equal(layer.dense(), expected.half())
    inputs = torch.randn(3, 7, 64)
    error = output_error([layer(inputs).detach()], [nn.functional.linear(inputs, expected, linear.bias).detach()])
    assert error < 1e-3
    stored = sum(buffer.numel() * buffer.element_size() for buffer in layer.buffers())
    assert stored == 1.125 * 64 * 32
    copied = copy.deepcopy(layer)
    assert torch.equal(copied(inputs), layer(inputs))


def test_2_4_says_what_it_needs() -> None:
    with pytest.raises(NotApplicable, match="needs the sparse tensor cores of an Nvidia GPU, but the target is cpu@1"):
        SemiStructured24().check(encoder_task(), CPU)
    assert Trait.PRUNED in SemiStructured24().refuses


@pytest.mark.parametrize("method", ["structured_magnitude", "attention_heads", "recurrent_units", "embedding_columns"])
def test_channels_do_not_move_under_the_2_4_pattern(method: str) -> None:
    steps = [registry().get(name) for name in ("semi_structured_24", method)]
    with pytest.raises(InvalidInput, match=f"'{method}' cannot follow 'semi_structured_24', which leaves a pattern"):
        check_order(steps)
    check_order([registry().get("unstructured_magnitude"), steps[1]])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_2_4_on_sparse_tensor_cores(tmp_path: Path) -> None:
    method, task, target = SemiStructured24(), encoder_task(), Target("cuda:0")
    method.check(task, target)
    recipe = resolve(recipe_of(method), registry(), task)
    compressed = compress(task, recipe, registry=registry(), target=target)
    layer = compressed.model.get_submodule("0.layers.0.linear1")
    assert isinstance(layer, Linear24)
    inputs = torch.randn(8, 64, device="cuda")
    expected = nn.functional.linear(inputs, layer.dense().float(), layer.bias)
    assert output_error([layer(inputs).detach().cpu()], [expected.detach().cpu()]) < 2e-3
    assert isinstance(layer.sparse(), torch.sparse.SparseSemiStructuredTensor)
    write_model(tmp_path, compressed, recipe, target, registry())
    loaded = load_model(tmp_path, task.model, registry(), target)
    batch = task.inputs(8).cuda()
    assert torch.equal(loaded(batch), compressed.model(batch))
