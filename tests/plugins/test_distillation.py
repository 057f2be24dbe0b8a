from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from autocompress_distillation import (
    METHODS,
    AttentionTransfer,
    DecoupledKD,
    FeatureSimilarity,
    HardLabels,
    LogitStandardization,
    OutputMatching,
    OwnStudent,
    RankingDistillation,
    SoftLabels,
    memory,
)
from autocompress_distillation.attention_transfer import AttentionLoss
from autocompress_distillation.feature_similarity import SimilarityLoss
from autocompress_distillation.features import spread
from autocompress_distillation.outputs import Lesson
from autocompress_distillation.teacher import unlabelled_batches
from autocompress_pruning import StructuredMagnitude
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from autocompress import Loss, Method, NotApplicable, Recipe, Recovery, Step, Target, Task, Technique, Trait
from autocompress.artifact import load_model, write_model
from autocompress.compress import compress, resolve
from autocompress.data import batches
from autocompress.effect import output_error, outputs
from autocompress.measure.lock import DeviceLock
from autocompress.method import NoEffect
from autocompress.plugins import registry
from autocompress.tensors import call
from autocompress.testing_families import FAMILIES, char_lstm, dict_inputs, recommender, two_heads, variable_length, vit
from autocompress.testing_tasks import features, images
from autocompress.training import train

CPU = Target("cpu")
LOGIT_PLANS: dict[type[Method], dict[str, Any]] = {
    SoftLabels: {"temperature": 3.0},
    HardLabels: {},
    DecoupledKD: {"temperature": 3.0, "beta": 2.0},
    LogitStandardization: {"temperature": 2.0},
    RankingDistillation: {"top": 5},
}


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (8, 16), a student's logits (8, 4), targets (8,)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 16, generator=generator), torch.randn(8, 4, generator=generator), torch.arange(8) % 4


def made(loss: Loss | None) -> Loss:
    assert loss is not None
    return loss


def linear_task(model: nn.Module | Callable[[], nn.Module], inputs: Tensor, targets: Any, **fields: Any) -> Task:
    data = TensorDataset(inputs, targets)
    return Task(model=model, train=data, validation=data, test=data, **fields)


def kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL of rows of probabilities, by its definition, the mean over rows."""
    return (teacher * (teacher / student).log()).sum() / len(teacher)


def cross_entropy(outputs: Any, targets: Tensor) -> Tensor:
    logits = outputs if isinstance(outputs, Tensor) else outputs["logits"]
    return functional.cross_entropy(logits.flatten(0, -2), targets.flatten())


def test_soft_labels_are_hintons_loss(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    inputs, student, targets = batch
    loss = made(SoftLabels().loss({"temperature": 3.0, "weight": 0.6}, features()))
    with torch.no_grad():
        teacher = (features().trained_model()(inputs) / 3.0).softmax(dim=1)  # (8, 4)
    soft = kl(teacher, (student / 3.0).softmax(dim=1)) * 9.0
    hard = -student.softmax(dim=1).log()[range(8), targets].mean()
    torch.testing.assert_close(loss(inputs, student, targets), 0.6 * soft + 0.4 * hard)


def test_hard_labels_are_the_teachers_decisions(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    inputs, student, targets = batch
    loss = made(HardLabels().loss({"weight": 0.25}, features()))
    decided = features().trained_model()(inputs).argmax(dim=1)
    logs = student.softmax(dim=1).log()
    expected = -0.25 * logs[range(8), decided].mean() - 0.75 * logs[range(8), targets].mean()
    torch.testing.assert_close(loss(inputs, student, targets), expected)


def test_decoupled_kd_weighs_target_and_others_apart(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    inputs, student, targets = batch
    loss = made(DecoupledKD().loss({"temperature": 2.0, "weight": 1.0, "beta": 3.0}, features()))
    with torch.no_grad():
        teacher = features().trained_model()(inputs)
    target_part, others_part = torch.zeros(()), torch.zeros(())
    for own, taught, target in zip(student, teacher, targets.tolist(), strict=True):
        p, q = (taught / 2.0).softmax(dim=0), (own / 2.0).softmax(dim=0)
        b, c = torch.stack([p[target], 1 - p[target]]), torch.stack([q[target], 1 - q[target]])
        target_part = target_part + (b * (b / c).log()).sum() / 8
        others = [index for index in range(4) if index != target]
        p, q = p[others] / p[others].sum(), q[others] / q[others].sum()
        others_part = others_part + (p * (p / q).log()).sum() / 8
    torch.testing.assert_close(loss(inputs, student, targets), 4.0 * (target_part + 3.0 * others_part))


def test_decoupled_kd_holds_soft_labels() -> None:
    """Zhao et al. 2022, equation 7: KL = target's + (1 - p of the target) x others'."""
    student, teacher, classes = torch.randn(1, 5), torch.randn(1, 5), torch.tensor([2])
    task = linear_task(nn.Linear(3, 5), torch.randn(4, 3), torch.arange(4))
    sure = 1 - teacher.softmax(dim=1)[0, 2].item()
    parts = made(DecoupledKD().loss({"temperature": 1.0, "weight": 1.0, "beta": sure}, task))
    whole = made(SoftLabels().loss({"temperature": 1.0, "weight": 1.0}, task))
    torch.testing.assert_close(
        parts.distance(student, teacher, classes),  # type: ignore[operator]
        whole.distance(student, teacher, classes),  # type: ignore[operator]
    )


def test_logit_standardization_is_blind_to_size_and_shift(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    inputs, student, targets = batch
    loss = made(LogitStandardization().loss({"temperature": 2.0, "weight": 1.0}, features()))
    with torch.no_grad():
        teacher = features().trained_model()(inputs)
    scores = [(logits - logits.mean(1, keepdim=True)) / logits.std(1, keepdim=True) for logits in (teacher, student)]
    expected = 4.0 * kl(*((score / 2.0).softmax(dim=1) for score in scores))
    torch.testing.assert_close(loss(inputs, student, targets), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss(inputs, 7 * student + 3, targets), expected, rtol=1e-5, atol=1e-6)


def test_ranking_is_the_likelihood_of_the_teachers_order() -> None:
    task = linear_task(nn.Linear(3, 30), torch.randn(6, 3), torch.arange(6))
    RankingDistillation().check(task, CPU)
    loss = made(RankingDistillation().loss({"top": 4, "weight": 1.0}, task))
    inputs, student = torch.randn(6, 3), torch.randn(6, 30)
    expected = torch.zeros(())
    for own, taught in zip(student, task.trained_model()(inputs), strict=True):
        left = list(range(30))
        for item in sorted(left, key=lambda index: -taught[index].item())[:4]:
            expected = expected - own[left].softmax(dim=0)[left.index(item)].log() / (6 * 4)
            left.remove(item)
    torch.testing.assert_close(loss(inputs, student, torch.arange(6)), expected)
    shifted = loss(inputs, student + 100, torch.arange(6))
    torch.testing.assert_close(shifted, expected, rtol=1e-4, atol=1e-4)


def test_output_matching_is_the_squared_error_of_all_outputs() -> None:
    task = two_heads()
    inputs, targets = task.inputs(8), (torch.arange(8) % 4, torch.randn(8))
    student = torch.randn(8, 4), torch.randn(8)
    with torch.no_grad():
        classes, value = call(task.trained_model(), inputs)
    loss = made(OutputMatching().loss({"weight": 0.3}, task))
    distance = ((student[0] - classes) ** 2).mean() + ((student[1] - value) ** 2).mean()
    expected = 0.3 * distance + 0.7 * task.loss(student, targets)
    torch.testing.assert_close(loss(inputs, student, targets), expected)


def test_similarity_is_one_minus_linear_cka() -> None:
    """Kornblith et al. 2019, equation 5, in its form over features."""
    student, teacher = torch.randn(16, 3, 2), torch.randn(16, 9)
    x, y = (feature.flatten(1) - feature.flatten(1).mean(dim=0) for feature in (student, teacher))
    cka = (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    loss = SimilarityLoss(features(), 1.0, ["0"])
    torch.testing.assert_close(loss.distance(student, teacher), 1 - cka)
    turned = torch.linalg.qr(torch.randn(9, 9)).Q
    same = loss.distance(5 * teacher @ turned + 1, teacher)
    torch.testing.assert_close(same, torch.zeros(()), atol=1e-5, rtol=0)


def test_attention_is_the_mean_square_over_channels() -> None:
    student, teacher = torch.randn(2, 5, 4, 4), torch.randn(2, 3, 4, 4)
    expected = torch.zeros(())
    for sample in range(2):
        maps = [torch.stack([channel**2 for channel in f[sample]]).mean(dim=0) for f in (student, teacher)]
        expected = expected + ((maps[0] / maps[0].norm() - maps[1] / maps[1].norm()) ** 2).sum() / 2
    loss = AttentionLoss(images(), 1.0, ["0"])
    torch.testing.assert_close(loss.distance(student, teacher), expected)
    larger = teacher.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    torch.testing.assert_close(loss.distance(larger, teacher), torch.zeros(()))


@pytest.mark.parametrize("method", LOGIT_PLANS)
def test_of_logits_the_student_alone_gets_a_gradient(method: type[Method]) -> None:
    task = linear_task(nn.Linear(3, 30), torch.randn(6, 3), torch.arange(6))
    loss = made(method().loss({**LOGIT_PLANS[method], "weight": 1.0}, task))
    student = torch.randn(6, 30, requires_grad=True)
    loss(torch.randn(6, 3), student, torch.arange(6)).backward()
    assert student.grad is not None and student.grad.isfinite().all() and student.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in loss.parameters())


def perturbed(task: Task) -> nn.Module:
    model = task.trained_model()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * parameter.std(correction=0) * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize(
    ("method", "task"),
    [
        (SoftLabels, images), (DecoupledKD, two_heads), (LogitStandardization, dict_inputs),
        (RankingDistillation, char_lstm), (OutputMatching, recommender), (HardLabels, char_lstm),
        (FeatureSimilarity, variable_length), (AttentionTransfer, images),
    ],
)  # fmt: skip
def test_training_brings_the_student_to_its_teacher(method: type[Method], task: Callable[[], Task]) -> None:
    """By the distance itself, measured on the first training samples without the task's own loss."""

    def distance(model: nn.Module) -> float:
        loss = made(method().loss(plan, task()))
        loss.own_weight = 0.0  # type: ignore[assignment]
        loss.attach(model)
        inputs, targets = next(iter(batches(task().train, 8, collate=task().collate)))
        value = loss(inputs, call(model, inputs), targets)
        loss.detach()
        return float(value.detach())

    model = perturbed(task())
    space = {name: parameter.default for name, parameter in method().search_space(task()).items()}
    plan = method().decide(model, {**space, "weight": 1.0}, task())
    before = distance(copy.deepcopy(model))
    trained = train(
        model,
        [made(method().loss(plan, task()))],
        task(),
        Recovery(epochs=3, learning_rate=3e-3),
        device=torch.device("cpu"),
        lock=DeviceLock(CPU),
    )
    assert distance(trained) < before


