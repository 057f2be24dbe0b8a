"""What the unstructured methods share: masks that grow while the model is trained, and how their zeros are stored."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from autocompress import (
    Choice,
    Float,
    Method,
    NotApplicable,
    Parameter,
    Plan,
    Schedule,
    Target,
    Task,
    Technique,
    Trait,
)
from autocompress_pruning.sparse_storage import pack_zeros, unpack_zeros

RAMP = 0.75
"""Share of the training in which the zeros become more; in the rest the weights that are left are trained."""
MOMENTS = 64
"""How often in a training the masks are chosen anew; ranking all weights at each step would cost more than the step."""
KEPT_EVERYWHERE = 0.02
"""Share of each layer's weights that one ranking of all layers leaves it, so that none is cut through."""


class GradualPruning(Method, ABC):
    """Sets single weights to zero while the model is trained, slowly, and stores what is left.

    The shares of zeros follow the cubic schedule of Zhu & Gupta 2017, "To prune, or not to prune". Weights of two or
    more dimensions take part, those of linear, convolutional, recurrent, attention and embedding layers; biases and
    norms do not. The file shrinks; the model runs dense, as fast as before.
    """

    technique = Technique.PRUNING
    gives = frozenset({Trait.SPARSE, Trait.PACKED})
    refuses = frozenset({Trait.SPARSE, Trait.PACKED})
    masking: ClassVar[type[Masking]]

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """`sparsity`: share of the weights that become zero; `scope`: in each layer, or ranked over all of them."""
        return {"sparsity": Float(0.5, 0.95, default=0.8, step=0.05), "scope": Choice(("layer", "global"), "layer")}

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable if the model has no trainable weight of two dimensions."""
        model = task.trained_model()
        if not weights(model):
            reasons = "".join(f"; {name} {reason}" for name, reason in _left(model).items())
            raise NotApplicable(
                f"{self.name} sets single weights of layers to zero while training,"
                f" but this model has no trainable weight of two or more dimensions{reasons}"
            )

    def skipped(self, model: nn.Module, plan: Plan) -> Mapping[str, str]:
        """Weights that are dense still."""
        trained = weights(model)
        found = _left(model)
        if trained and all(parameter.all() for parameter in trained.values()):
            found["all weights"] = "have no zeros: they are pruned step by step in the recovery, which needs epochs"
        return found

    def schedule(self, model: nn.Module, plan: Plan) -> Schedule:
        return self.masking(list(weights(model).values()), plan["sparsity"], plan["scope"])

    def pack(self, tensors: dict[str, Tensor], plan: Plan) -> dict[str, Tensor]:
        return pack_zeros(tensors)

    def unpack(self, stored: dict[str, Tensor], like: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
        return unpack_zeros(stored, like)


def weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are pruned, by name; tied ones once."""
    return {name: parameter for name, parameter in _matrices(model).items() if not _unsuitable(model, name)}


def _left(model: nn.Module) -> dict[str, str]:
    """The parameters that stay dense, with the reason."""
    found = {name: _unsuitable(model, name) for name in _matrices(model)}
    return {name: reason for name, reason in found.items() if reason}


def _matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    named = model.named_parameters()
    return {name: parameter for name, parameter in named if parameter.is_floating_point() and is_matrix(parameter)}


def _unsuitable(model: nn.Module, name: str) -> str:
    """Why a parameter cannot get zeros; empty if it can."""
    if not model.get_parameter(name).requires_grad:
        return "is frozen: nothing could make up for what it lost"
    owner, _, own = name.rpartition(".")
    stem, _, suffix = own.rpartition("_")  # `weight_g` and `weight_v` of torch.nn.utils.weight_norm make `weight`
    by_hook = suffix in ("g", "v", "orig") and isinstance(vars(model.get_submodule(owner)).get(stem), Tensor)
    if by_hook or "parametrizations" in name.split("."):
        return "is what another weight is computed from, which a row of zeros could make NaN"
    return ""


def is_matrix(parameter: Tensor) -> bool:
    """Whether it has two or more dimensions of more than one: a class token (1, 1, D) is a vector."""
    return sum(size > 1 for size in parameter.shape) >= 2


class Masking(ABC):
    """The schedule: before each step, weights outside the mask are zero, and their values are kept aside.

    So a weight that was cut comes back with its value when it ranks higher than one that is left.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], sparsity: float, scope: str) -> None:
        self.parameters = parameters
        self.sparsity, self.scope = sparsity, scope
        self.dense = [parameter.detach().clone() for parameter in parameters]
        self.masks = [torch.ones_like(parameter, dtype=torch.bool) for parameter in parameters]
        self._moment = 0

    @abstractmethod
    def importance(self) -> list[Tensor]:
        """A score a weight, shaped as the parameters; the lowest become zero."""

    @torch.no_grad()
    def __call__(self, done: float) -> None:
        for parameter, dense, mask in zip(self.parameters, self.dense, self.masks, strict=True):
            dense[mask] = parameter[mask]
        moment = math.floor(done * MOMENTS)
        if moment != self._moment:
            self._moment = moment
            self.masks = largest(self.importance(), 1 - share_of_zeros(self.sparsity, done), self.scope)
        for parameter, dense, mask in zip(self.parameters, self.dense, self.masks, strict=True):
            parameter.copy_(dense.masked_fill(~mask, 0.0))  # times the mask would leave -0.0, which is stored


def share_of_zeros(final: float, done: float) -> float:
    """The cubic schedule: steep at first, while much is redundant."""
    return float(final * (1 - (1 - min(done / RAMP, 1.0)) ** 3))


def largest(scores: Sequence[Tensor], share: float, scope: str) -> list[Tensor]:
    """Masks of the `share` with the highest scores, of each tensor or of all together."""
    if scope == "layer":
        return [_largest(score, share) for score in scores]
    safe = [score.masked_fill(_largest(score, min(KEPT_EVERYWHERE, share)), math.inf).flatten() for score in scores]
    together = _largest(torch.cat(safe), share)
    parts = torch.split(together, [score.numel() for score in scores])
    return [part.view(score.shape) for part, score in zip(parts, scores, strict=True)]


def _largest(score: Tensor, share: float) -> Tensor:
    mask = torch.zeros(score.numel(), dtype=torch.bool, device=score.device)
    mask[score.flatten().topk(round(score.numel() * share)).indices] = True
    return mask.view(score.shape)
