from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from autocompress_factorization import SpatialSvdConv, SvdEmbedding, SvdLinear, Tucker2Conv
from autocompress_factorization.factorization import Factorization
from autocompress_factorization.low_rank import Factors, energies, rank_for, split
from autocompress_factorization.ranks import WORTHWHILE
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autocompress import NotApplicable, Plan, Target, Task
from autocompress.leaves import leaves
from autocompress.method import NoEffect
from autocompress.testing import compress_alone
from autocompress.testing_families import FAMILIES, bert, encoder, gpt, grouped, residual, vit

CPU = Target("cpu")
SVD_LINEAR, SVD_EMBEDDING, TUCKER2, SPATIAL = SvdLinear(), SvdEmbedding(), Tucker2Conv(), SpatialSvdConv()


def make_task(model: nn.Module, inputs: Tensor) -> Task:
    data = TensorDataset(inputs, torch.zeros(len(inputs), dtype=torch.long))
    return Task(model=model, train=data, validation=data, test=data)


def full_ranks(method: Factorization, model: nn.Module) -> Plan:
    """A plan that discards nothing: what `decide` never gives, since it saves nothing."""
    ranks: dict[str, Any] = {}
    for name, obstacle in method.layers(model).items():
        weight: Any = model.get_submodule(name).weight
        rows, columns, *kernel = weight.shape
        full: dict[str, Any] = {
            "tucker2_conv": [rows, columns],
            "spatial_svd_conv": min(columns * kernel[0], rows * kernel[-1]) if len(kernel) == 2 else 0,
        }
        if not obstacle:
            ranks[name] = full.get(method.name, min(rows, columns))
    return {"energy": 1.0, "ranks": ranks}


def decided(method: Factorization, model: nn.Module, energy: float = 0.8) -> Plan:
    plan: Plan = json.loads(json.dumps(method.decide(model, {"energy": energy}, residual())))
    return plan


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def weight_shapes(model: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for name, tensor in leaves(model).items() if name.endswith("weight")]