def test_positions_count_like_samples_and_ignored_ones_do_not() -> None:
    """Logits (B, T, classes) of a tagger: the mean over all positions whose target is not -100."""
    tagger = nn.Linear(6, 3)
    targets = torch.randint(3, (4, 5))
    targets[:, -2:] = -100
    task = linear_task(tagger, torch.randn(4, 5, 6), targets, loss=cross_entropy)
    inputs, student = task.train[:][0], torch.randn(4, 5, 3)
    logs = student.softmax(dim=-1).log().gather(-1, tagger(inputs).argmax(dim=-1, keepdim=True))
    loss = made(HardLabels().loss({"weight": 1.0}, task))
    torch.testing.assert_close(loss(inputs, student, targets), -logs[:, :3].mean())


def test_classes_can_be_the_second_dimension() -> None:
    """Logits (B, classes, H, W) and targets (B, H, W), as in segmentation."""
    task = linear_task(nn.Conv2d(2, 5, 1), torch.randn(4, 2, 3, 3), torch.randint(5, (4, 3, 3)))
    inputs, targets = task.train[:]
    student = torch.randn(4, 5, 3, 3)
    with torch.no_grad():
        teacher = task.trained_model()(inputs)
    loss = made(SoftLabels().loss({"temperature": 1.0, "weight": 1.0}, task))
    expected = sum(
        kl(teacher[:, :, y, x].softmax(dim=1), student[:, :, y, x].softmax(dim=1)) for y in range(3) for x in range(3)
    )
    torch.testing.assert_close(loss(inputs, student, targets), expected / 9)


