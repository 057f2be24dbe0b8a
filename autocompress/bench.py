"""Measure the latency of a model or an artifact on targets, beside its baseline."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import nn

from autocompress.artifact import MANIFEST_FILE, Artifact
from autocompress.errors import InvalidInput, first_line
from autocompress.limits import show_bytes, show_ms
from autocompress.measure.device import Target
from autocompress.measure.latency import Comparison, Latency, measure_latency
from autocompress.run import RUN_FILE
from autocompress.task import Model, Task, build
from autocompress.task_reference import load_named, load_task
from autocompress.tensors import resize

Measured = Model | Artifact | str | Path
"""A module, a factory of one, or an artifact or its folder."""


def bench(
    model: Measured | None = None,
    task: Task | None = None,
    *,
    targets: Sequence[Target | str] | None = None,
    seconds: float = 3.0,
    inputs: Any = None,
    native_code: bool = False,
) -> list[Latency]:
    """One paired measurement a target.

    Args:
        model: a module, a factory, or an artifact or its folder; the task's own model if None.
        task: what an artifact was made of: its model is the baseline and its data give the inputs. Without a task a
            model is measured beside a copy of itself, which shows what can be told apart on the target (A/A).
        targets: like `cpu@1`, `cuda:0@32`; the first GPU where there is one, else the CPU, if None.
        seconds: the longest that one measurement may take.
        inputs: one batch of what `forward` takes, for a model without a task; repeated or cut to each target's batch.
        native_code: allows an artifact that holds machine code, which can do what any program can.

    Raises InvalidInput when there is nothing to compare with or no inputs, or the model cannot run; ArtifactError when
    an artifact is damaged or belongs to another model.
    """
    if not 0 < seconds < math.inf:
        raise InvalidInput(f"seconds must be above 0, but got {seconds}")
    wanted = [Target.parse(str(target)) for target in (targets or [Target.default()])]
    make, baseline = _loaders(model, task, native_code)
    batch = _batches(task, inputs)
    return [_measured(make(target), baseline(target), batch(target.batch_size), target, seconds) for target in wanted]


def table(measured: Sequence[Latency]) -> Table:
    """What was measured, a column a target: where, the times, and what they come to."""
    shown = Table("", *(latency.target for latency in measured), box=None, pad_edge=False)
    for name, cell in ROWS.items():
        cells = [cell(latency) for latency in measured]
        if any(cells):
            shown.add_row(name, *cells)
    return shown


def _device(latency: Latency) -> str:
    return f"{Target.parse(latency.target).device}, {latency.hardware}"


def _threads(latency: Latency) -> str:
    target = Target.parse(latency.target)
    return "" if target.is_cuda else str(target.threads)


def _speedup(figures: Comparison) -> str:
    return f"{figures.speedup:.3f}x ({figures.speedup_low:.3f} - {figures.speedup_high:.3f})"


def _device_time(latency: Latency) -> str:
    of = latency.device_time
    return f"{show_ms(of.latency_ms)}, {_speedup(of)}, {of.verdict}" if of else ""


def _bytes(count: int | None) -> str:
    return "" if count is None else show_bytes(count)


ROWS: dict[str, Callable[[Latency], str]] = {
    "device": _device,
    "batch": lambda it: str(Target.parse(it.target).batch_size),
    "threads": _threads,
    "baseline latency": lambda it: show_ms(it.baseline_latency_ms),
    "latency": lambda it: show_ms(it.latency_ms),
    "  95 % interval": lambda it: f"{show_ms(it.latency_low_ms)} - {show_ms(it.latency_high_ms)}",
    "  p90": lambda it: show_ms(it.p90_ms),
    "  p99": lambda it: show_ms(it.p99_ms),
    "throughput": lambda it: f"{it.throughput_per_s:.4g} samples/s",
    "speedup (95 % interval)": _speedup,
    "not measurable below": lambda it: f"{it.resolution:.1%}",
    "verdict": lambda it: str(it.verdict),
    "device time": _device_time,
    "baseline peak memory": lambda it: _bytes(it.baseline_peak_memory_bytes),
    "peak memory": lambda it: _bytes(it.peak_memory_bytes),
}
"""The lines of the table; one that is empty for all targets is left out."""


def _loaders(
    model: Measured | None, task: Task | None, native_code: bool
) -> tuple[Callable[[Target], nn.Module], Callable[[Target], nn.Module]]:
    """How to get the model and its baseline onto a target."""
    if isinstance(model, str | Path):
        model = _artifact(Path(model))
    if isinstance(model, Artifact):
        artifact = model
        if task is None:
            raise InvalidInput(
                f"an artifact is measured beside the model it was made of, but {artifact.path} does not hold that:"
                " name the task, like --task my_task.py:task"
            )
        source = task
        return (
            lambda target: artifact.load(source.source(artifact.student), target, native_code=native_code),
            lambda target: source.trained_model().to(target.torch_device),
        )
    if task is not None:
        trained = task.trained_model
        own = trained if model is None else _building(model)
        return lambda target: own().to(target.torch_device), lambda target: trained().to(target.torch_device)
    if model is None:
        raise InvalidInput("there must be something to measure, but got neither a model nor a task")
    built = _building(model)
    return (lambda target: built().to(target.torch_device),) * 2


def _building(model: Model) -> Callable[[], nn.Module]:
    return lambda: build(model).eval()


def _artifact(path: Path) -> Artifact:
    if (path / RUN_FILE).is_file() and not (path / MANIFEST_FILE).is_file():
        raise InvalidInput(f"{path} is a run, of which one trial can be measured: name it, like {path}/trials/00000")
    return Artifact(path)


def _batches(task: Task | None, inputs: Any) -> Callable[[int], Any]:
    """Inputs by batch size."""
    if inputs is None and task is None:
        raise InvalidInput(
            "a model without a task needs inputs, but got none: give their shape, like --shape 3x224x224, or the task"
        )
    if inputs is None:
        assert task is not None
        return task.inputs
    return lambda size: resize(inputs, size)


def _measured(model: nn.Module, baseline: nn.Module, inputs: Any, target: Target, seconds: float) -> Latency:
    try:
        return measure_latency(model, baseline, inputs, target, seconds)
    except Exception as error:  # the user's model
        raise InvalidInput(f"the model must take these inputs on {target}, but: {first_line(error)}") from error


def random_inputs(shape: str) -> torch.Tensor:
    """One sample (1, ...) of a standard normal distribution, from a shape like `3x224x224`. Raises InvalidInput."""
    parts = shape.split("x")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InvalidInput(f"a shape is that of one sample, like 3x224x224, but got {shape!r}")
    return torch.randn(1, *map(int, parts), generator=torch.Generator().manual_seed(0))


def named(subject: str, task: str | None = None) -> tuple[Measured | None, Task | None]:
    """What the command line names: an artifact's folder or a reference to a model, a factory or a task, and the task.

    Only code that a reference names is run. Raises InvalidInput when it names something else.
    """
    its_task = None if task is None else load_task(task)
    if ":" not in subject or Path(subject).exists():
        return _artifact(Path(subject)), its_task
    found = load_named(subject, "model or task")
    if callable(found) and not isinstance(found, nn.Module | Task):
        try:
            given = found()
        except Exception as error:  # the user's code
            raise InvalidInput(f"{subject} must give a model or a task, but: {first_line(error)}") from error
    else:
        given = found
    if isinstance(given, Task):
        return None, its_task or given
    if isinstance(given, nn.Module):
        return found, its_task
    raise InvalidInput(
        f"{subject} must be a model, a task or a function that gives one, but got {type(given).__name__}"
    )
