"""Distillation: the uncompressed model, or teachers of the user's, teach the compressed one while that recovers."""

from __future__ import annotations

from collections.abc import Iterable

from autocompress import Method, hookimpl
from autocompress_distillation.attention_transfer import AttentionTransfer
from autocompress_distillation.decoupled_kd import DecoupledKD
from autocompress_distillation.feature_similarity import FeatureSimilarity
from autocompress_distillation.hard_labels import HardLabels
from autocompress_distillation.logit_standardization import LogitStandardization
from autocompress_distillation.output_matching import OutputMatching
from autocompress_distillation.own_student import OwnStudent
from autocompress_distillation.ranking_distillation import RankingDistillation
from autocompress_distillation.soft_labels import SoftLabels

METHODS = (
    SoftLabels, HardLabels, DecoupledKD, LogitStandardization, RankingDistillation, OutputMatching,
    FeatureSimilarity, AttentionTransfer, OwnStudent,
)  # fmt: skip

__all__ = [
    "AttentionTransfer",
    "DecoupledKD",
    "FeatureSimilarity",
    "HardLabels",
    "LogitStandardization",
    "OutputMatching",
    "OwnStudent",
    "RankingDistillation",
    "SoftLabels",
]


@hookimpl
def autocompress_methods() -> Iterable[Method]:
    return [method() for method in METHODS]
