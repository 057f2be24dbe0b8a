"""A plugin whose method fails in the way its parameter says; tests install it as a distribution."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from autocompress import Choice, Integer, Method, Parameter, Plan, Target, Task, Technique, hookimpl

FAULTS = ("none", "pause", "raise", "nan", "kill", "hang", "exit", "nothing")


class NaN(nn.Module):
    """Gives outputs that are no numbers."""

    def forward(self, x: Any) -> Any:
        return x * float("nan")


class Faulty(Method):
    """Adds an identity module, or fails while it should."""

    name = "faulty"
    technique = Technique.ACCELERATION

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        return {"fault": Choice(FAULTS, "none"), "n": Integer(0, 1000, 0)}

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        print("process", os.getpid())
        match plan["fault"]:
            case "raise":
                raise RuntimeError("broken on purpose\nwith a second line")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                raise SystemExit(3)
            case "pause":
                time.sleep(0.3)
            case "hang":
                time.sleep(600)
            case "nothing":
                return model
        return self.restore(model, plan, target)

    def restore(self, model: nn.Module, plan: Plan, target: Target) -> nn.Module:
        model.add_module("extra", NaN() if plan["fault"] == "nan" else nn.Identity())
        return model


@hookimpl
def autocompress_methods() -> Iterable[Method]:
    return [Faulty()]