class Nested(nn.Module):
    """Gives hidden states (B, 6) beside logits by name, with another order than the targets'."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.colour, self.size = nn.Linear(3, 6), nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> dict[str, Any]:
        hidden = self.trunk(x)
        return {"states": (hidden,), "colour": self.colour(hidden), "size": self.size(hidden)}


def nested_task() -> Task:
    samples = [(torch.randn(3), {"size": row % 2, "colour": row % 4}) for row in range(8)]

    def loss(outputs: Any, targets: Any) -> Tensor:
        return sum((functional.cross_entropy(outputs[key], targets[key]) for key in targets), torch.zeros(()))

    return Task(model=Nested(), train=samples, validation=samples, test=samples, loss=loss)


def test_logits_are_the_outputs_that_the_loss_reads() -> None:
    """Hidden states (B, 6) are as good as logits by their shape."""
    found = Lesson.of(nested_task()).logits()
    assert [(logits.path, logits.target) for logits in found] == [(("colour",), ("colour",)), (("size",), ("size",))]


def test_looking_at_what_the_loss_reads_leaves_no_trace() -> None:
    """An output can be an input: the user's own data."""

    class Echo(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), x

    data = torch.randn(8, 3)
    task = linear_task(Echo(3, 4), data, torch.arange(8) % 4, loss=lambda out, y: functional.cross_entropy(out[0], y))
    lesson = Lesson.of(task)
    assert list(lesson.outputs) == [(0,)]
    assert not data.requires_grad and not lesson.inputs.requires_grad


