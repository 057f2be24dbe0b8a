"""The contract of a method as tests. A plugin's whole test file can be:

    from autocompress.testing import MethodContract

    class TestContract(MethodContract):
        methods = [MyMethod()]

Needs pytest. Each test runs for every method and every task; a task that a method is not applicable to is skipped.
"""

from __future__ import annotations

import contextlib
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
import torch
from torch import Tensor, nn

from autocompress.artifact import load_model, shipped_files, write_model
from autocompress.compress import (
    COMPARED_SAMPLES,
    Compressed,
    fill,
    finalize,
    resolve,
    train_recipe,
    unpack,
)
from autocompress.data import batches
from autocompress.effect import byte_count, output_error, outputs, structure
from autocompress.leaves import leaves
from autocompress.measure.device import Target
from autocompress.method import Method, NotApplicable, NotForTarget, Plan, Technique
from autocompress.plugins import Plugin, Registry, registry
from autocompress.recipe import Recipe, Recovery, Step
from autocompress.task import Task, weights_digest
from autocompress.tensors import call, map_tensors, to_device
from autocompress.testing_tasks import TASKS

Made = TypeVar("Made")


class UnderTest:
    """The methods and tasks of a test class, and what is made of each pair, once for all that looks at it."""

    methods: ClassVar[Sequence[Method] | None] = None
    """Those under test; all installed ones when left out."""
    tasks: ClassVar[Mapping[str, Callable[[], Task]]] = TASKS
    """Task by name; override it when a method is for other kinds of model than a convnet or a perceptron."""
    target: ClassVar[Target] = Target("cpu")

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        methods = self.methods_under_test()
        if "method" in metafunc.fixturenames:
            metafunc.parametrize("method", methods, ids=[method.name for method in methods])
        if "task_name" in metafunc.fixturenames:
            metafunc.parametrize("task_name", list(self.tasks))

    @pytest.fixture
    def task(self, method: Method, task_name: str) -> Task:
        """A task that the method is applicable to."""
        task = self.tasks[task_name]()
        _once((task.name, "weights"), lambda: weights_digest(task.trained_model()))
        reason = self.reason(method, task)
        if reason is not None:
            pytest.skip(f"{method.name} is not applicable to {task_name}: {reason}")
        return task

    @pytest.fixture
    def plan(self, method: Method, task: Task) -> Plan:
        """What the method decides with its defaults; made once for each task, like `compressed`."""
        return _once((method, task.name, "plan"), lambda: _decide(method, task))

    @pytest.fixture
    def compressed(self, method: Method, task: Task) -> Compressed:
        """The method's result, alone in a recipe with its defaults and an epoch of recovery if it needs training."""
        return self.compress_once(method, task)

    @pytest.fixture
    def saved(self, method: Method, task: Task, compressed: Compressed, tmp_path: Path) -> Path:
        """The folder of what ships."""
        write_model(tmp_path, compressed, alone_in_recipe(method), self.target, _alone(method))
        return tmp_path

    @classmethod
    def methods_under_test(cls) -> list[Method]:
        return list(registry().methods.values() if cls.methods is None else cls.methods)

    def reason(self, method: Method, task: Task) -> NotApplicable | None:
        """Why the method is not applicable, or None; asked once."""

        def ask() -> NotApplicable | None:
            try:
                with _settings_kept(method):
                    method.check(task, self.target)
            except NotApplicable as reason:
                return reason
            return None

        return _once((method, task.name, str(self.target), "reason"), ask)

    def compress_once(self, method: Method, task: Task) -> Compressed:
        """`compress_alone`, made once for all tests of a method and a task."""

        def make() -> Compressed:
            with _settings_kept(method):
                return compress_alone(method, task, self.target)

        return _once((method, task.name, str(self.target)), make)

    def outputs_once(self, method: Method, task: Task) -> list[Tensor]:
        """Those of `compress_once` for the first samples; a compiled model that is called later may compile again."""

        def make() -> list[Tensor]:
            return outputs(self.compress_once(method, task).model, self.inputs(task))

        return _once((method, task.name, str(self.target), "outputs"), make)

    def inputs(self, task: Task) -> Any:
        return to_device(task.inputs(COMPARED_SAMPLES), self.target.torch_device)


