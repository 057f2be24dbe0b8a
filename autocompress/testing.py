"""The contract of a method as tests. A plugin's whole test file can be:

    from autocompress.testing import MethodContract

    class TestContract(MethodContract):
        methods = [MyMethod()]

Needs pytest. Each test runs for every method and every task; a task that a method is not applicable to is skipped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
import torch
from torch import Tensor, nn

from autocompress.artifact import load_model, write_model
from autocompress.compress import Compressed, compress, fill, resolve
from autocompress.data import batches
from autocompress.effect import output_error, outputs, structure
from autocompress.leaves import leaves
from autocompress.measure.device import Target
from autocompress.method import Method, NotApplicable, NotForTarget, Plan, Technique
from autocompress.plugins import Plugin, Registry, registry
from autocompress.recipe import Recipe, Recovery, Step
from autocompress.task import Task
from autocompress.tensors import call, map_tensors, to_device
from autocompress.testing_tasks import TASKS

Made = TypeVar("Made")


class MethodContract:
    """Subclass it with a name that pytest collects, `TestContract`."""

    methods: ClassVar[Sequence[Method] | None] = None
    """Those under test; all installed ones when left out."""
    tasks: ClassVar[Mapping[str, Callable[[], Task]]] = TASKS
    """Task by name; override it when a method is for other kinds of model than a convnet or a perceptron."""
    target: ClassVar[Target] = Target("cpu")

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        methods = list(registry().methods.values()) if self.methods is None else self.methods
        if "method" in metafunc.fixturenames:
            metafunc.parametrize("method", methods, ids=[method.name for method in methods])
        if "task_name" in metafunc.fixturenames:
            metafunc.parametrize("task_name", list(self.tasks))

    @pytest.fixture
    def task(self, method: Method, task_name: str) -> Task:
        """A task that the method is applicable to."""
        task = self.tasks[task_name]()
        try:
            method.check(task, self.target)
        except NotApplicable as reason:
            pytest.skip(f"{method.name} is not applicable to {task_name}: {reason}")
        return task

    @pytest.fixture
    def plan(self, method: Method, task: Task) -> Plan:
        """What the method decides with its defaults; made once for each task, like `compressed`."""
        return _once((method, task.name, "plan"), lambda: _decide(method, task))

    @pytest.fixture
    def compressed(self, method: Method, task: Task) -> Compressed:
        """The method's result, alone in a recipe with its defaults and an epoch of recovery if it needs training."""
        return _once((method, task.name, str(self.target)), lambda: compress_alone(method, task, self.target))

    def test_has_a_name_and_a_technique(self, method: Method) -> None:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", method.name), f"{method.name!r}: lower case, digits and underscores"
        assert isinstance(method.technique, Technique), f"{method.name}: technique must be a Technique"

    def test_is_applicable_to_a_task(self, method: Method) -> None:
        reasons = []
        for factory in self.tasks.values():
            try:
                method.check(factory(), self.target)
            except NotForTarget as reason:
                pytest.skip(str(reason))
            except NotApplicable as reason:
                reasons.append(str(reason))
        assert len(reasons) < len(self.tasks), f"{method.name} is applicable to no task, override `tasks`: {reasons}"

    def test_check_gives_a_reason(self, method: Method, task_name: str) -> None:
        reason = _reason(method, self.tasks[task_name](), self.target)
        assert reason is None or reason.strip(), f"{method.name}: NotApplicable says why"

    def test_parameters_are_json_and_defaults_in_range(self, method: Method, task: Task) -> None:
        for name, parameter in method.search_space(task).items():
            default = parameter.default
            assert json.loads(json.dumps(default)) == default, f"{method.name}: the default of {name!r} must be JSON"
            assert parameter.check(default) == default, f"{method.name}: the default of {name!r} must be in its range"

    def test_decide_leaves_the_model_as_it_was(self, method: Method, task: Task) -> None:
        model = task.trained_model()
        before = structure(model)
        method.decide(model, fill(method.name, method.search_space(task), {}), task)
        assert structure(model) == before, f"{method.name}: decide must not change the model's structure"
        _assert_same_state(method, model, task.trained_model(), "decide must not change the model's weights")
        assert not model.training, f"{method.name}: decide must leave the model in eval mode"

    def test_decide_is_deterministic(self, method: Method, task: Task, plan: Plan) -> None:
        assert _decide(method, task) == plan, (
            f"{method.name}: decide must give the same plan for the same model and data"
        )

    def test_plan_is_json(self, method: Method, plan: Plan) -> None:
        assert json.loads(json.dumps(plan)) == plan, f"{method.name}: the plan survives JSON: no tuples, string keys"

    def test_reshape_can_be_replayed(self, method: Method, task: Task, plan: Plan) -> None:
        first = method.reshape(task.trained_model(), plan)
        second = method.reshape(task.trained_model(), json.loads(json.dumps(plan)))
        _assert_same_state(method, first, second, "reshape must do the same again")
        _assert_same(method, _outputs(first, task), _outputs(second, task), "reshape must do the same again")

    def test_reshape_keeps_the_outputs_shape(self, method: Method, task: Task, plan: Plan) -> None:
        model = method.reshape(task.trained_model(), plan)
        _assert_like(method, _outputs(model, task), _outputs(task.trained_model(), task))

    def test_gradients_flow_after_reshape(self, method: Method, task: Task, plan: Plan) -> None:
        model = method.reshape(task.trained_model(), plan).train()
        inputs, targets = next(iter(batches(task.train, 16, collate=task.collate)))
        task.loss(call(model, inputs), targets).backward()  # type: ignore[no-untyped-call]
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert gradients, f"{method.name}: after reshape, some parameter must be trainable"
        assert all(gradient.isfinite().all() for gradient in gradients), f"{method.name}: gradients must be finite"

    def test_loss_is_a_finite_scalar(self, method: Method, task: Task, plan: Plan) -> None:
        loss = method.loss(plan, task)
        if loss is None:
            return
        inputs, targets = next(iter(batches(task.train, 16, collate=task.collate)))
        model = task.trained_model()
        loss.eval().attach(model)
        value = loss(inputs, call(model, inputs), targets)
        loss.detach()
        assert value.shape == (), f"{method.name}: the loss must be a scalar, but is {tuple(value.shape)}"
        assert value.isfinite() and value.requires_grad, f"{method.name}: the loss must be finite and have a gradient"

    def test_compress_gives_a_working_model(self, method: Method, task: Task, compressed: Compressed) -> None:
        made = _outputs(compressed.model, task, self.target)
        _assert_like(method, made, _outputs(task.trained_model(), task))
        assert all(tensor.isfinite().all() for tensor in _tensors(made)), f"{method.name}: outputs must be finite"

    def test_compressed_model_can_be_saved_and_loaded(
        self, method: Method, task: Task, compressed: Compressed, tmp_path: Path
    ) -> None:
        write_model(tmp_path, compressed, alone_in_recipe(method), self.target, _alone(method))
        other = _with_other_weights(task.source(compressed.student))
        model = load_model(tmp_path, other, _alone(method), self.target, native_code=True)
        inputs = to_device(task.inputs(8), self.target.torch_device)
        error = output_error(outputs(model, inputs), outputs(compressed.model, inputs))
        assert error <= method.reload_error, f"{method.name}: outputs differ by {error:.2g} after saving and loading"

    def test_task_is_untouched(self, method: Method, task: Task, request: pytest.FixtureRequest) -> None:
        before = task.trained_model()
        request.getfixturevalue("compressed")
        assert structure(task.trained_model()) == structure(before), f"{method.name}: the task's model must not change"
        _assert_same_state(method, task.trained_model(), before, "the task's model must not change")


