"""2:4 sparsity: two of every four weights are zero, which the tensor cores of Nvidia GPUs skip."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autocompress import Method, NotApplicable, NotForTarget, Plan, Schedule, Target, Task, Technique, Trait
from autocompress.errors import first_line
from autocompress_pruning.readers import replace, shared_parameters

ROWS, COLUMNS = 32, 64
"""What a weight's shape must be multiples of for the kernels, in half precision."""


class SemiStructured24(Method):
    """Keeps the two largest of every four weights of linear layers, and runs them on sparse tensor cores.

    For GPUs of compute capability 8.0 or higher, and there for layers of thousands of features at large batches; small
    ones get slower. The layers compute in half precision, and take 1.125 bytes a weight in the file in place of 4.

    Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks": prune once, train again under the same masks.
    """

    name = "semi_structured_24"
    technique = Technique.PRUNING
    gives = frozenset({Trait.SPARSE, Trait.PATTERN, Trait.QUANTIZED, Trait.HALF})
    refuses = frozenset({Trait.PRUNED, Trait.SPARSE, Trait.PACKED})
    max_output_error = 0.02

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable without a GPU that has the kernels, or if no layer has a shape for them."""
        if not target.is_cuda:
            raise NotForTarget(
                f"{self.name} needs the sparse tensor cores of an Nvidia GPU, but the target is {target}:"
                " on a CPU two zeros of four save no time, and `unstructured_magnitude` saves more bytes"
            )
        check_kernels(target)
        model = task.trained_model()
        if not linear_layers(model):
            reasons = "".join(f"; {layer} {reason}" for layer, reason in self.skipped(model, {}).items())
            raise NotApplicable(f"{self.name} is for nn.Linear layers, but this model has none that fits{reasons}")

    def skipped(self, model: nn.Module, plan: Plan) -> Mapping[str, str]:
        found = {name: _unsuitable(model, layer) for name, layer in model.named_modules() if type(layer) is nn.Linear}
        return {name: reason for name, reason in found.items() if reason}

    def reshape(self, model: nn.Module, plan: Plan) -> nn.Module:
        """Zeros two weights of every four: the pattern is decided by the trained weights."""
        for layer in linear_layers(model).values():
            with torch.no_grad():
                layer.weight.masked_fill_(~two_of_four(layer.weight), 0.0)
        return model

    def schedule(self, model: nn.Module, plan: Plan) -> Schedule:
        weights = [layer.weight for layer in linear_layers(model).values()]
        return functools.partial(_keep_zeros, weights, [~two_of_four(weight) for weight in weights])

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        return self.restore(model, plan, target)

    def restore(self, model: nn.Module, plan: Plan, target: Target) -> nn.Module:
        for name, layer in linear_layers(model).items():
            model = replace(model, name, Linear24(layer))
        for module in model.modules():
            _leave_fast_path(module)
        return model


class Linear24(nn.Module):
    """A linear layer whose weight is stored as two values of four and where they stand.

    On a GPU it is multiplied by sparse tensor cores, elsewhere as a dense matrix.
    """

    values: Tensor
    """The weights that are kept (out, in / 2), float16."""
    places: Tensor
    """Where in its four each stands (out, in / 8), uint8: two bits each, the first weight's lowest."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        fours = layer.weight.detach().view(layer.out_features, -1, 4)
        places = fours.abs().topk(2, dim=-1).indices.sort(dim=-1).values  # (out, in / 4, 2)
        self.register_buffer("values", fours.gather(-1, places).flatten(1).half())
        shifts = torch.tensor([0, 2, 4, 6], device=places.device)
        bits = (places.view(layer.out_features, -1, 4) << shifts).sum(dim=-1)
        self.register_buffer("places", bits.to(torch.uint8))
        self.bias = layer.bias
        self._sparse: tuple[Any, Tensor] | None = None

    def forward(self, input: Tensor) -> Tensor:
        if not input.is_cuda:
            return functional.linear(input, self.dense().to(input.dtype), self.bias)
        bias = None if self.bias is None else self.bias.half()
        return functional.linear(input.half(), self.sparse(), bias).to(input.dtype)

    def dense(self) -> Tensor:
        """The weight (out, in), float16."""
        shifts = torch.tensor([0, 2, 4, 6], device=self.places.device)
        places = (self.places.long()[..., None] >> shifts) & 3  # (out, in / 8, 4)
        fours = self.values.new_zeros(self.out_features, self.in_features // 4, 4)
        shape = self.out_features, self.in_features // 4, 2
        return fours.scatter(-1, places.view(shape), self.values.view(shape)).flatten(1)

    def sparse(self) -> Tensor:
        """The weight as the kernels want it; made once, and again when other values were loaded."""
        made_of = self.values.device, self.values._version, self.places._version
        if self._sparse is None or self._sparse[0] != made_of:
            self._sparse = made_of, compress(self.dense())
        return self._sparse[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_sparse": None}


def two_of_four(weight: Tensor) -> Tensor:
    """A mask (out, in) of the two largest of every four neighbours in a row."""
    fours = weight.detach().abs().view(weight.shape[0], -1, 4)
    mask = torch.zeros_like(fours, dtype=torch.bool)
    return mask.scatter(-1, fours.topk(2, dim=-1).indices, True).view(weight.shape)


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The layers that the kernels can run, by name."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if type(layer) is nn.Linear and not _unsuitable(model, layer)
    }


def _unsuitable(model: nn.Module, layer: nn.Linear) -> str:
    if layer.out_features % ROWS or layer.in_features % COLUMNS:
        shape = f"{layer.out_features} x {layer.in_features}"
        return f"has a weight of {shape}, but the kernels need multiples of {ROWS} x {COLUMNS}"
    if "weight" not in layer._parameters:
        return "has a weight that is computed"
    return "shares its weight with another layer" if layer.weight in shared_parameters(model) else ""


def _leave_fast_path(module: nn.Module) -> None:
    """torch's fast path of transformer encoders reads the linear layers' weights without calling the layers."""
    if isinstance(module, nn.TransformerEncoderLayer):
        module.activation_relu_or_gelu = 0
    if isinstance(module, nn.TransformerEncoder):
        module.use_nested_tensor = False


@torch.no_grad()
def _keep_zeros(weights: Sequence[Tensor], zeros: Sequence[Tensor], done: float) -> None:
    for weight, zero in zip(weights, zeros, strict=True):
        weight.masked_fill_(zero, 0.0)


def compress(weight: Tensor) -> Tensor:
    """A 2:4 sparse weight (out, in), float16 on a GPU, in the layout of the kernels."""
    with warnings.catch_warnings():
        # torch tells every process once that the type may change.
        warnings.filterwarnings("ignore", "The PyTorch API of SparseSemiStructuredTensor", UserWarning)
        sparse: Tensor = torch.sparse.to_sparse_semi_structured(weight)
    return sparse


def check_kernels(target: Target) -> None:
    """Raises NotApplicable if the GPU or this build of torch cannot multiply by a 2:4 sparse matrix."""
    weight = torch.ones(ROWS, COLUMNS // 4, 4, dtype=torch.float16, device=target.torch_device)
    weight[..., 2:] = 0
    try:
        functional.linear(weight.flatten(1), compress(weight.flatten(1)))
    except RuntimeError as error:
        raise NotForTarget(f"2:4 sparsity needs kernels that {target} does not have: {first_line(error)}") from None
