"""Distillation into a model of the user's own."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from autocompress import Choice, Loss, Method, NotApplicable, Parameter, Plan, Target, Task, Technique, Trait
from autocompress.effect import structure
from autocompress_distillation.logits import TEMPERATURE, WEIGHT
from autocompress_distillation.output_matching import OutputLoss
from autocompress_distillation.outputs import Lesson
from autocompress_distillation.soft_labels import SoftLabelLoss


class OwnStudent(Method):
    """Trains one of the task's own students in place of the trained model: by soft labels, or else by its outputs.

    For whoever has a smaller architecture that suits the target better than the trained model made smaller. A student
    with fresh weights needs many more epochs than a pruned model. Hinton et al. 2015, "Distilling the Knowledge in a
    Neural Network"; outputs as in Ba & Caruana 2014, "Do Deep Nets Really Need to be Deep?".
    """

    name = "own_student"
    technique = Technique.DISTILLATION
    refuses = frozenset(Trait)  # what earlier steps made of the trained model would be thrown away

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """`student`: its name; `weight`: of the distance from the teacher; `temperature`: where outputs are logits.

        Raises NotApplicable when the task has no students.
        """
        names = _students(task)
        space: dict[str, Parameter] = {"student": Choice(names, names[0]), "weight": WEIGHT}
        return space | ({"temperature": TEMPERATURE} if Lesson.of(task).logits() else {})

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable without students, or when a student or teacher gives other outputs than the model."""
        names, lesson, trained = _students(task), Lesson.of(task), task.trained_model()
        paths = lesson.check_outputs(self.name)
        for name in names:
            student = task.source(name)
            # Strides and the like are in the words only, shapes of parameters in the structure only.
            if structure(student) == structure(trained) and str(student) == str(trained):
                raise NotApplicable(f"{self.name} needs other models than the trained one, but {name!r} is the same")
            lesson.check_like(student, paths, f"{self.name} needs of student {name!r}")
        lesson.check_teachers(task, self.name, paths)

    def student(self, plan: Plan, task: Task) -> nn.Module:
        return task.source(plan["student"])

    def loss(self, plan: Plan, task: Task) -> Loss:
        if "temperature" in plan:
            return SoftLabelLoss(task, plan["weight"], plan["temperature"])
        return OutputLoss(task, plan["weight"])


def _students(task: Task) -> tuple[str, ...]:
    if not task.students:
        raise NotApplicable("own_student trains a model of your own, but the task has no `students`")
    return tuple(task.students)