def test_a_loss_inside_the_outputs_hides_nothing() -> None:
    """Hugging Face's models give their own loss when labels are among the inputs."""

    class WithLoss(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            logits = super().forward(x)
            return {"loss": logits.square().mean(), "logits": logits}

    task = linear_task(WithLoss(3, 4), torch.randn(8, 3), torch.arange(8) % 4, loss=lambda out, y: out["loss"])
    assert [logits.path for logits in Lesson.of(task).logits()] == [("logits",)]


CLASSES = torch.zeros(4, dtype=torch.long)


@pytest.mark.parametrize("method", [SoftLabels(), HardLabels(), DecoupledKD(), LogitStandardization()])
@pytest.mark.parametrize(
    ("outputs", "targets", "reason"),
    [
        (1, CLASSES, r"outputs \(4, 1\) float32 and targets \(4,\) int64"),
        (3, torch.zeros(4, 3), r"outputs \(4, 3\) float32 and targets \(4, 3\) float32"),
        (3, CLASSES + 3, r"outputs \(4, 3\) float32 and targets \(4,\) int64"),
        (3, CLASSES[:, None].expand(4, 3), r"outputs \(4, 3\) float32 and targets \(4, 3\) int64"),
    ],
)
def test_tasks_without_classes_are_not_applicable(method: Method, outputs: int, targets: Tensor, reason: str) -> None:
    task = linear_task(nn.Linear(6, outputs), torch.randn(4, 6), targets, loss=lambda out, targets: out.sum())
    rule = f"{method.name} needs logits .* but the loss reads {reason}"
    with pytest.raises(NotApplicable, match=rule):
        method.check(task, CPU)


@pytest.mark.parametrize(("method", "classes"), [(DecoupledKD(), 3), (LogitStandardization(), 3)])
def test_two_classes_are_too_few_to_relate(method: Method, classes: int) -> None:
    task = linear_task(nn.Linear(6, 2), torch.randn(4, 6), CLASSES)
    SoftLabels().check(task, CPU)
    with pytest.raises(NotApplicable, match=f"of {classes} or more classes"):
        method.check(task, CPU)


def test_a_factory_may_train_its_model() -> None:
    def factory() -> nn.Module:
        torch.manual_seed(0)
        model = nn.Linear(6, 3)
        model(torch.ones(1, 6)).sum().backward()
        assert model.weight.grad is not None
        return model

    task = linear_task(factory, torch.randn(4, 6), CLASSES, teachers=(factory,), students={"s": factory})
    for method in (SoftLabels(), OutputMatching(), HardLabels()):
        method.check(task, CPU)
    with pytest.raises(NotApplicable, match="'s' is the same"):
        OwnStudent().check(task, CPU)


def test_several_teachers_teach_their_mean(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    inputs, student, targets = batch
    teachers = (nn.Linear(16, 4), nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4)))
    task = replace(features(), teachers=teachers)
    OutputMatching().check(task, CPU)
    with torch.no_grad():
        mean = (teachers[0](inputs) + teachers[1](inputs)) / 2
    loss = made(OutputMatching().loss({"weight": 1.0}, task))
    torch.testing.assert_close(loss(inputs, student, targets), ((student - mean) ** 2).mean())


@pytest.mark.parametrize("method", [SoftLabels(), OutputMatching(), OwnStudent()])
def test_teachers_of_other_outputs_are_refused(method: Method) -> None:
    task = replace(features(), teachers=(nn.Linear(16, 4), nn.Linear(16, 5)))
    rule = r"needs of teacher 1 outputs like the trained model's, \(8, 4\) float32 at \[\], but gives \(8, 5\) float32"
    with pytest.raises(NotApplicable, match=f"{method.name} {rule}"):
        method.check(task, CPU)


class Counting(nn.Module):
    """A teacher that counts the samples that it was asked for."""

    asked = 0

    def __init__(self) -> None:
        super().__init__()
        self.inner = features().trained_model()

    def forward(self, x: Tensor) -> Any:
        Counting.asked += len(x)
        return self.inner(x)


def asked_in(task: Task, epochs: int) -> int:
    """How many samples the teacher was asked for in one training, beside the look at a few of them before it."""
    loss = made(SoftLabels().loss({"temperature": 4.0, "weight": 1.0}, task))
    Counting.asked = 0
    recovery = Recovery(epochs=epochs, batch_size=64)
    train(features().trained_model(), [loss], task, recovery, device=torch.device("cpu"), lock=DeviceLock(CPU))
    return Counting.asked


def test_teachers_are_asked_once_in_a_process() -> None:
    task = replace(features(), teachers=(Counting,))
    assert asked_in(task, epochs=3) == 256 + 32 + 16  # once each, and the probe
    assert asked_in(task, epochs=3) == 0


