"""Searched, measured, saved: compression of trained PyTorch models."""

from autocompress.artifact import Artifact, load
from autocompress.bench import bench
from autocompress.budget import Budget
from autocompress.errors import AutocompressError
from autocompress.hookspecs import hookimpl
from autocompress.measure.device import Target
from autocompress.method import Loss, Method, NotApplicable, NotForTarget, Plan, Runtime, Schedule, Technique, Trait
from autocompress.metric import Metric
from autocompress.parameters import Choice, Float, Integer, Parameter
from autocompress.recipe import Recipe, Recovery, Step
from autocompress.run import Run
from autocompress.search import search
from autocompress.space import SearchSpace
from autocompress.task import Task

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "AutocompressError",
    "Budget",
    "Choice",
    "Float",
    "Integer",
    "Loss",
    "Method",
    "Metric",
    "NotApplicable",
    "NotForTarget",
    "Parameter",
    "Plan",
    "Recipe",
    "Recovery",
    "Run",
    "Runtime",
    "Schedule",
    "SearchSpace",
    "Step",
    "Target",
    "Task",
    "Technique",
    "Trait",
    "bench",
    "hookimpl",
    "load",
    "search",
]
