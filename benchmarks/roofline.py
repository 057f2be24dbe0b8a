"""How far models are from what the device can do: measured time beside the three bounds of `autocompress.measure`.

    python benchmarks/roofline.py --device cuda:0 --batches 1,8,64,256 --json out.json
    python benchmarks/roofline.py --device cpu --models resnet18 --batches 1,8 --dtypes float32 --modes eager

The models have random weights, which changes no shape. On a GPU "float32" is IEEE float32 throughout, and "tf32" is
what convolutions do by default.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autocompress import Target
from autocompress.errors import InvalidInput, first_line
from autocompress.limits import show_ms
from autocompress.measure.cost import Cost, model_cost
from autocompress.measure.latency import measure_latency
from autocompress.measure.probe import DeviceLimits, probe_device
from autocompress.measure.roofline import bounds
from autocompress.tensors import call, map_tensors

IMAGE, TOKENS = 224, 128
"""Rows of an image, tokens of a sequence."""
VISION = ("resnet18", "resnet50", "vit_b_16")
MODELS = (*VISION, "bert_base")
DTYPES = ("float32", "tf32", "float16", "bfloat16")
HEADER = ("model", "type", "batch", "mode", "measured", "fused", "operators", "launches", "binds", "fused/measured")


@dataclass(frozen=True)
class Row:
    """One measurement beside its bounds."""

    model: str
    dtype: str
    batch_size: int
    mode: str
    latency_ms: float | None
    latency_p10_ms: float | None
    latency_p90_ms: float | None
    bounds: dict[str, Any] | None
    cost: dict[str, Any] | None
    problem: str = ""

    def cells(self) -> list[str]:
        start = [self.model, self.dtype, str(self.batch_size), self.mode]
        if self.latency_ms is None or self.bounds is None:
            return [*start, self.problem]
        times = [self.latency_ms, *(self.bounds[f"{name}_ms"] for name in ("fused", "per_operator", "launch"))]
        return [*start, *map(show_ms, times), self.bounds["binding"], f"{times[1] / times[0]:.0%}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("--models", type=_words(MODELS), default=list(MODELS))
    parser.add_argument("--batches", type=lambda text: [int(word) for word in text.split(",")], default=[1, 8, 64, 256])
    parser.add_argument("--dtypes", type=_words(DTYPES), default=None)
    parser.add_argument("--modes", type=_words(("eager", "compiled")), default=["eager", "compiled"])
    parser.add_argument("--seconds", type=float, default=3.0, help="of one measurement")
    parser.add_argument("--probe-seconds", type=float, default=None, help="30 on a GPU, 5 on a CPU")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    target = Target.parse(f"{args.device}@1x{args.threads}")
    limits = probe_device(target, args.probe_seconds or (30.0 if target.is_cuda else 5.0))
    dtypes = args.dtypes or [name for name in DTYPES if target.is_cuda or name != "tf32"]
    show_limits(limits)
    print("| " + " | ".join(HEADER) + " |\n" + "|---" * len(HEADER) + "|", flush=True)
    rows = []
    for name, dtype, batch_size, mode in itertools.product(args.models, dtypes, args.batches, args.modes):
        own = Target(target.device, batch_size, target.threads)
        rows.append(measure(name, dtype, mode, own, limits, args.seconds))
        print("| " + " | ".join(rows[-1].cells()) + " |", flush=True)
        if args.json:
            record = {"torch": torch.__version__, "limits": limits.plain(), "rows": [vars(row) for row in rows]}
            args.json.write_text(json.dumps(record, indent=1), encoding="utf-8")


def measure(name: str, dtype: str, mode: str, target: Target, limits: DeviceLimits, seconds: float) -> Row:
    """One row; what cannot be run is told in it."""
    case = (name, dtype, target.batch_size, mode)
    try:
        with float32_as(dtype):
            model, inputs = build(name, dtype, target)
            cost = model_cost(model, inputs)
            found = bounds(cost, limits, dtype)
            timed = compiled(model) if mode == "compiled" else model
            with torch.inference_mode():
                call(timed, inputs)
            latency = measure_latency(timed, model, inputs, target, seconds)
    except (InvalidInput, RuntimeError, NotImplementedError) as error:  # no peak, no memory, no kernel, no compiler
        return Row(*case, None, None, None, None, None, first_line(error))
    samples = torch.tensor(latency.samples_ms)
    p10, p90 = (float(samples.quantile(share)) for share in (0.1, 0.9))
    return Row(*case, latency.latency_ms, p10, p90, found.plain(), summary(cost))


def build(name: str, dtype: str, target: Target) -> tuple[nn.Module, Any]:
    """A model and its inputs, of that type, on the target."""
    torch.manual_seed(0)
    inputs: Any = torch.randn(target.batch_size, 3, IMAGE, IMAGE)
    if name in VISION:
        import torchvision  # type: ignore[import-untyped]

        model: nn.Module = getattr(torchvision.models, name)()
    else:
        from transformers import BertConfig, BertModel

        model = BertModel(BertConfig())
        tokens = torch.randint(30000, (target.batch_size, TOKENS))
        inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    kind = torch.float32 if dtype == "tf32" else getattr(torch, dtype)
    model = model.eval().to(target.torch_device, kind)
    return model, map_tensors(lambda t: t.to(target.torch_device, kind if t.is_floating_point() else t.dtype), inputs)


def compiled(model: nn.Module) -> nn.Module:
    """By torch.compile's defaults, for these shapes only."""
    torch.compiler.reset()
    result = torch.compile(model, dynamic=False)
    assert isinstance(result, nn.Module)
    return result


def summary(cost: Cost) -> dict[str, Any]:
    return {name: value for name, value in cost.plain().items() if name != "operators"}


@contextmanager
def float32_as(dtype: str) -> Iterator[None]:
    """Convolutions and products of float32 on a GPU in TF32, or not."""
    places = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "tf32" if dtype == "tf32" else "ieee"
        yield
    finally:
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision


def show_limits(limits: DeviceLimits) -> None:
    peaks = ", ".join(f"{name} {rate / 1e9:.4g} GFLOP/s" for name, rate in limits.matmul_flops_per_s.items())
    graph = "" if limits.graph_launch_us is None else f", {limits.graph_launch_us:.3g} us within a CUDA graph"
    print(f"{limits.hardware}, {limits.device}, {limits.threads} threads, torch {torch.__version__}: {peaks};")
    print(f"copy {limits.bandwidth_bytes_per_s / 1e9:.4g} GB/s, launch {limits.launch_us:.3g} us{graph}\n")


def _words(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        words = text.split(",")
        for word in words:
            if word not in known:
                raise argparse.ArgumentTypeError(f"must be among {', '.join(known)}, but got {word!r}")
        return words

    return parse


if __name__ == "__main__":
    main()