def test_answers_from_memory_are_those_of_the_teacher(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    task = replace(features())
    rows = torch.randperm(256, generator=torch.Generator().manual_seed(3))[:8]
    inputs = torch.stack([task.train[row][0] for row in rows.tolist()])
    loss = made(SoftLabels().loss({"temperature": 4.0, "weight": 1.0}, task))
    _, student, targets = batch
    asked = loss(inputs, student, targets)
    loss.attach(nn.Linear(1, 1))
    loss.rows = rows
    torch.testing.assert_close(loss(torch.full_like(inputs, torch.nan), student, targets), asked, rtol=1e-5, atol=1e-6)
    loss.detach()
    torch.testing.assert_close(loss(inputs, student, targets), asked, rtol=0, atol=0)


class Noisy(TensorDataset):
    """Training data that are augmented."""

    def __getitem__(self, index: Any) -> Any:
        x, y = (tensor[index] for tensor in self.tensors)
        return x + 0.5 * torch.randn_like(x), y


def noisy_features() -> Task:
    samples = [features().train[row] for row in range(256)]
    data = Noisy(torch.stack([x for x, _ in samples]), torch.stack([y for _, y in samples]))
    return replace(features(), train=data, teachers=(Counting,))


def test_augmented_data_are_asked_for_in_each_step() -> None:
    assert asked_in(noisy_features(), epochs=2) == 2 * 256


def test_answers_that_are_too_large_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LIMIT_BYTES", 256 * 4 * 4 - 1)  # a byte less than 256 x 4 logits of 4 bytes
    assert asked_in(replace(features(), teachers=(Counting,)), epochs=2) == 32 + 16 + 2 * 256
    monkeypatch.setattr(memory, "LIMIT_BYTES", 256 * 4 * 4)
    assert asked_in(replace(features(), teachers=(Counting,)), epochs=2) == 32 + 16 + 256


@pytest.mark.parametrize(("masked", "kept"), [(True, True), (False, False)])
def test_answers_that_depend_on_the_batch_are_not_kept(masked: bool, kept: bool) -> None:
    class Mean(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:  # (B, T, 3), padded by zeros
            counts = (x != 0).any(dim=-1).sum(dim=1) if masked else torch.full((len(x),), x.shape[1])
            return super().forward(x.sum(dim=1) / counts[:, None])

    samples = [(torch.randn(2 + row % 5, 3), row % 4) for row in range(64)]

    def collate(samples: list[Any]) -> tuple[Tensor, Tensor]:
        padded = nn.utils.rnn.pad_sequence([x for x, _ in samples], batch_first=True)
        return functional.pad(padded, (0, 0, 0, len(samples))), torch.tensor([y for _, y in samples])

    task = Task(model=Mean(3, 4), train=samples, validation=samples, test=samples, collate=collate)
    loss = made(SoftLabels().loss({"temperature": 4.0, "weight": 1.0}, task))
    loss.attach(nn.Linear(1, 1))
    assert (loss._known is not None) == kept


def test_answers_are_forgotten_with_their_task() -> None:
    gc.collect()
    before = set(memory._memory)
    task = replace(features())
    asked_in(task, epochs=1)
    assert set(memory._memory) == before | {id(task)}
    del task
    gc.collect()
    assert set(memory._memory) == before


def test_unlabelled_inputs_join_the_distance(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    inputs, _, targets = batch
    more = torch.randn(8, 16)
    task = replace(features(), unlabelled=more)
    model = nn.Linear(16, 4)
    loss = made(SoftLabels().loss({"temperature": 3.0, "weight": 0.6}, task))
    loss.attach(model)
    teacher = task.trained_model()
    with torch.no_grad():
        labelled, unlabelled = (
            9 * kl((teacher(x) / 3).softmax(dim=1), (model(x) / 3).softmax(dim=1)) for x in (inputs, more)
        )
        expected = 0.6 * (labelled + unlabelled) / 2 + 0.4 * functional.cross_entropy(model(inputs), targets)
    torch.testing.assert_close(loss(inputs, model(inputs), targets), expected)


def test_unlabelled_batches_have_no_end_and_one_order() -> None:
    """The user's `collate` gets pairs, as it does for training data; here it pads sequences of their own lengths."""
    task = variable_length()
    task = replace(task, unlabelled=[task.validation[row][0] for row in range(5)])
    first, second = unlabelled_batches(task, 2), unlabelled_batches(task, 2)
    for _ in range(7):
        (x, lengths), (again, _) = next(first), next(second)
        assert x.shape[1] == lengths.max() and torch.equal(x, again)


def test_features_of_unlabelled_inputs_join_too() -> None:
    task = replace(images(), unlabelled=[x for x, _ in (images().validation[row] for row in range(16))])
    model = perturbed(task)
    plan = AttentionTransfer().decide(model, {"weight": 1.0}, task)
    with_more, without = (made(AttentionTransfer().loss(plan, each)) for each in (task, images()))
    inputs, targets = task.inputs(16), torch.arange(16) % 4  # the validation's first 16 themselves
    values = []
    for loss in (with_more, without):
        loss.attach(model)
        values.append(loss(inputs, model(inputs), targets))
        loss.detach()
    torch.testing.assert_close(*values)  # all 16 unlabelled inputs are the labelled ones: the mean is the same


def test_hard_labels_that_repeat_the_labels_are_not_applicable() -> None:
    with pytest.raises(NotApplicable, match="agrees with those of 32 training samples, .* give `unlabelled` data"):
        HardLabels().check(features(), CPU)
    HardLabels().check(replace(features(), unlabelled=torch.randn(8, 16)), CPU)
    HardLabels().check(noisy_features(), CPU)
    samples = [features().train[row] for row in range(64)]
    mislabelled = [(x, (y + (row % 4 == 0)) % 4) for row, (x, y) in enumerate(samples)]
    HardLabels().check(replace(features(), train=mislabelled), CPU)


@pytest.mark.parametrize("method", [FeatureSimilarity(), AttentionTransfer()])
def test_features_of_pruned_layers_need_no_adapter(method: Method) -> None:
    pruning = Step(method=StructuredMagnitude.name, params={"ratio": 0.5, "round_to": 1})
    recipe = Recipe(steps=(pruning, Step(method=method.name)), recovery=Recovery(epochs=1))
    compressed = compress(images(), resolve(recipe, registry(), images()), registry=registry(), target=CPU)
    assert compressed.steps[1].plan["layers"] == ["0", "2", "4", "6"]
    assert compressed.model.get_parameter("3.weight").shape[:2] == (12, 8)
    hooks = [len(module._forward_hooks) for module in compressed.model.modules()]
    assert not any(hooks)


def test_layers_are_spread_over_the_depth() -> None:
    assert spread(["a", "b", "c"]) == ["a", "b", "c"]
    assert spread([str(place) for place in range(12)]) == ["2", "5", "8", "11"]


def test_a_layer_that_runs_again_stands_where_it_ran_last() -> None:
    class Net(nn.Sequential):
        def forward(self, x: Tensor) -> Any:
            first, act, second, head = self
            return head(act(second(act(first(x)))))

    task = linear_task(
        Net(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 3)), torch.randn(8, 6), torch.arange(8) % 3
    )
    assert FeatureSimilarity().layers(task.trained_model(), task) == ["0", "2", "1"]


def test_features_of_a_single_sample_are_not_compared() -> None:
    inputs, targets = images().train[:1]
    with pytest.raises(NotApplicable, match="compared between samples, but the training data have one sample"):
        FeatureSimilarity().check(replace(images(), train=TensorDataset(inputs, targets)), Target("cpu"))


def test_tables_repeats_and_outputs_are_no_features() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positions, self.layer, self.drop = nn.Embedding(8, 6), nn.Linear(6, 6), nn.Dropout()
            self.act, self.head = nn.ReLU(inplace=True), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Any:
            table = self.positions(torch.arange(8))
            return self.head(self.act(self.drop(self.layer(x))) + table.mean(dim=0))

    task = linear_task(Net(), torch.randn(16, 6), torch.arange(16) % 3)
    assert FeatureSimilarity().decide(task.trained_model(), {"weight": 1.0}, task)["layers"] == ["layer"]


def test_a_patch_embedding_is_no_convolutional_net() -> None:
    with pytest.raises(NotApplicable, match="of two or more layers of a convolutional net, but the model shares 1"):
        AttentionTransfer().check(vit(), CPU)
    with pytest.raises(NotApplicable, match="but the model has no Conv2d"):
        AttentionTransfer().check(features(), CPU)


def test_layers_that_are_gone_are_told() -> None:
    other = nn.Sequential(nn.Linear(16, 4))
    with pytest.raises(NoEffect, match="the model shares 0 with its teachers"):
        FeatureSimilarity().decide(nn.Linear(16, 4), {"weight": 1.0}, features())
    loss = made(FeatureSimilarity().loss({"weight": 1.0, "layers": ["0", "2"]}, features()))
    with pytest.raises(NoEffect, match=r"layers \['2'\], which another step took"):
        loss.attach(other)


def test_a_student_is_what_ships() -> None:
    recipe = Recipe(steps=(Step(method="own_student"),), recovery=Recovery(epochs=20, learning_rate=1e-2))
    compressed = compress(features(), resolve(recipe, registry(), features()), registry=registry(), target=CPU)
    assert compressed.student == "half"
    assert sum(parameter.numel() for parameter in compressed.model.parameters()) == 17 * 16 + 17 * 16 + 17 * 4
    inputs, teacher = features().inputs(128), features().trained_model()
    agreement = (compressed.model(inputs).argmax(dim=1) == teacher(inputs).argmax(dim=1)).float().mean()
    assert agreement > 0.6  # a quarter by chance


def test_a_student_of_a_regression_learns_outputs() -> None:
    task = linear_task(
        nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1)),
        torch.randn(8, 6),
        torch.randn(8, 1),
        loss=functional.mse_loss,
        students={"linear": nn.Linear(6, 1)},
    )
    OwnStudent().check(task, CPU)
    assert list(OwnStudent().search_space(task)) == ["student", "weight"]
    loss = made(OwnStudent().loss({"student": "linear", "weight": 1.0}, task))
    inputs, targets = task.train[:]
    student = torch.randn(8, 1)
    expected = ((student - task.trained_model()(inputs)) ** 2).mean()
    torch.testing.assert_close(loss(inputs, student, targets), expected)


