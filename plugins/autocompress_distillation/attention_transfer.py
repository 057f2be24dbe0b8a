"""Distillation of where a convolutional net looks."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from autocompress import NotApplicable, Target, Task
from autocompress_distillation.features import FeatureLoss, FeatureMethod


class AttentionTransfer(FeatureMethod):
    """Trains the spatial attention of a few layers towards the teacher's: the mean square of a map over its channels.

    Shape-free in the channels, so pruned layers need no adapter. For convolutional nets in which places matter; a patch
    embedding alone is not enough. Zagoruyko & Komodakis 2017, "Paying More Attention to Attention".
    """

    name = "attention_transfer"
    needed = "maps (B, channels, height, width) of two or more layers of a convolutional net"
    fewest_layers = 2
    usual_weight = 10.0

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable unless the model has convolutions, and maps from more than one layer."""
        if not any(isinstance(module, nn.Conv2d) for module in task.trained_model().modules()):
            raise NotApplicable(f"{self.name} compares {self.needed}, but the model has no Conv2d")
        super().check(task, target)

    def fits(self, feature: Tensor) -> bool:
        return feature.ndim == 4 and feature.shape[-2:].numel() > 1

    def feature_loss(self, task: Task, weight: float, layers: list[str]) -> FeatureLoss:
        return AttentionLoss(task, weight, layers)


class AttentionLoss(FeatureLoss):
    """The squared distance between attention maps of length 1, the mean over samples, as in the authors' code."""

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        if student.shape[-2:] != teacher.shape[-2:]:
            student = functional.adaptive_avg_pool2d(student, (teacher.shape[-2], teacher.shape[-1]))
        return (attention(student) - attention(teacher)).square().sum(dim=1).mean()


def attention(maps: Tensor) -> Tensor:
    """Maps (B, C, H, W) as attention (B, H * W) of length 1."""
    return functional.normalize(maps.square().mean(dim=1).flatten(1), dim=1)