class MethodContract(UnderTest):
    """Subclass it with a name that pytest collects, `TestContract`."""

    def test_has_a_name_and_a_technique(self, method: Method) -> None:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", method.name), f"{method.name!r}: lower case, digits and underscores"
        assert isinstance(method.technique, Technique), f"{method.name}: technique must be a Technique"

    def test_is_applicable_to_a_task(self, method: Method) -> None:
        reasons = []
        for factory in self.tasks.values():
            reason = self.reason(method, factory())
            if reason is None:
                return
            reasons.append(reason)
        if reasons and all(isinstance(reason, NotForTarget) for reason in reasons):
            pytest.skip(str(reasons[0]))
        pytest.fail(f"{method.name} is applicable to no task, override `tasks`: {reasons}")

    def test_check_gives_a_reason(self, method: Method, task_name: str) -> None:
        reason = self.reason(method, self.tasks[task_name]())
        assert reason is None or str(reason).strip(), f"{method.name}: NotApplicable says why"

    def test_parameters_are_json_and_defaults_in_range(self, method: Method, task: Task) -> None:
        for name, parameter in method.search_space(task).items():
            default = parameter.default
            assert json.loads(json.dumps(default)) == default, f"{method.name}: the default of {name!r} must be JSON"
            assert parameter.check(default) == default, f"{method.name}: the default of {name!r} must be in its range"

    def test_decide_gives_the_same_again_and_leaves_the_model_as_it_was(
        self, method: Method, task: Task, plan: Plan
    ) -> None:
        model = task.trained_model()
        before = structure(model)
        again = method.decide(model, fill(method.name, method.search_space(task), {}), task)
        assert again == plan, f"{method.name}: decide must give the same plan for the same model and data"
        assert structure(model) == before, f"{method.name}: decide must not change the model's structure"
        _assert_same_state(method, model, task.trained_model(), "decide must not change the model's weights")
        assert not model.training, f"{method.name}: decide must leave the model in eval mode"

    def test_plan_is_json_without_weights(self, method: Method, task: Task, plan: Plan) -> None:
        assert json.loads(json.dumps(plan)) == plan, f"{method.name}: the plan survives JSON: no tuples, string keys"
        size, weights = len(json.dumps(plan)), byte_count(leaves(task.trained_model()))
        assert size < weights / 2, f"{method.name}: a plan holds no weights, but has {size} bytes for {weights} of them"

    def test_reshape_can_be_replayed_and_keeps_the_outputs_shape(self, method: Method, task: Task, plan: Plan) -> None:
        first = method.reshape(task.trained_model(), plan)
        second = method.reshape(task.trained_model(), json.loads(json.dumps(plan)))
        _assert_same_state(method, first, second, "reshape must do the same again")
        made = _outputs(first, task)
        _assert_same(method, made, _outputs(second, task), "reshape must do the same again")
        _assert_like(method, made, _outputs(task.trained_model(), task))

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

    def test_what_is_skipped_has_a_reason(self, method: Method, task: Task, plan: Plan) -> None:
        model = method.reshape(task.trained_model(), plan)
        before = structure(model)
        skipped = method.skipped(model, plan)
        assert all(layer and reason for layer, reason in skipped.items()), f"{method.name}: a name and why: {skipped}"
        assert structure(model) == before, f"{method.name}: skipped must not change the model"

    def test_packing_is_exact(self, method: Method, compressed: Compressed) -> None:
        if method.overrides("pack"):
            unpacked = unpack(compressed.tensors(), compressed.model, compressed.steps)
            _assert_same(method, unpacked, leaves(compressed.model), "unpack must give what was packed")

    def test_ships_no_pickle(self, method: Method, saved: Path) -> None:
        if not method.native_code:  # which is loaded by those alone who trust it
            files = [name for name in shipped_files(saved) if _holds_pickle(saved / name)]
            assert not files, f"{method.name}: what ships must hold no pickle, but {files} do"

    def test_compressed_model_can_be_saved_and_loaded(
        self, method: Method, task: Task, compressed: Compressed, saved: Path
    ) -> None:
        expected = self.outputs_once(method, task)
        other = _with_other_weights(task.source(compressed.student))
        model = load_model(saved, other, _alone(method), self.target, native_code=True)
        error = output_error(outputs(model, self.inputs(task)), expected)
        assert error <= method.reload_error, f"{method.name}: outputs differ by {error:.2g} after saving and loading"

    def test_task_is_untouched(self, method: Method, task: Task, compressed: Compressed) -> None:
        """By all that made the `compressed` model, and the checks before."""
        before = _once((task.name, "weights"), lambda: "")  # noted by `task`, before any method saw it
        assert weights_digest(task.trained_model()) == before, f"{method.name}: the task's model must not change"


def compress_alone(method: Method, task: Task, target: Target) -> Compressed:
    """The task's model, compressed by one method with its defaults; a copy, as where a trained model ships twice."""
    recipe = resolve(alone_in_recipe(method), _alone(method), task)
    trained = train_recipe(task, recipe, registry=_alone(method), target=target)
    inputs = to_device(task.inputs(COMPARED_SAMPLES), target.torch_device)
    before = outputs(trained.model.eval(), inputs)
    made = finalize(trained, target, keep=True)
    error = output_error(outputs(trained.model, inputs), before)
    assert error < 1e-6, (
        f"{method.name}: to finalize a copy must leave the trained model as it was, but changed {error}"
    )
    return made


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


@contextlib.contextmanager
def _settings_kept(method: Method) -> Iterator[None]:
    """Fails when what is done inside changes how this process computes from then on."""
    before = _settings()
    yield
    changed = {name: value for name, value in _settings().items() if value != before[name]}
    assert not changed, f"{method.name} must leave torch's settings as they were, but now {changed}"


def _settings() -> dict[str, Any]:
    return {
        "threads": torch.get_num_threads(),
        "default dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "fused attention": torch.backends.mha.get_fastpath_enabled(),
        "quantized engine": torch.backends.quantized.engine,
        "float32 precision": torch.get_float32_matmul_precision(),
    }


def _holds_pickle(path: Path) -> bool:
    """Whether a file is a pickle of protocol 2 or later, or an archive with one in it."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(_is_pickle(archive.read(name)) for name in archive.namelist())
    return _is_pickle(path.read_bytes())


def _is_pickle(content: bytes) -> bool:
    return content[:1] == b"\x80" and content[1:2] in b"\x02\x03\x04\x05" and content.endswith(b".")


def _outputs(model: nn.Module, task: Task, target: Target | None = None) -> Any:
    device = target.torch_device if target else torch.device("cpu")
    with torch.no_grad():
        return to_device(call(model.eval(), to_device(task.inputs(COMPARED_SAMPLES), device)), torch.device("cpu"))


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