def compress_alone(method: Method, task: Task, target: Target) -> Compressed:
    """The task's model, compressed by one method with its defaults."""
    recipe = resolve(alone_in_recipe(method), _alone(method), task)
    return compress(task, recipe, registry=_alone(method), target=target)


def alone_in_recipe(method: Method) -> Recipe:
    """One step, and an epoch of recovery if it needs training."""
    return Recipe(steps=(Step(method=method.name),), recovery=Recovery(epochs=1 if method.needs_training else 0))


def _alone(method: Method) -> Registry:
    return Registry((Plugin("under_test", "under_test", "0", (method,)),))


_made: dict[Any, Any] = {}


def _once(key: Any, make: Callable[[], Made]) -> Made:
    """What `make` gave the first time: the tests of a method and a task look at the same plan and the same model."""
    if key not in _made:
        _made[key] = make()
    made: Made = _made[key]
    return made


def _decide(method: Method, task: Task) -> Plan:
    return method.decide(task.trained_model(), fill(method.name, method.search_space(task), {}), task)


def _reason(method: Method, task: Task, target: Target) -> str | None:
    """Why the method is not applicable, or None."""
    try:
        method.check(task, target)
    except NotApplicable as reason:
        return str(reason)
    return None


def _outputs(model: nn.Module, task: Task, target: Target | None = None) -> Any:
    device = target.torch_device if target else torch.device("cpu")
    with torch.no_grad():
        return to_device(call(model.eval(), to_device(task.inputs(8), device)), torch.device("cpu"))


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(note, value)
    return found


def _with_other_weights(model: nn.Module) -> nn.Module:
    """An artifact is loaded into the structure alone: what the weights were must not matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
    return model


def _assert_same_state(method: Method, model: nn.Module, other: nn.Module, rule: str) -> None:
    _assert_same(method, leaves(model), leaves(other), rule)


def _assert_same(method: Method, actual: Any, expected: Any, rule: str) -> None:
    """Bit for bit."""
    torch.testing.assert_close(
        actual, expected, rtol=0, atol=0, msg=lambda difference: f"{method.name}: {rule}\n{difference}"
    )


def _assert_like(method: Method, actual: Any, expected: Any) -> None:
    shapes = [[tuple(tensor.shape) for tensor in _tensors(value)] for value in (actual, expected)]
    assert shapes[0] == shapes[1], f"{method.name}: outputs must keep their shape {shapes[1]}, but are {shapes[0]}"
