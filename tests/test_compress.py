"""Recipes, checked and carried out, with methods that a test can see through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from autocompress import (
    Choice,
    Float,
    Loss,
    Method,
    Parameter,
    Plan,
    Recipe,
    Recovery,
    Step,
    Target,
    Task,
    Technique,
    Trait,
)
from autocompress.compress import Compressed, compress, fill, finalize, rebuild, resolve, train_recipe
from autocompress.effect import output_error, outputs
from autocompress.errors import InvalidInput
from autocompress.leaves import leaves, load_leaves
from autocompress.method import NoEffect, OutputsDiffer
from autocompress.plugins import Plugin, Registry, registry
from autocompress.testing_tasks import images

CPU = Target("cpu")


class Narrow(Method):
    """Keeps the first hidden units."""

    name = "narrow"
    technique = Technique.PRUNING

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        return {"ratio": Float(0.0, 0.75, default=0.5), "norm": Choice(("l1", "l2"), default="l1")}

    def decide(self, model: nn.Module, params: Mapping[str, Any], task: Task) -> Plan:
        return {"keep": int(16 * (1 - params["ratio"]))}

    def reshape(self, model: nn.Module, plan: Plan) -> nn.Module:
        first, last, keep = model.get_submodule("0"), model.get_submodule("2"), plan["keep"]
        assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
        first.weight = nn.Parameter(first.weight[:keep].detach().clone())
        first.bias = nn.Parameter(first.bias[:keep].detach().clone())
        last.weight = nn.Parameter(last.weight[:, :keep].detach().clone())
        return model


class Zero(Loss):
    """Pulls the outputs to zero."""

    def forward(self, inputs: Any, outputs: torch.Tensor, targets: Any) -> torch.Tensor:
        return outputs.square().mean()


class Distill(Method):
    name = "distill"
    technique = Technique.DISTILLATION

    def loss(self, plan: Plan, task: Task) -> Loss:
        return Zero()


class Halve(Method):
    """Stores what there is in half precision, or only says so."""

    name = "halve"
    technique = Technique.QUANTIZATION
    gives = frozenset({Trait.HALF})

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        return {"really": Choice((True, False), default=True)}

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        return self.restore(model, plan, target)

    def restore(self, model: nn.Module, plan: Plan, target: Target) -> nn.Module:
        if plan["really"]:
            model.half().register_forward_pre_hook(lambda _, inputs: tuple(tensor.half() for tensor in inputs))
        return model


class Export(Method):
    """Cannot work with half precision."""

    name = "export"
    technique = Technique.ACCELERATION
    refuses = frozenset({Trait.HALF})


class Break(Method):
    """Changes what the model computes, and calls that finalizing."""

    name = "break"
    technique = Technique.ACCELERATION
    max_output_error = 0.1

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        return nn.Sequential(model, nn.ReLU())

    def skipped(self, model: nn.Module, plan: Plan) -> Mapping[str, str]:
        return {"0": "it is whole"}


REGISTRY = Registry((Plugin("mine", "acme", "1.0", (Halve(), Distill(), Narrow(), Export(), Break())),))
ONE_EPOCH = Recovery(epochs=1, learning_rate=0.01, batch_size=16)


def recipe(*steps: str, recovery: Recovery | None = None, **params: Any) -> Recipe:
    """Steps by name; the parameters are the first one's."""
    made = [Step(method=name, params=params if index == 0 else {}) for index, name in enumerate(steps)]
    return Recipe(steps=tuple(made), recovery=recovery or Recovery())


def carry_out(recipe: Recipe, task: Task, on_step: Callable[[str], None] = lambda method: None) -> Compressed:
    resolved = resolve(recipe, REGISTRY, task)
    return compress(task, resolved, registry=REGISTRY, target=CPU, on_step=on_step)


def test_defaults_are_filled_in(task: Task) -> None:
    resolved = resolve(recipe("narrow", "halve", ratio=0.25, recovery=ONE_EPOCH), REGISTRY, task)
    assert [step.params for step in resolved.steps] == [{"ratio": 0.25, "norm": "l1"}, {"really": True}]
    assert resolved.recovery == ONE_EPOCH
    assert resolve(resolved, REGISTRY, task) == resolved


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (recipe("narow"), "unknown method 'narow'; did you mean 'narrow'?"),
        (recipe("narrow", ration=0.5), "method 'narrow' has no parameter 'ration'; did you mean 'ratio'?"),
        (recipe("distill", ratio=0.5), "method 'distill' has no parameter 'ratio'$"),
        (recipe("narrow", ratio=2.0), "parameter 'ratio' of method 'narrow' must lie in 0.0..0.75, but got 2.0"),
        (
            recipe("narrow", norm="l3"),
            r"parameter 'norm' of method 'narrow' must be one of \['l1', 'l2'\], but got 'l3'",
        ),
        (
            recipe("halve", "narrow"),
            r"in the order of their techniques, but 'narrow' \(pruning\) comes after 'halve' \(quantization\)",
        ),
        (recipe("narrow", "narrow"), "a recipe has each method once, but got 'narrow' twice"),
        (
            recipe("halve", "export"),
            "'export' cannot follow 'halve', which leaves half precision: use one of the two",
        ),
    ],
)
def test_a_wrong_recipe_is_refused(wrong: Recipe, message: str, task: Task) -> None:
    with pytest.raises(InvalidInput, match=message):
        resolve(wrong, REGISTRY, task)


def test_fill_checks_what_is_given_and_keeps_the_order_of_the_space(task: Task) -> None:
    filled = fill("narrow", Narrow().search_space(task), {"norm": "l2"})
    assert list(filled.items()) == [("ratio", 0.5), ("norm", "l2")]


