"""How far outputs moved."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from autocompress.effect import output_error, outputs

MASKED = torch.tensor([1.0, -math.inf, 3.0])


def test_masked_scores_that_stay_masked_do_not_differ() -> None:
    assert output_error([MASKED], [MASKED.clone()]) == 0
    assert output_error([torch.tensor([1.0, -math.inf, 6.0])], [MASKED]) == 3 / math.sqrt(10)


def test_a_masked_score_that_comes_back_differs_without_end() -> None:
    assert output_error([torch.tensor([1.0, 2.0, 3.0])], [MASKED]) == math.inf
    assert output_error([MASKED], [torch.tensor([1.0, math.inf, 3.0])]) == math.inf


def test_nan_differs_from_every_number_and_not_from_nan() -> None:
    undefined = torch.tensor([1.0, math.nan, 3.0])
    numbers = torch.tensor([1.0, 2.0, 3.0])
    assert output_error([undefined], [numbers]) == output_error([numbers], [undefined]) == math.inf
    assert output_error([undefined], [undefined.clone()]) == 0


def test_classes_differ_by_their_share() -> None:
    class Decide(nn.Module):
        def forward(self, scores: Tensor) -> Tensor:
            return scores.argmax(dim=1)

    scores = torch.eye(4)
    expected = outputs(Decide(), scores)
    assert output_error(outputs(Decide(), scores[[0, 1, 2, 0]]), expected) == 0.25
    assert output_error(outputs(Decide(), scores), expected) == 0
