"""Profiles of layers: what they say, when they are measured anew, and how much they may work."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autocompress import Task, sensitivity
from autocompress.sensitivity import FEWEST_SAMPLES, SAMPLES, Profile, kept_in, profile
from autocompress.task import weights_digest


class Branches(nn.Module):
    """Inputs (B, 4) through two layers apart: outputs (B, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.left(x), self.right(x)], dim=1)


class Shrinking:
    """Layers lose a share of their weights' size; counts the models that it made."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.made = model, 0

    def __call__(self, shares: Mapping[str, float]) -> nn.Module:
        self.made += 1
        copied = copy.deepcopy(self.model)
        with torch.no_grad():
            for name, share in shares.items():
                copied.get_parameter(f"{name}.weight").mul_(1 - share)
        return copied


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process."""
    monkeypatch.setattr(sensitivity._PROFILES, "_made", {})


def task_of(seed: int = 0) -> Task:
    torch.manual_seed(seed)
    data = TensorDataset(torch.randn(80, 4), torch.zeros(80, dtype=torch.long))
    return Task(model=Branches(), train=data, validation=data, test=data)


LAYERS, LEVELS = ("left", "right"), (0.5, 1.0)


def test_errors_are_those_of_the_outputs() -> None:
    """A layer scaled by 1 - s moves its own part of the outputs by s: s^2 of that part's energy."""
    task = task_of()
    model = task.trained_model()
    found = profile(model, task, "shrink", LAYERS, LEVELS, Shrinking(model))
    with torch.no_grad():
        energy = torch.cat([model(x) for x in task.calibration_inputs(SAMPLES)]).square().sum(dim=0)
    shares = {"left": energy[:4].sum() / energy.sum(), "right": energy[4:].sum() / energy.sum()}
    assert found.samples == SAMPLES and found.layers_at_once == 1
    for name in LAYERS:
        assert found.errors[name] == pytest.approx([0.25 * float(shares[name]), float(shares[name])], rel=1e-4)


def test_it_is_measured_once_for_one_model_and_its_data() -> None:
    task = task_of()
    model = task.trained_model().train()
    before, shrink = weights_digest(model), Shrinking(model)
    found = profile(model, task, "shrink", LAYERS, LEVELS, shrink)
    assert profile(task.trained_model(), task, "shrink", LAYERS, LEVELS, shrink) == found
    assert shrink.made == len(LAYERS) * len(LEVELS)
    assert weights_digest(model) == before and model.training, "the model stays as it was"


def test_it_is_measured_anew_for_what_is_another() -> None:
    task, other = task_of(), task_of(1)
    model = task.trained_model()
    shrink = Shrinking(model)
    Asked = tuple[nn.Module, Task, str, Sequence[str], Sequence[float]]
    changes: list[Asked] = [
        (model, task, "shrink", LAYERS, LEVELS),
        (other.trained_model(), task, "shrink", LAYERS, LEVELS),
        (model, other, "shrink", LAYERS, LEVELS),
        (model, task, "shrink 2", LAYERS, LEVELS),
        (model, task, "shrink", LAYERS[:1], LEVELS),
        (model, task, "shrink", LAYERS, LEVELS[:1]),
    ]
    for asked in changes:
        before = shrink.made
        profile(*asked, shrink)
        assert shrink.made > before, asked


def test_a_folder_keeps_it_for_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of()
    model = task.trained_model()
    shrink = Shrinking(model)
    with kept_in(tmp_path / "profiles"):
        found = profile(model, task, "shrink", LAYERS, LEVELS, shrink)
        forget(monkeypatch)
        assert profile(model, task, "shrink", LAYERS, LEVELS, shrink) == found
        assert shrink.made == 4
        (file,) = (tmp_path / "profiles").iterdir()
        file.write_text('{"levels": [0.5')
        forget(monkeypatch)
        assert profile(model, task, "shrink", LAYERS, LEVELS, shrink) == found, "a damaged file is made again"
        assert shrink.made == 8
        assert Profile.from_plain(json.loads(file.read_text())) == found
    forget(monkeypatch)
    profile(model, task, "shrink", LAYERS, LEVELS, shrink)
    assert shrink.made == 12, "the folder is left behind"


def test_no_layers_need_no_pass() -> None:
    task = task_of()
    assert profile(task.trained_model(), task, "shrink", (), LEVELS, Shrinking(nn.Module())).errors == {}


def test_what_breaks_the_outputs_has_the_worst_error() -> None:
    task = task_of()
    model = task.trained_model()

    def broken(levels: Mapping[str, float]) -> nn.Module:
        return Shrinking(model)(dict.fromkeys(levels, float("nan")))

    assert profile(model, task, "break", ("left",), (1.0,), broken).errors == {"left": (sensitivity.WORST,)}


def test_layers_go_together_where_the_work_is_too_much(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error of both at once is shared; here parts of the outputs add up exactly."""
    task = task_of()
    model = task.trained_model()
    alone = profile(model, task, "shrink", LAYERS, LEVELS, Shrinking(model))
    forget(monkeypatch)
    monkeypatch.setattr(sensitivity, "WORK", 2 * 32 * SAMPLES)
    monkeypatch.setattr(sensitivity, "FEWEST_SAMPLES", SAMPLES)
    shrink = Shrinking(model)
    together = profile(model, task, "shrink", LAYERS, LEVELS, shrink)
    assert shrink.made == len(LEVELS) and together.layers_at_once == 2
    assert sum(errors[1] for errors in together.errors.values()) == pytest.approx(1.0)
    assert sum(errors[1] for errors in alone.errors.values()) == pytest.approx(1.0)
    assert "2 layers at 2 levels: 2 at a time, on 64 samples, 4.1e+03 multiply-adds" in capsys.readouterr().out


@given(st.integers(1, 10**12), st.integers(1, 10**10), st.integers(1, 200), st.integers(1, 20))
def test_the_work_is_bounded(work: int, macs: int, layers: int, levels: int) -> None:
    samples, at_once = sensitivity._within(work, macs, layers, levels)
    assert FEWEST_SAMPLES <= samples <= SAMPLES and 1 <= at_once <= layers
    done = -(-layers // at_once) * levels * samples * macs
    assert done <= work or (samples == FEWEST_SAMPLES and at_once == layers), (
        "one pass a level, if all else is too much"
    )