def test_tasks_without_students_have_none_to_train() -> None:
    for ask in (lambda: OwnStudent().check(recommender(), CPU), lambda: OwnStudent().search_space(recommender())):
        with pytest.raises(NotApplicable, match="the task has no `students`"):
            ask()


def test_a_student_of_other_outputs_is_refused() -> None:
    task = replace(features(), students={"narrow": nn.Linear(16, 3)})
    with pytest.raises(NotApplicable, match=r"of student 'narrow' outputs like .* \(8, 4\) .* gives \(8, 3\)"):
        OwnStudent().check(task, CPU)


@pytest.mark.parametrize("trait", Trait)
def test_a_student_throws_no_earlier_work_away(trait: Trait) -> None:
    class Earlier(Method):
        name = "earlier"
        technique = Technique.PRUNING
        gives = frozenset({trait})

    assert OwnStudent().conflict(Earlier()) is trait


def test_all_are_installed() -> None:
    assert {method.name for method in METHODS} <= registry().methods.keys()


@pytest.mark.parametrize("family", ["encoder", "residual", "gpt"])
def test_a_student_may_be_narrower_and_shallower_than_its_teacher(family: str, tmp_path: Path) -> None:
    """Cut in width and in depth, each as a step of its own, and taught by what it was cut from."""
    task = FAMILIES[family]()
    steps = [Step(method=name) for name in ("structured_magnitude", "layer_dropping", "output_matching")]
    recipe = resolve(Recipe(steps=tuple(steps), recovery=Recovery(epochs=2, learning_rate=3e-3)), registry(), task)
    made = compress(task, recipe, registry=registry(), target=CPU)
    removed = {change.method: change.parameters_removed for change in made.changes}
    assert min(removed["structured_magnitude"], removed["layer_dropping"]) > 0
    write_model(tmp_path, made, recipe, CPU, registry())
    loaded = load_model(tmp_path, task.model, registry(), CPU)
    assert output_error(outputs(loaded, task.inputs(8)), outputs(made.model, task.inputs(8))) == 0
