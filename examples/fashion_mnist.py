"""Compress a CNN that tells clothes apart: Fashion-MNIST, 390,000 parameters.

    python examples/fashion_mnist.py
    autocompress search examples/fashion_mnist.py:task --space cnn --hours 0.45    # the same from the command line

Needs no GPU. The first call downloads 31 MB into ~/.cache/autocompress and trains the CNN there, about a minute an
epoch on one CPU core; the search then takes half an hour, or what --hours says. With --data, or AUTOCOMPRESS_DATA in
the environment, it uses the folder that holds `FashionMNIST/raw` instead. That folder must be writable: torchvision
unpacks its files where they lie, and the weights go beside them.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset
from torchvision.datasets import FashionMNIST  # type: ignore[import-untyped]

import autocompress
from autocompress.data import batches
from autocompress.report import print_result

EPOCHS = 6
VALIDATION_SAMPLES = 5_000


class FashionCNN(nn.Module):
    """Three convolutions and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(*block(1, 32), *block(32, 64), *block(64, 128))
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(128 * 3 * 3, 256), nn.ReLU(), nn.Linear(256, 10))

    def forward(self, images: Tensor) -> Tensor:  # (B, 1, 28, 28) -> (B, 10)
        features = self.features(images)  # (B, 128, 3, 3)
        logits: Tensor = self.classifier(features)
        return logits


def block(inputs: int, outputs: int) -> list[nn.Module]:
    """Convolve and halve: (B, inputs, H, W) -> (B, outputs, H // 2, W // 2)."""
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]


def default_folder() -> Path:
    """Where data and weights lie when nobody says otherwise."""
    return Path(os.environ.get("AUTOCOMPRESS_DATA", Path.home() / ".cache" / "autocompress")).resolve()


def images(folder: Path, train: bool) -> TensorDataset:
    """One of torchvision's two parts as tensors: normalized images (N, 1, 28, 28) and classes (N,)."""
    try:
        data = FashionMNIST(folder, train=train, download=True)
    except (OSError, RuntimeError) as error:
        # torchvision downloads again what is packed otherwise than its own files.
        advice = "be writable and hold FashionMNIST/raw, unpacked by gunzip where there is no network"
        raise RuntimeError(f"{str(folder)!r} must {advice}, but: {error}") from error
    pixels = data.data.unsqueeze(1).float() / 255
    return TensorDataset((pixels - 0.286) / 0.353, data.targets)


def splits(folder: Path) -> tuple[TensorDataset, TensorDataset, TensorDataset]:
    """Train, validation and test; validation is taken out of torchvision's training part, the same each time."""
    everything = images(folder, train=True)
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))
    validation, train = order[:VALIDATION_SAMPLES], order[VALIDATION_SAMPLES:]
    return TensorDataset(*everything[train]), TensorDataset(*everything[validation]), images(folder, train=False)


def accuracy(model: nn.Module, data: TensorDataset) -> float:
    """Share of samples whose largest logit is their class: 0-1."""
    model.eval()
    with torch.no_grad():
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in batches(data, 500))
    return right / len(data)


def train_model(data: TensorDataset, validation: TensorDataset) -> FashionCNN:
    """The baseline: AdamW under a one-cycle schedule."""
    torch.manual_seed(0)
    model = FashionCNN()
    loaders = [batches(data, 128, shuffle=True, seed=epoch) for epoch in range(EPOCHS)]
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=sum(map(len, loaders)) + 1)
    for epoch, loader in enumerate(loaders, start=1):
        model.train()
        for inputs, targets in loader:
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch}/{EPOCHS}: validation accuracy {accuracy(model, validation):.4f}", file=sys.stderr)
    return model


def trained_weights(folder: Path, train: TensorDataset, validation: TensorDataset, test: TensorDataset) -> Path:
    """The baseline's weights, trained if their file is not there yet."""
    file = folder / "fashion_cnn.safetensors"
    if not file.exists():
        model = train_model(train, validation)
        print(f"trained: test accuracy {accuracy(model, test):.4f}", file=sys.stderr)
        save_file(model.state_dict(), file)
    return file


def task(folder: Path | None = None) -> autocompress.Task:
    """What a search needs to know."""
    folder = folder or default_folder()
    train, validation, test = splits(folder)
    return autocompress.Task(
        model=FashionCNN,
        weights=trained_weights(folder, train, validation, test),
        train=train,
        validation=validation,
        test=test,
        name="fashion_mnist",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=default_folder(), help="the folder of data and weights")
    parser.add_argument("--hours", type=float, default=0.45, help="wall time of the search")
    arguments = parser.parse_args()
    run = autocompress.search(
        task(arguments.data),
        space="cnn",
        limits=["accuracy_drop <= 1%", "size <= 25% of baseline"],
        budget=autocompress.Budget(trials=None, hours=arguments.hours),
    )
    print_result(run)


if __name__ == "__main__":
    main()
