"""Compress a small digit classifier: train it, search, load the winner in another process. Needs no download.

    python examples/quickstart.py

The same search from the shell: autocompress search examples/quickstart.py:task --space quickstart --trials 12
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import autocompress
from autocompress.report import print_result

WEIGHTS = Path("runs") / "quickstart-baseline.safetensors"


class DigitCNN(nn.Module):
    """Images (B, 1, 8, 8) to logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.hidden = nn.Linear(64 * 4 * 4, 128)
        self.head = nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.features(images).flatten(1)  # (B, 1024)
        return torch.as_tensor(self.head(functional.relu(self.hidden(x))))


def splits() -> tuple[TensorDataset, TensorDataset, TensorDataset]:
    """Train (1,197), validation (300) and test (300), shuffled once."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    rows = torch.split(order, [len(order) - 600, 300, 300])
    train, validation, test = (TensorDataset(images[part], labels[part]) for part in rows)
    return train, validation, test


def train_baseline(data: TensorDataset) -> None:
    """A few seconds of training; the weights are kept, so that a second run continues the same search."""
    torch.manual_seed(0)
    model = DigitCNN()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(10):
        for images, labels in DataLoader(data, batch_size=64, shuffle=True):
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    WEIGHTS.parent.mkdir(exist_ok=True)
    save_file(model.state_dict(), WEIGHTS)


def task() -> autocompress.Task:
    train, validation, test = splits()
    if not WEIGHTS.exists():
        train_baseline(train)
    return autocompress.Task(
        model=DigitCNN, weights=WEIGHTS, train=train, validation=validation, test=test, name="quickstart"
    )


def accuracy_elsewhere(path: Path) -> float:
    """Test accuracy of a saved model in a process that has seen nothing of the search."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(test_accuracy, (path,))


def test_accuracy(path: Path) -> float:
    torch.set_num_threads(1)
    model = autocompress.load(path, DigitCNN)
    images, labels = splits()[2].tensors
    with torch.no_grad():
        return float((model(images).argmax(dim=1) == labels).float().mean())


def main() -> None:
    torch.set_num_threads(1)
    run = autocompress.search(
        task(),
        space="quickstart",
        limits=["accuracy_drop <= 1%", "speedup >= 1.1x"],
        budget=autocompress.Budget(trials=12, minutes_per_trial=2),
        latency_seconds=1,
    )
    print_result(run)
    best = run.best()
    print(f"Loaded in another process, it has test accuracy {accuracy_elsewhere(best.path):.4f}.")


if __name__ == "__main__":
    main()
