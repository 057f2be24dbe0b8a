"""Whether two models look at the same parts of their inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autocompress.damage.heads import tensors_by_place
from autocompress.damage.inside import NoView, device_of, eagerly, prefix_of
from autocompress.errors import first_line
from autocompress.method import Runtime
from autocompress.tensors import call, first_tensor, map_tensors, to_device

BATCH_SIZE = 32


@dataclass(frozen=True)
class ExplanationSimilarity:
    """Cosine between the two models' attributions, by sample: 1 is the same, 0 unrelated, -1 opposed."""

    mean: float | None
    """None: see `reason`."""
    p10: float | None
    """A tenth of the samples is below."""
    samples: int
    """Those whose attributions are not all zero in one of the models."""
    of: str
    """`inputs`, or `embeddings` where inputs are tokens."""
    reason: str = ""
    """Why there is none."""

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def explanation_similarity(
    baseline: nn.Module, model: nn.Module, inputs: Any, samples: int = 128
) -> ExplanationSimilarity:
    """Gradient x input (Shrikumar et al. 2016) of both models on the first `samples` of the inputs (B, ...).

    What is explained is the first floating-point output: of logits (B, ..., C) those of the baseline's answers, of
    numbers (B,) themselves. It is attributed to the floating-point inputs; where there are none, to what `nn.Embedding`
    gives for the tokens, summed over its width. A model that has no gradients gives a reason in place of figures.
    """
    of = "inputs" if _floats(inputs) else "embeddings"
    try:
        found = _cosines(baseline, model, _rows(inputs, 0, samples))
    except Exception as error:  # a model of the user's, or of a plugin's
        reason = str(error) if isinstance(error, NoView) else f"no gradients could be had: {first_line(error)}"
        return ExplanationSimilarity(None, None, 0, of, reason)
    return ExplanationSimilarity(float(found.mean()), float(found.quantile(0.1)), len(found), of)


def attributions(
    model: nn.Module, inputs: Any, answers: Tensor | None = None, embeddings: tuple[str, ...] = ()
) -> tuple[Tensor, Tensor]:
    """Gradient x input of each sample (B, features), and the answers that are explained (B, ...): both on the CPU.

    `answers` are the model's own when left out; `embeddings` are paths of what looks up tokens, where those are inputs.
    Raises NoView, saying why, where there are no gradients.
    """
    if isinstance(model, Runtime):
        raise NoView(f"{type(model).__name__} runs in another runtime, which gives no gradients")
    with torch.inference_mode(False), torch.enable_grad(), eagerly():
        inputs = map_tensors(torch.clone, to_device(inputs, device_of(model)))
        leaves = [tensor.requires_grad_() for tensor in _floats(inputs)]
        with _looked_up(model, () if leaves else embeddings) as vectors:
            value, answers = _explained(call(model.eval(), inputs), answers)
        rows = len(first_tensor(inputs))
        leaves += [vector for vector in vectors if len(vector) == rows]  # vectors of positions have one row for all
        if not leaves or not value.requires_grad:
            raise NoView("the outputs carry no gradients to the inputs")
        gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    parts = [
        torch.zeros_like(leaf) if gradient is None else leaf.detach() * gradient
        for leaf, gradient in zip(leaves, gradients, strict=True)
    ]
    if vectors:
        parts = [part.sum(dim=-1) for part in parts]  # a token's share, whatever the width
    return torch.cat([part.reshape(rows, -1).double().cpu() for part in parts], dim=1), answers


def _cosines(baseline: nn.Module, model: nn.Module, inputs: Any) -> Tensor:
    """One for each sample that has attributions in both models (B,)."""
    embeddings = tuple(name for name, module in baseline.named_modules() if isinstance(module, nn.Embedding))
    cosines: list[Tensor] = []
    for start in range(0, len(first_tensor(inputs)), BATCH_SIZE):
        batch = _rows(inputs, start, start + BATCH_SIZE)
        first, answers = attributions(baseline, batch, None, embeddings)
        second, _ = attributions(model, batch, answers, embeddings)
        told = (first != 0).any(dim=1) & (second != 0).any(dim=1)
        cosines.append(functional.cosine_similarity(first[told], second[told], eps=1e-300))
    found = torch.cat(cosines)
    if not len(found):
        raise NoView("the gradients are zero everywhere")
    return found


def _explained(outputs: Any, answers: Tensor | None) -> tuple[Tensor, Tensor]:
    """The sum of what is explained, and which class that is at each place."""
    floats = _floats(outputs)
    if not floats:
        raise NoView("the outputs hold no floating-point numbers")
    logits = floats[0]
    if logits.ndim < 2:
        return logits.sum(), torch.empty(0)
    answers = logits.detach().argmax(dim=-1).cpu() if answers is None else answers
    return logits.gather(-1, answers.to(logits.device)[..., None]).sum(), answers


@contextmanager
def _looked_up(model: nn.Module, paths: tuple[str, ...]) -> Iterator[list[Tensor]]:
    """What the modules at the paths give while the model runs, made leaves of its graph."""
    vectors: list[Tensor] = []

    def cut(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        vectors.append(output.detach().requires_grad_())
        return vectors[-1]

    modules, prefix = dict(model.named_modules()), prefix_of(model, paths) if paths else ""
    missing = [path for path in paths if prefix + path not in modules]
    if missing:
        raise NoView(f"the model has no module {missing[0]!r}, which looks up tokens in the baseline")
    hooks = [modules[prefix + path].register_forward_hook(cut) for path in paths]
    try:
        yield vectors
    finally:
        for hook in hooks:
            hook.remove()


def _rows(value: Any, start: int, end: int) -> Any:
    return map_tensors(lambda tensor: tensor[start:end], value)


def _floats(value: Any) -> list[Tensor]:
    return [tensor for tensor in tensors_by_place(value).values() if tensor.is_floating_point()]
