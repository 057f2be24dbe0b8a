"""Random answers of two models to the same questions."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

Case = tuple[Tensor, Tensor, Tensor]


def case(samples: int, classes: int, scale: float, noise: float, seed: int) -> Case:
    """The baseline's logits, the model's (samples, classes), and classes (samples,) that the baseline often knows."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (samples,), generator=generator)
    baseline = torch.randn(samples, classes, generator=generator) * scale
    baseline[torch.arange(samples), targets] += 2 * scale
    return baseline, baseline + noise * scale * torch.randn(samples, classes, generator=generator), targets


def cases(samples: int = 200, classes: int = 12) -> st.SearchStrategy[Case]:
    """Few samples and many, sure models and unsure ones, near the baseline and far from it.

    None is as sure as 1 - 1e-7: there torchmetrics rounds to 1, and scikit-learn clips.
    """
    return st.builds(
        case,
        st.integers(1, samples),
        st.integers(2, classes),
        st.sampled_from([0.01, 0.3, 1.0]),
        st.sampled_from([0.0, 0.1, 1.0]),
        st.integers(0, 10_000),
    )
