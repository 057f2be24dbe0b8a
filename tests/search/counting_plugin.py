"""A plugin whose methods say when a training begins and ends; tests install it as a distribution.

They write into the folder that COUNTING names. One training dies by SIGKILL halfway, the first time.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import nn

from autocompress import Integer, Method, Parameter, Plan, Schedule, Target, Task, Technique, hookimpl

DEADLY = 3
"""The `kind` whose first training kills its process."""


def folder() -> Path:
    return Path(os.environ["COUNTING"])


class Counted(Method):
    """Adds an identity module before the training; each kind is a prefix of its own."""

    name = "counted"
    technique = Technique.PRUNING

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        return {"kind": Integer(0, 7, 0)}

    def reshape(self, model: nn.Module, plan: Plan) -> nn.Module:
        model.add_module("counted", nn.Identity())
        return model

    def schedule(self, model: nn.Module, plan: Plan) -> Schedule:
        def tell(done: float) -> None:
            if done == 0:
                note("began", plan["kind"])
            elif done == 1:
                note("ended", plan["kind"])
            elif plan["kind"] == DEADLY and not (folder() / "killed").exists():
                (folder() / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)

        return tell


class Finish(Method):
    """Adds an identity module to what ships: a finalizer that costs nothing."""

    name = "finish"
    technique = Technique.ACCELERATION

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        return {"way": Integer(0, 99, 0)}

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        return self.restore(model, plan, target)

    def restore(self, model: nn.Module, plan: Plan, target: Target) -> nn.Module:
        model.add_module(f"finish{plan['way']}", nn.Identity())
        return model


def note(event: str, kind: int) -> None:
    """One append of one short line, which no other process tears."""
    with (folder() / event).open("a") as file:
        file.write(f"{kind}\n")


@hookimpl
def autocompress_methods() -> Iterable[Method]:
    return [Counted(), Finish()]
