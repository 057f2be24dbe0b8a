from __future__ import annotations

import pytest
import torch
from autocompress_distillation import HardLabels, SoftLabels
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autocompress import NotApplicable, Target, Task
from autocompress.testing_tasks import features

CPU = Target("cpu")


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (8, 16), a student's logits (8, 4), targets (8,)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 16, generator=generator), torch.randn(8, 4, generator=generator), torch.arange(8) % 4


def test_soft_labels_are_hintons_loss(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    inputs, student, targets = batch
    loss = SoftLabels().loss({"temperature": 3.0, "weight": 0.6}, features())
    with torch.no_grad():
        teacher = (features().trained_model()(inputs) / 3.0).softmax(dim=1)  # (8, 4)
    own = (student / 3.0).softmax(dim=1)
    soft = sum((p * (p / q).log()).sum() for p, q in zip(teacher, own, strict=True)) / 8 * 9.0
    hard = -student.softmax(dim=1).log()[range(8), targets].mean()
    torch.testing.assert_close(loss(inputs, student, targets), 0.6 * soft + 0.4 * hard)


def test_hard_labels_are_the_teachers_decisions(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    inputs, student, targets = batch
    loss = HardLabels().loss({"weight": 0.25}, features())
    decided = features().trained_model()(inputs).argmax(dim=1)
    logs = student.softmax(dim=1).log()
    expected = -0.25 * logs[range(8), decided].mean() - 0.75 * logs[range(8), targets].mean()
    torch.testing.assert_close(loss(inputs, student, targets), expected)


def test_soft_labels_of_the_teacher_itself_are_no_distance(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    inputs, _, targets = batch
    loss = SoftLabels().loss({"temperature": 4.0, "weight": 1.0}, features())
    value = loss(inputs, features().trained_model()(inputs), targets)
    torch.testing.assert_close(value, torch.zeros(()), atol=1e-6, rtol=0)


def test_positions_count_like_samples() -> None:
    """Logits (B, T, classes) of a tagger: the mean over all B * T positions."""

    def task_loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    tagger = nn.Linear(6, 3)
    data = TensorDataset(torch.randn(4, 5, 6), torch.randint(3, (4, 5)))
    task = Task(model=tagger, train=data, validation=data, test=data, loss=task_loss)
    HardLabels().check(task, CPU)
    inputs, targets = data.tensors
    student = torch.randn(4, 5, 3)
    logs = student.softmax(dim=-1).log()
    expected = -logs.gather(-1, tagger(inputs).argmax(dim=-1, keepdim=True)).mean()
    torch.testing.assert_close(HardLabels().loss({"weight": 1.0}, task)(inputs, student, targets), expected)


def test_the_teacher_gets_no_gradient(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    inputs, student, targets = batch
    loss = SoftLabels().loss({"temperature": 4.0, "weight": 0.7}, features())
    loss(inputs, student.requires_grad_(), targets).backward()
    assert student.grad is not None and all(parameter.grad is None for parameter in loss.parameters())


def make_task(model: nn.Module, targets: Tensor) -> Task:
    data = TensorDataset(torch.randn(4, 6), targets)
    return Task(model=model, train=data, validation=data, test=data)


CLASSES = torch.zeros(4, dtype=torch.long)
RULE = r"needs a model that gives logits \(B, ..., classes\) and targets that are classes \(B, ...\), but"


@pytest.mark.parametrize("method", [SoftLabels(), HardLabels()], ids=["soft", "hard"])
@pytest.mark.parametrize(
    ("model", "targets", "reason"),
    [
        (nn.LSTM(6, 3), CLASSES, "this one gives a tuple"),
        (nn.Linear(6, 1), CLASSES, r"this one gives \(2, 1\)"),
        (nn.Linear(6, 3), torch.zeros(4), "the targets are torch.float32"),
        (nn.Linear(6, 3), torch.zeros(4, 3, dtype=torch.long), r"outputs are \(2, 3\) and targets \(2, 3\)"),
    ],
)
def test_tasks_without_classes_are_not_applicable(
    method: SoftLabels | HardLabels, model: nn.Module, targets: Tensor, reason: str
) -> None:
    with pytest.raises(NotApplicable, match=f"{method.name} {RULE} {reason}"):
        method.check(make_task(model, targets), CPU)
