"""The three bounds, against sums by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import InvalidInput
from autocompress.measure.cost import Cost, OperatorCost, model_cost
from autocompress.measure.probe import DeviceLimits
from autocompress.measure.roofline import bounds, gap_closed

LIMITS = DeviceLimits(
    hardware="a device of round numbers", device="cuda:0", threads=1,
    matmul_flops_per_s={"float32": 50e12, "bfloat16": 800e12}, matmul_size={"float32": 8192, "bfloat16": 8192},
    not_measured={"int8": "PyTorch has no product of this type"}, bandwidth_bytes_per_s=4e12, launch_us=5.0,
    graph_launch_us=1.5, seconds=30.0,
)  # fmt: skip


def cost(*operators: OperatorCost, weights: int = 0) -> Cost:
    flops = sum(operator.flops * operator.calls for operator in operators)
    return Cost(0, flops, weights, input_bytes=0, output_bytes=0, operators=operators, unseen=())


class ResNet50:
    """He et al. 2016, table 1, with the stride in the 3x3 convolutions: float32, operator by operator."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.operators: list[tuple[int, int]] = []  # FLOPs, bytes
        self.weights = 0
        self._convolution(3, 64, 7, 224, 112)
        self._over(64 * 112**2, 2)  # ReLU: read, written
        pooled = 64 * 56**2
        self.operators.append((0, batch * (4 * 64 * 112**2 + 4 * pooled + 8 * pooled)))  # values and places of maxima
        channels, side = 64, 56
        for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for block in range(blocks):
                self._bottleneck(channels, width, side, stride if block == 0 else 1)
                channels, side = 4 * width, side // (stride if block == 0 else 1)
        self.operators.append((0, 4 * batch * (2048 * 49 + 2048)))  # global average
        self.operators.append((2 * batch * 2048 * 1000, 4 * (batch * 2048 + 2048 * 1000 + 1000 + batch * 1000)))
        self.weights += 4 * (2048 * 1000 + 1000)

    def _bottleneck(self, channels: int, width: int, side: int, stride: int) -> None:
        after = side // stride
        self._convolution(channels, width, 1, side, side)
        self._over(width * side**2, 2)
        self._convolution(width, width, 3, side, after)
        self._over(width * after**2, 2)
        self._convolution(width, 4 * width, 1, after, after)
        if channels != 4 * width:
            self._convolution(channels, 4 * width, 1, side, after)
        self._over(4 * width * after**2, 3)  # sum: two read, one written
        self._over(4 * width * after**2, 2)

    def _convolution(self, inputs: int, outputs: int, kernel: int, side: int, after: int) -> None:
        """With the batch norm after it, an operator of its own with four numbers a channel."""
        weight, given, made = inputs * outputs * kernel**2, inputs * side**2, outputs * after**2
        self.operators.append((2 * self.batch * after**2 * weight, 4 * (self.batch * (given + made) + weight)))
        self.operators.append((0, 4 * (2 * self.batch * made + 4 * outputs)))
        self.weights += 4 * (weight + 4 * outputs)

    def _over(self, values: int, times: int) -> None:
        self.operators.append((0, 4 * times * self.batch * values))


@pytest.mark.parametrize(("batch", "binding"), [(1, "launch"), (64, "compute")])
def test_resnet50_by_hand(batch: int, binding: str) -> None:
    from torchvision.models import resnet50  # type: ignore[import-untyped]

    with torch.device("meta"):
        found = model_cost(resnet50(), torch.empty(batch, 3, 224, 224))
    hand = ResNet50(batch)
    assert found.parameters == 25_557_032  # as torchvision states
    assert found.macs == batch * 4_089_184_256  # "4.09 GFLOPS" there
    assert found.flops == sum(flops for flops, _ in hand.operators)
    result = bounds(found, LIMITS)
    moved = hand.weights + 4 * batch * (3 * 224**2 + 1000)
    assert result.compute_ms == pytest.approx(2 * batch * 4_089_184_256 / 50e12 * 1e3, rel=1e-12)
    assert result.memory_ms == pytest.approx(moved / 4e12 * 1e3, rel=1e-12)
    assert result.fused_ms == max(result.compute_ms, result.memory_ms)
    each = [max(flops / 50e12, size / 4e12) for flops, size in hand.operators]
    assert result.per_operator_ms == pytest.approx(1e3 * sum(each), rel=1e-12)
    assert sum(flops / 50e12 for flops, size in hand.operators if flops / 50e12 > size / 4e12) > sum(each) / 2
    assert len(hand.operators) == 174
    assert result.launch_ms == pytest.approx(174 * 5e-3, rel=1e-12)
    assert bounds(found, LIMITS, graphed=True).launch_ms == pytest.approx(174 * 1.5e-3, rel=1e-12)
    assert bounds(found, LIMITS, "bfloat16").compute_ms == pytest.approx(result.compute_ms / 16)
    assert result.binding == binding


@pytest.mark.parametrize(
    ("flops", "moved", "calls", "binding"),
    [(10**12, 10**6, 1, "compute"), (10**6, 10**12, 1, "memory"), (10**3, 10**3, 100, "launch")],
)
def test_what_binds(flops: int, moved: int, calls: int, binding: str) -> None:
    result = bounds(cost(OperatorCost("aten.mm", flops, moved, calls)), LIMITS)
    assert result.binding == binding
    assert json.loads(json.dumps(result.plain()))["fused_ms"] == result.fused_ms


@given(st.lists(st.tuples(*[st.integers(0, 10**13)] * 2, st.integers(1, 9)), min_size=1, max_size=6))
def test_operators_one_by_one_are_never_faster_than_fused(sizes: list[tuple[int, int, int]]) -> None:
    operators = [OperatorCost("aten.mm", *size) for size in sizes]
    read_once = sum(moved for _, moved, _ in sizes)
    result = bounds(cost(*operators, weights=read_once), LIMITS)
    assert result.per_operator_ms >= result.fused_ms * (1 - 1e-12)
    assert result.per_operator_ms <= (result.compute_ms + sum(m * n for _, m, n in sizes) / 4e9) * (1 + 1e-12)


def test_what_the_cost_leaves_out_is_told() -> None:
    partly = replace(cost(OperatorCost("aten.mm", 1, 1, 1)), unseen=("aten.strange: no formula for its FLOPs",))
    assert bounds(partly, LIMITS).unseen == partly.unseen
    elsewhere = replace(partly, flops=None, unseen=("it runs elsewhere",))
    with pytest.raises(InvalidInput, match="bounds need a model's cost, but it runs elsewhere"):
        bounds(elsewhere, LIMITS)


def test_a_peak_that_is_not_known_is_told() -> None:
    with pytest.raises(InvalidInput, match="float32, bfloat16; but got 'int8': PyTorch has no product of this type"):
        bounds(cost(), LIMITS, "int8")
    with pytest.raises(InvalidInput, match="a CUDA graph needs a GPU, but the limits are those of cpu"):
        bounds(cost(), replace(LIMITS, device="cpu", graph_launch_us=None), graphed=True)


@pytest.mark.parametrize(
    ("baseline", "model", "bound", "closed"),
    [(10, 10, 2, 0), (10, 2, 2, 1), (10, 4, 2, 0.75), (10, 14, 2, -0.5), (10, 1, 2, 1.125), (2, 1, 2, None)],
)
def test_how_much_of_the_gap_is_closed(baseline: float, model: float, bound: float, closed: float | None) -> None:
    assert gap_closed(baseline, model, bound) == closed
