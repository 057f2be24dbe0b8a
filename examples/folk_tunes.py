"""Compress a character LSTM that writes Irish folk tunes in ABC notation.

    autocompress search examples/folk_tunes.py:task --space rnn --limit 'bits_per_char_drop <= 0.05' \\
        --limit 'size <= 33% of baseline' --hours 0.3

Needs no GPU. AUTOCOMPRESS_DATA names the folder that holds music21's wheel, inside which O'Neill's tunes are read:
pip download --no-deps -d FOLDER music21==10.5.1. The baseline is trained in about a minute.
"""

from __future__ import annotations

import math
import re
import zipfile
from pathlib import Path

import torch
from baseline import data_folder, member, split, trained_weights, wheel_of
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

import autocompress

LENGTH, CHARACTERS = 64, 96
"""Printable ASCII and the newline."""


class TuneLSTM(nn.Module):
    """Characters (B, T) to the next one's logits (B, T, 96)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CHARACTERS, 32)
        self.rnn = nn.LSTM(32, 128, num_layers=2, batch_first=True)
        self.head = nn.Linear(128, CHARACTERS)

    def forward(self, characters: Tensor) -> Tensor:
        logits: Tensor = self.head(self.rnn(self.embedding(characters))[0])
        return logits


def tunes(wheel: Path) -> TensorDataset:
    """Characters (N, 64) and the ones after them (N, 64), of the notes and keys without titles and comments."""
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(n for n in archive.namelist() if re.search(r"oneills1850/.*\.abc$", n))
    lines = [line for name in names for line in member(wheel, name).splitlines()]
    text = "\n".join(line for line in lines if line and not re.match(r"[A-JN-Z]:|%", line))
    codes = torch.tensor([ord(c) - 31 if " " <= c <= "~" else 0 for c in text])
    count = (len(codes) - 1) // LENGTH
    return TensorDataset(codes[: count * LENGTH].view(count, LENGTH), codes[1 : count * LENGTH + 1].view(count, LENGTH))


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def bits_per_char(outputs: Tensor, targets: Tensor) -> float:
    return loss(outputs, targets).item() / math.log(2)


def task() -> autocompress.Task:
    folder = data_folder()
    rest, test = split(tunes(wheel_of("music21", "10.5.1", folder)), 600)
    train, validation = split(rest, 600)
    weights = trained_weights(
        folder / "folk_tunes.safetensors", TuneLSTM, train, loss, epochs=10, learning_rate=1e-2, batch_size=64
    )
    return autocompress.Task(
        model=TuneLSTM,
        weights=weights,
        train=train,
        validation=validation,
        test=test,
        loss=loss,
        metrics=(autocompress.Metric("bits_per_char", bits_per_char, higher_is_better=False),),
        name="folk_tunes",
    )
