"""Whole attention heads taken out."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autocompress import Choice, Float, Integer, Method, NotApplicable, Parameter, Plan, Target, Task, Technique, Trait
from autocompress.effect import output_error, outputs
from autocompress.tensors import call
from autocompress_pruning.attention import attentions, remove_heads
from autocompress_pruning.dependency import slices
from autocompress_pruning.scores import labelled
from autocompress_pruning.trial import largest_that_works

_BATCH = 16
_SAME = 1e-3
"""How far the outputs without a head may be from those with the head's part of the output projection at zero."""


@dataclass(frozen=True)
class _Heads:
    """The heads of one attention: what each owns of the layer that mixes them."""

    name: str
    output: str
    channels: tuple[list[int], ...]
    """Channels that the layer takes, by head; heads that share keys and values count as one."""


class AttentionHeads(Method):
    """Removes whole attention heads, those whose gate would change the loss least.

    For `nn.MultiheadAttention` (torchvision, `nn.TransformerEncoder`), which becomes four linear layers, and for
    attention with linear layers of its own (BERT, GPT-2, Llama and their like). Query heads that share keys and values
    go together. Fewer heads mean less to compute and to cache for each token; the width between the blocks stays, which
    is for structured pruning. What is chosen was tried: without a head, the model must compute what it computes when
    the head's part of the output is zero.
    Michel et al. 2019, "Are Sixteen Heads Really Better than One?".
    """

    name = "attention_heads"
    technique = Technique.PRUNING
    gives = frozenset({Trait.PRUNED})

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """`ratio`: share of the heads that is removed, of each attention (`uniform`) or of all (`global`).

        Each attention keeps a head. `samples`: of the calibration data, that gradients are taken on.
        """
        return {
            "ratio": Float(0.1, 0.9, default=0.5, step=0.05),
            "scope": Choice(("uniform", "global"), default="uniform"),
            "samples": Integer(32, 4096, default=128, log=True),
        }

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable if there is no attention with a head to spare."""
        model = task.trained_model()
        # Of attentions of one type either all can lose a head or none.
        first = {type(model.get_submodule(heads.name)): heads.name for heads in _heads(model)}
        if not _that_work(model, task.inputs(2), {name: [0] for name in first.values()}, enough=1):
            raise NotApplicable(
                f"{self.name} removes heads from nn.MultiheadAttention and from attention made of linear layers,"
                " but this model has none with two heads or more that can lose one"
            )

    def decide(self, model: nn.Module, params: Mapping[str, Any], task: Task) -> Plan:
        """The heads of keys and values that go, by attention."""
        found = list(_heads(model))
        chosen = _least_important(found, _scores(model, found, task, params["samples"]), params)
        working = _that_work(model, task.inputs(2), chosen)
        return {"heads": working, "fixed": sorted(chosen.keys() - working.keys())}

    def skipped(self, model: nn.Module, plan: Plan) -> Mapping[str, str]:
        return dict.fromkeys(plan["fixed"], "its number of heads is fixed by the model's own code")

    def reshape(self, model: nn.Module, plan: Plan) -> nn.Module:
        return remove_heads(model, plan["heads"])


def _heads(model: nn.Module) -> Iterator[_Heads]:
    """All attentions that have a head to spare."""
    for name, module in model.named_modules():
        # Keys of its own that belong to no token are one more thing for each head to lose: left alone.
        if isinstance(module, nn.MultiheadAttention) and module.num_heads > 1 and module.bias_k is None:
            if not module.add_zero_attn:
                width = module.head_dim
                channels = tuple(list(range(head * width, (head + 1) * width)) for head in range(module.num_heads))
                yield _Heads(name, f"{name}.out_proj", channels)
    for attention in attentions(model):
        if attention.key_heads > 1:
            channels = tuple(attention.query_channels(head) for head in range(attention.key_heads))
            yield _Heads(attention.name, attention.output, channels)


def _scores(model: nn.Module, found: Sequence[_Heads], task: Task, samples: int) -> dict[str, Tensor]:
    """Of each attention, how fast the loss changes with a gate at each head (heads,), relative to their norm.

    A gate's gradient is the sum of weight x gradient over what the head owns of the output projection.
    """
    probe = copy.deepcopy(model).eval().requires_grad_(True)
    scores = {heads.name: torch.zeros(len(heads.channels)) for heads in found}
    for inputs, targets in labelled(task, samples, _BATCH):
        with torch.enable_grad():
            probe.zero_grad()
            task.loss(call(probe, inputs), targets).backward()  # type: ignore[no-untyped-call]
        for heads in found:
            scores[heads.name] += torch.stack([_gate(probe, heads, head) for head in range(len(heads.channels))])
    return {name: score / score.norm().clamp_min(1e-12) for name, score in scores.items()}


def _gate(model: nn.Module, heads: _Heads, head: int) -> Tensor:
    """|gradient of the loss by the head's gate|; zero where the loss does not depend on it."""
    (part,) = slices(model.get_submodule(heads.output), True, heads.channels[head])
    gradient = part.parameter.grad
    if gradient is None:
        return torch.zeros(())
    rows = torch.tensor(part.indices)
    product = part.parameter.detach() * gradient
    return product.index_select(part.dimension, rows).sum().abs()


def _least_important(
    found: Sequence[_Heads], scores: Mapping[str, Tensor], params: Mapping[str, Any]
) -> dict[str, list[int]]:
    """The heads to remove by attention: at least one in all, and never the last."""
    chosen: dict[str, list[int]] = {heads.name: [] for heads in found}
    pools = [found] if params["scope"] == "global" else [[heads] for heads in found]
    for pool in pools:
        entries = [(float(score), heads.name, head) for heads in pool for head, score in enumerate(scores[heads.name])]
        left = max(1, round(params["ratio"] * len(entries)))
        for _, name, head in sorted(entries):
            if left and len(chosen[name]) + 1 < len(scores[name]):
                chosen[name].append(head)
                left -= 1
    return {name: sorted(heads) for name, heads in chosen.items() if heads}


def _that_work(
    model: nn.Module, inputs: Any, chosen: Mapping[str, list[int]], enough: int | None = None
) -> dict[str, list[int]]:
    """Those attentions in which removing the heads gives what silencing them does."""

    def works(names: Sequence[str]) -> bool:
        silenced = copy.deepcopy(model)
        for heads in (heads for heads in _heads(silenced) if heads.name in names):
            channels = [channel for head in chosen[heads.name] for channel in heads.channels[head]]
            (part,) = slices(silenced.get_submodule(heads.output), True, channels)
            with torch.no_grad():
                part.parameter.index_fill_(part.dimension, torch.tensor(part.indices), 0)
        pruned = remove_heads(copy.deepcopy(model), {name: chosen[name] for name in names})
        return output_error(outputs(pruned, inputs), outputs(silenced, inputs)) < _SAME

    return {name: chosen[name] for name in largest_that_works(list(chosen), works, enough)}
