"""How far outputs moved."""

from __future__ import annotations

import math

import torch

from autocompress.effect import output_error

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
