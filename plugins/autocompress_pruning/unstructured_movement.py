"""Unstructured pruning of the weights that training moves towards zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autocompress_pruning.gradual import GradualPruning, Masking


class MovementMasking(Masking):
    """Ranks weights by how far training wants to move them away from zero: -sum of gradient x weight over the steps.

    That is what SGD learns for a score that the mask is made of by a straight-through estimator; its learning rate is a
    common factor and changes no rank.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], sparsity: float, scope: str) -> None:
        super().__init__(parameters, sparsity, scope)
        self.scores = [torch.zeros_like(parameter) for parameter in parameters]

    @torch.no_grad()
    def __call__(self, done: float) -> None:
        for parameter, dense, score in zip(self.parameters, self.dense, self.scores, strict=True):
            if parameter.grad is not None:
                score.sub_(parameter.grad * dense)  # dense: the weights that the gradient was taken at
        super().__call__(done)

    def importance(self) -> list[Tensor]:
        return self.scores


class UnstructuredMovement(GradualPruning):
    """Sets the weights to zero that training moves towards zero, however large they were.

    Sanh et al. 2020, "Movement Pruning: Adaptive Sparsity by Fine-Tuning". Good for models that were trained on
    something else and are fine-tuned at high sparsity; with little training its scores are noise and
    `unstructured_magnitude` is better. No gain in speed.
    """

    name = "unstructured_movement"
    masking = MovementMasking
