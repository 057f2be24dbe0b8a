"""Whole blocks taken out: a shallower model."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from autocompress import Float, Integer, Method, NotApplicable, Parameter, Plan, Target, Task, Technique, Trait
from autocompress.effect import output_error, outputs
from autocompress.tensors import call
from autocompress_pruning.trial import largest_that_works

_BATCH = 32


class LayerDropping(Method):
    """Drops whole blocks (residual, transformer), those without which the outputs change least.

    A block is a module with layers of its own, in an `nn.ModuleList` or `nn.Sequential`, that gives a tensor of the
    shape that it takes; so what comes before it can go straight to what comes after. Saves time on every device, as no
    pruning of channels does, and needs recovery; no list is emptied. Blocks are ranked once, by the change of the
    model's outputs when each one alone is passed by. Blocks behind one that is dropped move up in their names too, so
    a loss that pairs layers of student and teacher by name (`feature_similarity`) teaches them by a block before their
    own.
    Fan et al. 2020, "Reducing Transformer Depth on Demand with Structured Dropout"; Men et al. 2024, "ShortGPT: Layers
    in Large Language Models are More Redundant Than You Expect".
    """

    name = "layer_dropping"
    technique = Technique.PRUNING
    gives = frozenset({Trait.PRUNED})

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """`ratio`: share of the blocks that is dropped, at least one; `samples`: of the calibration data."""
        return {
            "ratio": Float(0.1, 0.8, default=0.3, step=0.05),
            "samples": Integer(8, 512, default=32, log=True),
        }

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable if there is no block to spare."""
        model, inputs = task.trained_model(), task.inputs(2)
        if not _that_work(model, inputs, _spare(model, blocks(model, inputs)), enough=1):
            raise NotApplicable(
                f"{self.name} drops blocks, modules with layers of their own that give the shape that they take, from"
                " an nn.ModuleList or nn.Sequential that is not emptied by it, but this model has none that can go"
            )

    def decide(self, model: nn.Module, params: Mapping[str, Any], task: Task) -> Plan:
        """The names of the blocks to drop."""
        inputs = task.inputs(2)
        found = blocks(model, inputs)
        changes = _changes(model, found, list(task.calibration_inputs(params["samples"], _BATCH)))
        ordered = sorted(found, key=lambda name: changes[name])
        spare = _spare(model, ordered)[: max(1, round(params["ratio"] * len(found)))]
        working = _that_work(model, inputs, spare)
        return {"dropped": sorted(working), "fixed": sorted(set(spare) - set(working))}

    def skipped(self, model: nn.Module, plan: Plan) -> Mapping[str, str]:
        return dict.fromkeys(plan["fixed"], "the model's own code needs it in its place")

    def reshape(self, model: nn.Module, plan: Plan) -> nn.Module:
        return drop(model, plan["dropped"])


def blocks(model: nn.Module, inputs: Any) -> list[str]:
    """Names of the blocks: called once, giving a tensor of the shape of the first one that they take.

    Of blocks within blocks the outermost, but not lists of blocks (a stage).
    """
    names = [
        f"{name}.{child}" if name else child
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        for child, block in module.named_children()
        if any(True for _ in block.children()) and any(parameter.dim() > 1 for parameter in block.parameters())
    ]
    calls: dict[str, list[bool]] = {name: [] for name in names}

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            taken, given = _taken(args, kwargs), _given(output)
            calls[name].append(taken is not None and given is not None and taken.shape == given.shape)

        return hook

    probe = copy.deepcopy(model).eval()
    for name in names:
        probe.get_submodule(name).register_forward_hook(note(name), with_kwargs=True)
    with torch.no_grad():
        call(probe, inputs)
    fitting = [name for name in names if calls[name] == [True]]
    stages = {name.rpartition(".")[0] for name in fitting}
    fitting = [name for name in fitting if name not in stages]
    return [name for name in fitting if not any(name.startswith(f"{other}.") for other in fitting)]


def drop(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """`model` without these blocks; those that come after move up, in their names and in the caches of decoders."""
    removed = {id(model.get_submodule(name)) for name in names}
    for container in {id(module): module for module in (_container(model, name) for name in names)}.values():
        left = [(child, block) for child, block in container.named_children() if id(block) not in removed]
        numbered = all(child.isdigit() for child, _ in container.named_children())
        container._modules = {str(i) if numbered else child: block for i, (child, block) in enumerate(left)}
        for index, (_, block) in enumerate(left):
            for module in block.modules():
                if isinstance(getattr(module, "layer_idx", None), int):
                    module.layer_idx = index  # type: ignore[assignment]
    return model


def _container(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def _spare(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Those that can go, in the given order: of a list that holds nothing else with weights, the last one stays."""
    last = {name.rpartition(".")[0]: name for name in names}
    stay = set()
    for container, name in last.items():
        weighty = [True for child in model.get_submodule(container).children() if any(True for _ in child.parameters())]
        if len(weighty) == sum(other.rpartition(".")[0] == container for other in names):
            stay.add(name)
    return [name for name in names if name not in stay]


def _changes(model: nn.Module, names: Sequence[str], batches: Sequence[Any]) -> dict[str, float]:
    """The mean change of the outputs over the batches when each block is passed by."""
    probe = copy.deepcopy(model).eval()
    expected = [outputs(probe, inputs) for inputs in batches]
    changes = {}
    for name in names:
        with _passed_by(probe.get_submodule(name)):
            found = [outputs(probe, inputs) for inputs in batches]
        changes[name] = sum(map(output_error, found, expected)) / len(found)
    return changes


@contextmanager
def _passed_by(block: nn.Module) -> Iterator[None]:
    """The block gives what it takes, in the form of what it gave."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        taken = _taken(args, kwargs)
        return taken if isinstance(output, Tensor) else (taken, *output[1:])

    handle = block.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _taken(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The first tensor among the arguments."""
    return next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)


def _given(output: Any) -> Tensor | None:
    """The tensor that a block gives, alone or first in a tuple."""
    first = output[0] if isinstance(output, tuple) and output else output
    return first if isinstance(first, Tensor) else None


def _that_work(model: nn.Module, inputs: Any, names: Sequence[str], enough: int | None = None) -> list[str]:
    """Those blocks without which the model gives outputs of the same shapes."""
    shapes = [tensor.shape for tensor in outputs(model, inputs)]

    def works(candidates: Sequence[str]) -> bool:
        dropped = drop(copy.deepcopy(model), candidates)
        return [tensor.shape for tensor in outputs(dropped, inputs)] == shapes

    return largest_that_works(names, works, enough)
