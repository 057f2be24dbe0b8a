"""The acceleration that any user gets without compressing anything: the baseline that compression must beat."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.effect import output_error, outputs
from autocompress.errors import first_line
from autocompress.measure.device import Target
from autocompress.measure.latency import Latency, measure_latency
from autocompress.measure.lock import DeviceLock
from autocompress.measure.statistics import Verdict
from autocompress.measure.threads import threads
from autocompress.tensors import call, map_tensors, to_device

EAGER = "eager"
SAME, SAME_IN_HALF = 1e-3, 0.05
"""How much outputs may differ from the eager model's, RMS by RMS: by rounding to 32 or to 16 bits."""
_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class FreeVariants:
    """The same model accelerated, in eval mode on the target's device; each has run and gives the model's outputs."""

    models: dict[str, nn.Module]
    """By what was done, like `folded batch norm + channels_last`."""
    skipped: dict[str, str]
    """What could not be done, and why."""


@dataclass(frozen=True)
class FreeBaseline:
    """The fastest of the variants."""

    name: str
    """What was done; `eager` if nothing made it measurably faster."""
    latency: Latency
    """Of that beside the eager model."""
    others: dict[str, Latency]
    """Of the other variants beside the eager model."""
    skipped: dict[str, str]
    """What could not be done, and why."""

    def plain(self) -> dict[str, Any]:
        others = {name: latency.plain() for name, latency in self.others.items()}
        return {"name": self.name, "latency": self.latency.plain(), "others": others, "skipped": self.skipped}


def fastest_free(model: nn.Module, inputs: Any, target: Target, seconds: float = 30.0) -> FreeBaseline:
    """Measures the free variants beside the eager model, for about `seconds` in all, and compiling on top.

    A variant counts as faster only by the verdict of its measurement.
    """
    variants, eager = free_variants(model, inputs, target), _eager(model, target)
    share = seconds / (len(variants.models) + 1)
    measured = {
        name: measure_latency(variant, eager, inputs, target, share) for name, variant in variants.models.items()
    }
    faster = [name for name, latency in measured.items() if latency.verdict is Verdict.FASTER]
    if not faster:
        untouched = measure_latency(eager, eager, inputs, target, share)
        return FreeBaseline(EAGER, untouched, measured, variants.skipped)
    best = max(faster, key=lambda name: measured[name].speedup)
    return FreeBaseline(best, measured.pop(best), measured, variants.skipped)


def free_variants(model: nn.Module, inputs: Any, target: Target) -> FreeVariants:
    """Batch norms folded; then channels last; then on a GPU 16 bits; then torch.compile.

    Each step builds on the one before. A step that has nothing to do, fails, or changes the outputs is skipped and its
    reason told. `model` itself is left as it is. torch.compile takes seconds to minutes.
    """
    work = _Variants(_eager(model, target), inputs, target)
    base = work.add("channels_last", _channels_last, work.add("folded batch norm", _fold, EAGER))
    bases = [base]
    if target.is_cuda:
        for dtype in ("float16", "bfloat16"):
            bases.append(work.add(dtype, functools.partial(_Half, dtype=dtype), base, SAME_IN_HALF))
    else:
        work.skipped["16 bits"] = "for GPUs: most CPUs are several times slower in them"
    for ready in dict.fromkeys(bases):
        error = SAME_IN_HALF if isinstance(work.models[ready], _Half) else SAME
        work.add("torch.compile", functools.partial(_Compiled, target=target), ready, error)
    del work.models[EAGER]
    return FreeVariants(work.models, work.skipped)


class _Skip(Exception):
    """A step has nothing to do, and why."""


class _Variants:
    """Variants by name, and the eager model's outputs, which they must give."""

    def __init__(self, eager: nn.Module, inputs: Any, target: Target) -> None:
        self.models, self.skipped = {EAGER: eager}, dict[str, str]()
        self._inputs, self._target = to_device(inputs, target.torch_device), target
        self._expected = self._run(eager)

    def add(self, step: str, make: Callable[[nn.Module], nn.Module], base: str, most: float = SAME) -> str:
        """The name of the variant that a step makes of another one; that one's own when it is skipped."""
        name = step if base == EAGER else f"{base} + {step}"
        try:
            variant = make(copy.deepcopy(self.models[base])).eval()
            error = output_error(self._run(variant), self._expected)
        except Exception as failure:  # whatever tracing, compiling or running the user's model raises
            told = getattr(failure, "inner_exception", failure)  # torch.compile wraps the cause in its own exception
            self.skipped[name] = str(told) if isinstance(told, _Skip) else first_line(told)
            return base
        if not error <= most:
            self.skipped[name] = f"its outputs differ by {error:.2g} of their RMS, and may by {most:.2g}"
            return base
        self.models[name] = variant
        return name

    def _run(self, model: nn.Module) -> list[Tensor]:
        """The outputs, in the mode and with the threads in which it will be measured: compilers bake both in."""
        with DeviceLock(self._target).shared(), threads(self._target.threads), _quiet(), torch.inference_mode():
            return outputs(model, self._inputs)


class _Half(nn.Module):
    """A model in 16 bits, with float32 at its doors."""

    def __init__(self, model: nn.Module, dtype: str) -> None:
        super().__init__()
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.model = model.to(self.dtype)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return _cast(call(self.model, _cast(kwargs or args, self.dtype)), torch.float32)


class _Compiled(nn.Module):
    """A model that torch.compile compiles at its first call, for the inputs' shapes, with its weights frozen into it.

    On a GPU its kernels are replayed as a CUDA graph.
    """

    def __init__(self, model: nn.Module, target: Target) -> None:
        super().__init__()
        self.model = model

        def run(inputs: Any) -> Any:
            return call(model, inputs)

        # torch.compile keeps what it compiled by code object, and after 8 models of one runs the next uncompiled.
        run.__code__ = run.__code__.replace()
        options: dict[str, Any] = {"triton.cudagraphs": True} if target.is_cuda else {}
        self._run = torch.compile(run, dynamic=False, options=options)
        self._is_compiled = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self._is_compiled:
            return self._run(kwargs or args)
        import torch._inductor.config as inductor

        # Among the options it would come too late: the tracer, too, asks whether weights are constants.
        with inductor.patch(freezing=True):
            result = self._run(kwargs or args)
        self._is_compiled = True
        return result


def _eager(model: nn.Module, target: Target) -> nn.Module:
    return copy.deepcopy(model).to(target.torch_device).eval()


def _fold(model: nn.Module) -> nn.Module:
    before = _count(model, _NORMS)
    if not before:
        raise _Skip("the model has no batch norm")
    from torch.fx.experimental.optimization import fuse

    folded: nn.Module = fuse(model)
    if _count(folded, _NORMS) == before:
        raise _Skip("no batch norm comes right after a convolution")
    return folded


def _channels_last(model: nn.Module) -> nn.Module:
    if not _count(model, _CONVOLUTIONS):
        raise _Skip("the model has no 2-d convolution")
    return model.to(memory_format=torch.channels_last)


def _count(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> int:
    return sum(isinstance(module, kinds) for module in model.modules())


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return map_tensors(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, value)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """While compilers run, which warn and log of their own inner deprecations; what goes wrong is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