def conv(*arguments: Any, **options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(*arguments, **options)


LAYERS: dict[str, tuple[Factorization, Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear, wide": (SVD_LINEAR, lambda: nn.Linear(64, 48), (2, 3, 64)),
    "linear, tall": (SVD_LINEAR, lambda: nn.Linear(48, 64, bias=False), (2, 48)),
    "tucker2, strided": (TUCKER2, conv(12, 16, 3, stride=2, padding=1), (2, 12, 9, 9)),
    "tucker2, dilated": (TUCKER2, conv(12, 16, (3, 5), dilation=(2, 1), padding="same", bias=False), (2, 12, 9, 9)),
    "tucker2, 1d": (TUCKER2, lambda: nn.Conv1d(12, 16, 5, padding=2), (2, 12, 9)),
    "tucker2, 3d": (TUCKER2, lambda: nn.Conv3d(12, 16, 3, padding=1), (1, 12, 5, 5, 5)),
    "spatial, strided": (SPATIAL, conv(12, 16, (3, 5), stride=(2, 1), padding=(1, 2)), (2, 12, 9, 9)),
    "spatial, reflected": (SPATIAL, conv(12, 16, 3, padding=1, padding_mode="reflect", bias=False), (2, 12, 9, 9)),
    "spatial, dilated": (SPATIAL, conv(12, 16, (3, 5), dilation=(2, 1), padding="same"), (2, 12, 9, 9)),
}


@pytest.mark.parametrize("case", LAYERS)
def test_full_rank_is_exact(case: str) -> None:
    method, build, shape = LAYERS[case]
    torch.manual_seed(0)
    layer, inputs = build(), torch.randn(shape)
    expected, weight = layer(inputs), layer.weight
    made = method.reshape(layer, full_ranks(method, layer))
    assert isinstance(made, Factors) and len(made) == (1 if method is TUCKER2 else 2)
    torch.testing.assert_close(made(inputs), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made.weight, weight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", LAYERS)
def test_the_error_is_the_discarded_energy(case: str) -> None:
    """Exactly, for one SVD; for Tucker-2 at most the energies that its two modes discard together."""
    method, build, shape = LAYERS[case]
    torch.manual_seed(0)
    layer = build()
    weight: Tensor = layer.get_parameter("weight").detach().clone()
    made = method.reshape(layer, decided(method, layer))
    assert isinstance(made, Factors) and made(torch.randn(shape)).isfinite().all()
    error = float((made.weight.detach() - weight).square().sum() / weight.square().sum())
    if method is not TUCKER2:
        assert 0.15 < error <= 0.2 + 1e-6
        return
    discarded = 0.0
    core = weight_shapes(made)[1]
    for mode, rank in enumerate(core[:2]):
        spectrum = energies(weight.transpose(0, mode).flatten(1))
        assert rank < len(spectrum)
        discarded += float(spectrum[rank:].sum() / spectrum.sum())
    assert 0 < error <= discarded <= 0.4


def test_split_is_the_svd() -> None:
    """Against torch's own, also for a matrix of lower rank than asked for, and for one of zeros."""
    matrix = torch.randn(9, 3, generator=torch.Generator().manual_seed(0)) @ torch.randn(3, 7)
    left, right = split(matrix, 2)
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    torch.testing.assert_close(left @ right, (u[:, :2] * s[:2]) @ v[:2])
    torch.testing.assert_close(energies(matrix), s.square())
    torch.testing.assert_close(left.norm(), right.norm())
    for values in (matrix, torch.zeros(9, 7), torch.full((9, 7), float("nan"))):
        left, right = split(values, 5)
        torch.testing.assert_close((left @ right).float(), values.nan_to_num(), rtol=1e-5, atol=1e-5)


def test_the_rank_is_the_smallest_that_keeps_the_energy() -> None:
    values = torch.tensor([5.0, 3.0, 2.0, 0.0])
    assert [rank_for(values, share) for share in (0.5, 0.51, 0.8, 0.81, 1.0)] == [1, 2, 2, 3, 3]
    assert rank_for(torch.zeros(3), 0.8) == 1


SERVED = [
    (method, name)
    for method, names in {
        SVD_LINEAR: "images vit encoder bert llama gpt char_lstm recommender gru4rec features two_heads dict_inputs",
        SVD_EMBEDDING: "encoder bert llama gpt char_lstm recommender gru4rec",
        TUCKER2: "images residual mobilenet efficientnet grouped vit dict_inputs",
        SPATIAL: "images residual mobilenet efficientnet grouped vit dict_inputs",
    }.items()
    for name in names.split()
]


@pytest.mark.parametrize(("method", "family"), SERVED, ids=lambda value: getattr(value, "name", value))
def test_parameters_removed_are_those_of_the_ranks(method: Factorization, family: str) -> None:
    """Each layer saves what its shape and ranks say, counted here by the textbook's formulas."""
    model = FAMILIES[family]().trained_model()
    plan, before, saved = decided(method, model), parameters(model), 0
    assert plan["ranks"]
    for name, ranks in plan["ranks"].items():
        weight: Any = model.get_submodule(name).weight
        rows, columns, *kernel = weight.shape
        if method is TUCKER2:
            out, into = ranks
            outer = (rows * out if out < rows else 0) + (columns * into if into < columns else 0)
            factors = out * into * math.prod(kernel) + outer
        elif method is SPATIAL:
            factors = ranks * (columns * kernel[0] + rows * kernel[1])
        else:
            factors = ranks * (rows + columns)
        assert weight.numel() - factors >= WORTHWHILE
        saved += weight.numel() - factors
    assert before - parameters(method.reshape(model, plan)) == saved


def test_layers_are_served_or_skipped_with_a_reason() -> None:
    """None is forgotten, before reshaping or after; and an encoder's attention is among those skipped."""
    for method, name in SERVED:
        model = FAMILIES[name]().trained_model()
        layers, plan = method.layers(model), decided(method, model)
        model = method.reshape(model, plan)
        assert method.skipped(model, plan).keys() == layers.keys() - plan["ranks"].keys()
        assert all(method.skipped(model, plan).values())
    plan = decided(SVD_LINEAR, encoder().trained_model())
    skipped = SVD_LINEAR.skipped(SVD_LINEAR.reshape(encoder().trained_model(), plan), plan)
    assert skipped["encoder.layers.1.self_attn.out_proj"] == "nn.MultiheadAttention reads its weight without calling it"
    assert "80% of the weight's energy" in skipped["head"]


def test_grouped_and_pointwise_convolutions_are_left_alone() -> None:
    for method in (TUCKER2, SPATIAL):
        model = grouped().trained_model()
        plan = decided(method, model)
        skipped = method.skipped(method.reshape(model, plan), plan)
        assert list(plan["ranks"]) == ["0"]
        assert skipped["3"] == "its 4 groups are a factorization already"
        assert skipped["5"] == (
            "its kernel is pointwise" if method is TUCKER2 else "its kernel has one row or one column"
        )


def test_what_is_skipped_is_in_the_trials_log(capsys: pytest.CaptureFixture[str]) -> None:
    made = compress_alone(TUCKER2, grouped(), CPU)
    assert made.changes[0].skipped["3"] == "its 4 groups are a factorization already"
    assert "3 left as it was: its 4 groups" in capsys.readouterr().out


def test_a_stem_keeps_its_colours() -> None:
    stem = residual().trained_model().get_submodule("0")
    assert weight_shapes(TUCKER2.split(stem, [8, 3])) == [(8, 3, 3, 3), (16, 8, 1, 1)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", ["linear, wide", "tucker2, strided", "spatial, strided"])
def test_factors_have_the_layers_dtype_and_its_frozenness(case: str, dtype: torch.dtype) -> None:
    method, build, shape = LAYERS[case]
    layer = build().to(dtype).requires_grad_(False)
    expected, inputs = layer(torch.ones(shape, dtype=dtype)), torch.ones(shape, dtype=dtype)
    made = method.reshape(layer, full_ranks(method, layer))
    assert {tensor.dtype for tensor in leaves(made).values()} == {dtype}
    assert not any(parameter.requires_grad for parameter in made.parameters())
    torch.testing.assert_close(made(inputs), expected, rtol=0.05, atol=0.05)


def test_gpts_transposed_layers_are_split() -> None:
    model = gpt().trained_model()
    assert SVD_LINEAR.layers(model)["lm_head"] == "its weight is shared by transformer.wte and lm_head"
    layer = model.get_submodule("transformer.h.0.attn.c_attn")  # weight (in 32, out 96)
    inputs = torch.randn(2, 5, 32)
    made = SVD_LINEAR.split(layer, 32)
    assert weight_shapes(made) == [(32, 32), (96, 32)]
    torch.testing.assert_close(made(inputs), layer(inputs), rtol=1e-5, atol=1e-5)


def test_a_tied_head_stays_tied_to_the_embeddings_factors() -> None:
    model, inputs = gpt().trained_model(), gpt().inputs(4)
    with torch.no_grad():
        expected = model(**inputs)["logits"]
        exact = SVD_EMBEDDING.reshape(model, {"energy": 1.0, "ranks": {"transformer.wte": 32}})
        torch.testing.assert_close(exact(**inputs)["logits"], expected, rtol=1e-4, atol=1e-4)
    names = [name for name in leaves(exact) if "wte" in name or "lm_head" in name]
    assert names == ["transformer.wte.0.weight", "transformer.wte.1.weight"]
    head, table = exact.get_submodule("lm_head"), exact.get_submodule("transformer.wte")
    torch.testing.assert_close(head.weight, table.weight)
    exact(**inputs)["logits"].sum().backward()
    assert table.get_parameter("0.weight") is head.codes and head.codes.grad is not None


def test_an_embedding_shared_with_something_else_is_left_alone() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(64, 32)
            self.mixed = nn.Bilinear(1, 32, 64)
            self.mixed.weight = nn.Parameter(torch.randn(64, 1, 32))
            self.other = nn.EmbeddingBag(64, 32, max_norm=1.0)
            self.other.weight = self.table.weight
            self.renormed = nn.Embedding(64, 32, max_norm=1.0)

    assert SVD_EMBEDDING.layers(Shared()) == {
        "table": "its weight is shared by other",
        "other": "EmbeddingBag has a forward of its own",
        "renormed": "its rows are rescaled to `max_norm` in place",
    }


def test_a_padding_row_stays_zero_and_gets_no_gradient() -> None:
    torch.manual_seed(0)
    table = nn.Embedding(50, 32, padding_idx=7)
    made = SVD_EMBEDDING.reshape(table, decided(SVD_EMBEDDING, table))
    assert made(torch.tensor([7])).abs().max() < 1e-6
    made(torch.arange(50)).sum().backward()
    assert made.get_parameter("0.weight").grad[7].abs().max() == 0  # type: ignore[index]


def test_a_layer_used_under_two_names_is_one_product() -> None:
    layer = nn.Linear(32, 32)
    model = nn.Sequential(layer, nn.ReLU(), nn.ModuleDict({"again": layer}))
    made = SVD_LINEAR.reshape(model, decided(SVD_LINEAR, model))
    assert isinstance(made[0], Factors) and made[0] is made[2]["again"]  # type: ignore[index]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")  # of the fused layers, before the reshape
def test_a_transformers_layer_uses_its_factors_in_eval_mode(padded: bool) -> None:
    """PyTorch's fused inference would read the weights and never call the factors, or fail on nested tensors."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 128, dropout=0.0, batch_first=True)
    model, inputs = nn.TransformerEncoder(layer, 2).eval(), torch.randn(2, 6, 32)
    mask = torch.arange(6).expand(2, 6) >= torch.tensor([[4], [6]]) if padded else None
    with torch.no_grad():
        expected = model(inputs, src_key_padding_mask=mask)
        exact = SVD_LINEAR.reshape(model, full_ranks(SVD_LINEAR, model))
        calls: list[nn.Module] = []
        exact.get_submodule("layers.1.linear1").register_forward_hook(lambda module, *_: calls.append(module))
        made = exact(inputs, src_key_padding_mask=mask)
    keep = slice(None) if mask is None else ~mask  # fused inference gives zeros for what is masked
    torch.testing.assert_close(made[keep], expected[keep], rtol=1e-4, atol=1e-4)
    assert len(calls) == 1


def test_computed_weights_and_own_forwards_are_left_alone() -> None:
    class Scaled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(32, 32)), Scaled(32, 32))
    assert SVD_LINEAR.layers(model) == {
        "0": "its weight is computed from other parameters",
        "1": "Scaled has a forward of its own",
    }


def test_what_cannot_get_smaller_is_not_applicable() -> None:
    """A matrix without small singular values: at 80 % of its energy the factors are larger than it."""
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    nn.init.orthogonal_(model[0].weight)  # type: ignore[arg-type]
    with pytest.raises(NotApplicable, match="factors that keep 80% of the weight's energy .* in all it has: 0, 2"):
        SVD_LINEAR.check(make_task(model, torch.randn(8, 32)), CPU)
    with pytest.raises(NotApplicable, match="splits embedding tables, but this model has none for it"):
        SVD_EMBEDDING.check(make_task(model, torch.randn(8, 32)), CPU)
    with pytest.raises(NotApplicable, match=r"none for it \(0: its 4 groups"):
        TUCKER2.check(make_task(nn.Sequential(nn.Conv2d(4, 8, 3, groups=4)), torch.randn(2, 4, 8, 8)), CPU)


def test_an_energy_that_saves_nothing_has_no_effect() -> None:
    from autocompress import Recipe, Recovery, Step
    from autocompress.compress import compress
    from autocompress.plugins import Plugin, Registry

    step = Step(method="svd_linear", params={"energy": 0.98})
    with pytest.raises(NoEffect, match="encoder_layer_0.mlp.0: factors that keep 98% of the weight's energy"):
        compress(
            vit(),
            Recipe(steps=(step,), recovery=Recovery(epochs=1)),
            registry=Registry((Plugin("p", "p", "0", (SVD_LINEAR,)),)),
            target=CPU,
        )


def test_a_pooler_is_found_behind_names() -> None:
    """BERT's layers are reached through attribute access of its own, which must meet the factors."""
    made = compress_alone(SVD_LINEAR, bert(), CPU)
    assert isinstance(made.model.bert.pooler.dense, Factors)  # type: ignore[union-attr]
    assert made.model.bert.pooler.dense.bias is not None  # type: ignore[union-attr]
