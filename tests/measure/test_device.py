"""Targets."""

from __future__ import annotations

import pytest
import torch

from autocompress import Target
from autocompress.errors import InvalidInput
from autocompress.measure.device import hardware_name


@pytest.mark.parametrize(
    ("text", "target", "short"),
    [
        ("cpu", Target("cpu"), "cpu@1"),
        ("cpu@1", Target("cpu", 1), "cpu@1"),
        (" cpu@8x2 ", Target("cpu", 8, 2), "cpu@8x2"),
        ("cpu@32x1", Target("cpu", 32), "cpu@32"),
    ],
)
def test_a_target_in_words(text: str, target: Target, short: str) -> None:
    assert Target.parse(text) == target
    assert str(target) == short
    assert Target.parse(short) == target
    assert target.torch_device == torch.device("cpu")


@pytest.mark.parametrize(
    "text", ["", "gpu", "cpu@", "cpu@0", "cpu@8x0", "cpu@-1", "cpu:0", "cuda:x", "cpu@8x2x2", "tpu@1"]
)
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"a target is DEVICE\[@BATCH\[xTHREADS\]\] like .* but got '"):
        Target.parse(text)


def test_a_device_that_is_not_there_is_refused() -> None:
    count = torch.cuda.device_count()
    with pytest.raises(
        InvalidInput, match=f"target 'cuda:{count}@4' needs cuda:{count}, but this machine has {count} CUDA"
    ):
        Target.parse(f"cuda:{count}@4")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_means_the_first_one() -> None:
    assert Target.parse("cuda@32") == Target("cuda:0", 32) == Target.parse("cuda:0@32")
    assert "NVIDIA" in hardware_name(Target("cuda:0"))


def test_the_hardware_has_a_name() -> None:
    assert hardware_name(Target("cpu"))