def test_a_recipe_is_carried_out_in_order(task: Task, capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []
    compressed = carry_out(recipe("narrow", "halve", recovery=ONE_EPOCH), task, heard.append)
    assert {name: tuple(tensor.shape) for name, tensor in leaves(compressed.model).items()} == {
        "0.weight": (8, 8), "0.bias": (8,), "2.weight": (3, 8), "2.bias": (3,),
    }  # fmt: skip
    assert {tensor.dtype for tensor in leaves(compressed.model).values()} == {torch.float16}
    assert [(step.method.name, step.plan) for step in compressed.steps] == [
        ("narrow", {"keep": 8}),
        ("halve", {"really": True}),
    ]
    assert list(dict.fromkeys(heard)) == ["narrow", "halve", ""]
    assert heard[-1] == ""
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["narrow (reshape)", "epoch 1/1", "halve (finalize)"]
    assert lines[0] == ("narrow (reshape): 3 modules and tensors changed, 96 parameters removed, 780 -> 396 bytes")
    narrowed, halved = compressed.changes
    assert (narrowed.output_error, halved.dtypes) == (None, {"float16": 4})
    assert halved.output_error is not None and 0 < halved.output_error < 0.01


def test_other_outputs_after_finalizing_fail_the_step(task: Task) -> None:
    with pytest.raises(OutputsDiffer, match="break must not change the outputs by more than 0.1 of their RMS"):
        carry_out(recipe("break"), task)


def test_the_empty_recipe_gives_the_model_itself(task: Task) -> None:
    torch.testing.assert_close(
        carry_out(Recipe(), task).model.state_dict(), task.trained_model().state_dict(), rtol=0, atol=0
    )


def test_the_plans_rebuild_it(task: Task) -> None:
    compressed = carry_out(recipe("narrow", "halve", recovery=ONE_EPOCH), task)
    again = rebuild(task.trained_model(), compressed.steps, CPU)
    load_leaves(again, leaves(compressed.model))
    batch = task.inputs(4).half()
    torch.testing.assert_close(again(batch), compressed.model(batch), rtol=0, atol=0)


def test_a_methods_loss_takes_the_place_of_the_tasks_own(task: Task) -> None:
    def size(*steps: str) -> float:
        model = carry_out(recipe(*steps, recovery=Recovery(epochs=5, learning_rate=0.02, batch_size=16)), task).model
        outputs: torch.Tensor = model(task.inputs(32))
        return outputs.abs().mean().item()

    assert size("distill") < 0.5 * size()


@pytest.mark.parametrize(
    ("idle", "message"),
    [
        (recipe("narrow", ratio=0.0), "narrow changed nothing of the model"),
        (recipe("distill"), "acts while training, but the recipe's recovery has 0 epochs"),
        (recipe("halve", really=False), "halve changed nothing of the model"),
        (recipe("distill", "halve"), "acts while training"),
        (recipe("narrow", "halve", ratio=0.0), "narrow changed nothing of the model"),
        (recipe("narrow", ratio=0.0, recovery=ONE_EPOCH), "narrow changed nothing of the model"),
    ],
)
def test_a_step_without_effect_is_told(idle: Recipe, message: str, task: Task) -> None:
    with pytest.raises(NoEffect, match=message):
        carry_out(idle, task)


def test_a_step_that_is_there_for_bytes_saves_more_than_its_plan_takes(task: Task) -> None:
    class Wordy(Narrow):
        technique = Technique.FACTORIZATION

        def decide(self, model: nn.Module, params: Mapping[str, Any], task: Task) -> Plan:
            return super().decide(model, params, task) | {"names": ["a channel that stays"] * 16}

    wordy = Registry((Plugin("mine", "acme", "1.0", (Wordy(),)),))
    with pytest.raises(NoEffect, match="narrow is there to save bytes, but saves 387 of the weights and takes 500 in"):
        compress(task, resolve(recipe("narrow"), wordy, task), registry=wordy, target=CPU)


def test_a_failing_method_is_known_by_name(task: Task) -> None:
    class Fails(Halve):
        name = "fails"

        def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
            raise RuntimeError("no kernel")

    heard: list[str] = []
    registry = Registry((Plugin("mine", "acme", "1.0", (Fails(), Narrow())),))
    resolved = resolve(recipe("narrow", "fails"), registry, task)
    with pytest.raises(RuntimeError, match="no kernel"):
        compress(task, resolved, registry=registry, target=CPU, on_step=heard.append)
    assert heard[-1] == "fails"


def test_a_failing_training_is_no_methods_fault(task: Task) -> None:
    def broken(outputs: Any, targets: Any) -> torch.Tensor:
        raise RuntimeError("no loss")

    heard: list[str] = []
    with pytest.raises(RuntimeError, match="no loss"):
        carry_out(recipe("narrow", "halve", recovery=ONE_EPOCH), replace(task, loss=broken), heard.append)
    assert heard[-1] == ""


@pytest.mark.parametrize("name", ["int8_qat", "binary_weights", "ternary_weights", "onnx_int8_qat"])
def test_what_is_rounded_while_it_trains_ships_more_than_once(name: str) -> None:
    """Screening finalizes a copy of what is then trained."""
    task = images()
    recipe = resolve(Recipe(steps=(Step(method=name),), recovery=Recovery(epochs=1)), registry(), task)
    trained = train_recipe(task, recipe, registry=registry(), target=Target("cpu"))
    before = outputs(trained.model, task.inputs(8))
    copied = outputs(finalize(trained, Target("cpu"), keep=True).model, task.inputs(8))
    assert output_error(outputs(trained.model, task.inputs(8)), before) == 0
    assert output_error(outputs(finalize(trained, Target("cpu")).model, task.inputs(8)), copied) == 0
