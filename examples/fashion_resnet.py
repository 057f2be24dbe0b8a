"""Compress torchvision's ResNet-18, 11 million parameters, on Fashion-MNIST.

    autocompress search examples/fashion_resnet.py:task --space cnn_runtimes --limit 'accuracy_drop <= 1%' \\
        --limit 'size <= 10% of baseline' --limit 'latency <= 25% of baseline' --hours 0.5

Needs no GPU. The data are those of `fashion_mnist.py`, in the folder that AUTOCOMPRESS_DATA names; the baseline is
trained in most of an hour on one core.
"""

from __future__ import annotations

from baseline import data_folder, trained_weights
from fashion_mnist import splits
from torch import nn
from torch.nn import functional
from torchvision.models import resnet18  # type: ignore[import-untyped]

import autocompress


def gray_resnet() -> nn.Module:
    """ResNet-18 for images (B, 1, 28, 28) of ten classes."""
    model: nn.Module = resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    return model


def task() -> autocompress.Task:
    folder = data_folder()
    train, validation, test = splits(folder)
    weights = trained_weights(
        folder / "fashion_resnet.safetensors", gray_resnet, train, functional.cross_entropy,
        epochs=3, learning_rate=2e-3, batch_size=128,
    )  # fmt: skip
    return autocompress.Task(
        model=gray_resnet, weights=weights, train=train, validation=validation, test=test, name="fashion_resnet"
    )
