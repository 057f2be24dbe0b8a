"""Whether two models see the same samples as alike, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.damage.heads import tensors_by_place
from autocompress.damage.inside import NoView, device_of, eagerly, prefix_of
from autocompress.errors import first_line
from autocompress.method import Runtime
from autocompress.tensors import call, first_tensor, map_tensors, to_device

CONTAINERS = (nn.Sequential, nn.ModuleList)
FEWEST_SAMPLES = 4
"""The unbiased estimate divides by N - 3."""


@dataclass(frozen=True)
class RepresentationSimilarity:
    """Linear CKA of each block with the baseline's: 1 is the same up to rotation and scale, 0 is unrelated."""

    blocks: dict[str, float] = field(default_factory=dict)
    """By the block's path in the baseline, in the order of its modules. Unbiased, so it may be a little below 0."""
    not_compared: dict[str, str] = field(default_factory=dict)
    """Blocks without a figure, and why."""
    samples: int = 0
    reason: str = ""
    """Why there is none at all."""

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def representation_similarity(
    baseline: nn.Module, model: nn.Module, inputs: Any, samples: int = 128
) -> RepresentationSimilarity:
    """Linear CKA (Kornblith et al. 2019) of what each block gives for the first `samples` of the inputs (B, ...).

    Blocks are the members of `nn.Sequential`s and `nn.ModuleList`s of blocks, and else the children of the model, that
    have parameters. They may differ in width. The estimate is the unbiased one (Song et al. 2012): the plain one is
    near 1 for unrelated features, where there are more features than samples.
    """
    inputs = map_tensors(lambda tensor: tensor[:samples], inputs)
    count = len(first_tensor(inputs))
    if count < FEWEST_SAMPLES:
        return RepresentationSimilarity(reason=f"it takes {FEWEST_SAMPLES} samples, but there are {count}")
    if isinstance(model, Runtime):
        return RepresentationSimilarity(reason=f"{type(model).__name__} runs in another runtime: its blocks are hidden")
    paths = block_paths(baseline)
    try:
        before, after = (_alikeness(side, paths, inputs) for side in (baseline, model))
    except Exception as error:  # a model of the user's, or of a plugin's
        return RepresentationSimilarity(reason=f"the blocks could not be seen: {first_line(error)}")
    blocks: dict[str, float] = {}
    left: dict[str, str] = {}
    for path in paths:
        try:
            blocks[path] = cka(_of(before, path), _of(after, path))
        except NoView as reason:
            left[path] = str(reason)
    return RepresentationSimilarity(blocks, left, count)


def block_paths(model: nn.Module) -> list[str]:
    """Paths of the blocks, in order."""
    return list(_blocks(model, ""))


def cka(first: Tensor, second: Tensor) -> float:
    """Unbiased linear CKA of two samples' inner products (N, N). Raises NoView where a side is constant."""
    own, other = _centred(first), _centred(second)
    return float((own * other).sum() / (own.norm() * other.norm()))


def _centred(products: Tensor) -> Tensor:
    """Without diagonal and with means that make the product of two such matrices unbiased (Song et al. 2012)."""
    count = len(products)
    products = products.double().clone().fill_diagonal_(0)
    row = products.sum(dim=1) / (count - 2)
    centred = products - row[:, None] - row[None, :] + row.sum() / (count - 1)
    centred.fill_diagonal_(0)
    if centred.norm() <= 1e-9 * products.norm():
        raise NoView("it gives the same for every sample")
    return centred


def _alikeness(model: nn.Module, paths: list[str], inputs: Any) -> dict[str, Tensor | str]:
    """The inner products of the samples (N, N) in each block that the model has and runs, or why there are none."""
    modules, prefix = dict(model.named_modules()), prefix_of(model, paths)
    blocks = {path: modules[prefix + path] for path in paths if prefix + path in modules}
    found: dict[str, Tensor | str] = {path: "never called" if path in blocks else "gone" for path in paths}
    with torch.inference_mode(), eagerly(), _watched(blocks, len(first_tensor(inputs)), found):
        call(model.eval(), to_device(inputs, device_of(model)))
    return found


@contextmanager
def _watched(blocks: dict[str, nn.Module], count: int, found: dict[str, Tensor | str]) -> Iterator[None]:
    """Notes what each block gives in its last call, as inner products, since the features of all would fill memory."""

    def note(path: str, output: Any) -> None:
        tensors = tensors_by_place(output).values()
        features = next((x for x in tensors if x.is_floating_point() and x.ndim > 1 and len(x) == count), None)
        found[path] = "gives no features by sample" if features is None else _products(features)

    hooks = [
        block.register_forward_hook(lambda module, args, output, path=path: note(path, output))
        for path, block in blocks.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _products(features: Tensor) -> Tensor:
    """Inner products of the samples (N, N), of features (N, ...)."""
    flat = features.flatten(1).float()
    flat = flat - flat.mean(dim=0)  # else a large mean would leave float32 no digits for the differences
    return (flat @ flat.T).cpu()


def _of(products: dict[str, Tensor | str], path: str) -> Tensor:
    found = products[path]
    if isinstance(found, str):
        raise NoView(found)
    return found


def _blocks(module: nn.Module, prefix: str) -> Iterator[str]:
    for name, child in module.named_children():
        inside_block = isinstance(module, CONTAINERS) and not isinstance(child, CONTAINERS)
        if not inside_block and any(map(_is_list_of_blocks, child.modules())):
            yield from _blocks(child, f"{prefix}{name}.")
        elif any(True for _ in child.parameters()):
            yield f"{prefix}{name}"


def _is_list_of_blocks(module: nn.Module) -> bool:
    return isinstance(module, CONTAINERS) and len([child for child in module if len(list(child.children()))]) > 1
