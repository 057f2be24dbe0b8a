"""Compress a bidirectional LSTM that tells nine speakers apart by a vowel: 270 short sequences of 12 channels.

    autocompress search examples/japanese_vowels.py:task --space rnn --limit 'accuracy_drop <= 1%' \\
        --limit 'size <= 25% of baseline' --limit 'latency <= 66% of baseline' --hours 0.2

Needs no GPU. The baseline is trained in seconds. AUTOCOMPRESS_DATA names the folder that holds
`japanese_vowels/JapaneseVowels_TRAIN.ts` and `..._TEST.ts` (the UEA & UCR archive's files).
"""

from __future__ import annotations

from pathlib import Path

import torch
from baseline import data_folder, split, trained_weights
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

import autocompress

LENGTH, CHANNELS, SPEAKERS = 29, 12, 9


class VowelLSTM(nn.Module):
    """Sequences (B, T, 12), padded with zeros, to logits (B, 9)."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(CHANNELS, 64, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * 64, SPEAKERS)

    def forward(self, x: Tensor) -> Tensor:
        spoken = (x.abs().sum(dim=2, keepdim=True) > 0).float()  # (B, T, 1)
        states = self.rnn(x)[0] * spoken
        logits: Tensor = self.head(states.sum(dim=1) / spoken.sum(dim=1))
        return logits


def sequences(file: Path) -> TensorDataset:
    """Sequences (N, 29, 12) and speakers (N,) of a `.ts` file."""
    lines = file.read_text().split("@data\n", 1)[1].splitlines()
    inputs, speakers = torch.zeros(len(lines), LENGTH, CHANNELS), []
    for row, line in enumerate(lines):
        *channels, speaker = line.split(":")
        values = torch.tensor([[float(value) for value in channel.split(",")] for channel in channels])  # (12, T)
        inputs[row, : values.shape[1]] = values.T
        speakers.append(int(speaker) - 1)
    return TensorDataset(inputs, torch.tensor(speakers))


def task() -> autocompress.Task:
    folder = data_folder()
    train, validation = split(sequences(folder / "japanese_vowels" / "JapaneseVowels_TRAIN.ts"), 70)
    weights = trained_weights(
        folder / "japanese_vowels.safetensors", VowelLSTM, train, functional.cross_entropy,
        epochs=40, learning_rate=5e-3, batch_size=16,
    )  # fmt: skip
    return autocompress.Task(
        model=VowelLSTM,
        weights=weights,
        train=train,
        validation=validation,
        test=sequences(folder / "japanese_vowels" / "JapaneseVowels_TEST.ts"),
        name="japanese_vowels",
    )
