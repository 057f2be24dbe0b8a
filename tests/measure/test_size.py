"""Where the bytes of an artifact are."""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open

from autocompress import Recipe, Recovery, Step, Target, Task
from autocompress.artifact import shipped_bytes, write_model
from autocompress.compress import Compressed, compress, resolve
from autocompress.measure.size import HEADER, WHOLE_MODEL, Breakdown, layer_of, size_breakdown
from autocompress.plugins import registry
from autocompress.testing_families import bert, encoder
from autocompress.testing_tasks import images

CPU = Target("cpu")


@functools.cache
def _compressed(method: str | None, family: Callable[[], Task]) -> tuple[Compressed, Recipe]:
    task, steps = family(), (Step(method=method),) if method else ()
    recovery = Recovery(epochs=1 if method == "unstructured_magnitude" else 0)
    recipe = resolve(Recipe(steps=steps, recovery=recovery), registry(), task)
    return compress(task, recipe, registry=registry(), target=CPU), recipe


def saved(method: str | None, family: Callable[[], Task], folder: Path) -> Path:
    write_model(folder, *_compressed(method, family), CPU, registry())
    return folder


def by_dtype(breakdown: Breakdown) -> dict[str, int]:
    return breakdown.by(lambda part: part.dtype)


def by_layer(breakdown: Breakdown) -> dict[str, int]:
    return breakdown.by(lambda part: part.layer)


@pytest.mark.parametrize(
    ("method", "family"),
    [(None, images), ("unstructured_magnitude", images), ("low_bit_weights", encoder), ("int8_dynamic", bert),
     ("onnx_int8_static", images)],
)  # fmt: skip
def test_every_byte_that_ships_is_in_it_once(method: str | None, family: Callable[[], Task], tmp_path: Path) -> None:
    breakdown = size_breakdown(saved(method, family, tmp_path))
    assert breakdown.size_bytes == shipped_bytes(tmp_path)
    for key in ("by_file", "by_layer", "by_dtype"):
        assert sum(breakdown.plain()[key].values()) == shipped_bytes(tmp_path)
    assert all(part.size_bytes > 0 for part in breakdown.parts if part.layer == HEADER)
    assert breakdown.by(lambda part: part.file) == {
        name: (tmp_path / name).stat().st_size for name in {part.file for part in breakdown.parts}
    }
    assert json.loads(json.dumps(breakdown.plain())) == breakdown.plain()


def test_tensors_have_their_own_bytes(tmp_path: Path) -> None:
    breakdown = size_breakdown(saved(None, images, tmp_path))
    with safe_open(tmp_path / "weights.safetensors", "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors = {part.name: part for part in breakdown.parts if part.name}
    assert {name: part.size_bytes for name, part in tensors.items()} == {n: t.nbytes for n, t in stored.items()}
    assert all(part.dtype == str(stored[name].dtype).removeprefix("torch.") for name, part in tensors.items())
    own = {name: sum(t.nbytes for n, t in stored.items() if n.split(".")[0] == name) for name in "01348"}
    assert {name: size for name, size in by_layer(breakdown).items() if name != HEADER} == own


def test_packed_weights_count_as_packed(tmp_path: Path) -> None:
    breakdown = size_breakdown(saved("low_bit_weights", encoder, tmp_path))
    layer = "encoder.layers.0.linear1"
    parts = {part.name.removeprefix(f"{layer}."): part for part in breakdown.parts if part.layer == layer}
    assert parts["weight.codes"].size_bytes == 32 * 64 // 2  # 4 bits each
    assert parts["weight.codes"].dtype == "uint8"
    assert parts.keys() == {"weight.codes", "weight_steps", "bias"}
    assert "encoder.layers.1.self_attn" in by_layer(breakdown)


def test_sparse_weights_count_as_stored(tmp_path: Path) -> None:
    breakdown = size_breakdown(saved("unstructured_magnitude", images, tmp_path))
    dense = sum(parameter.numel() * 4 for parameter in images().trained_model().parameters())
    assert 0 < by_layer(breakdown)[WHOLE_MODEL] == by_dtype(breakdown)["uint8"] < 0.5 * dense


def test_initializers_of_onnx(tmp_path: Path) -> None:
    breakdown = size_breakdown(saved("onnx_int8_static", images, tmp_path))
    weights = [p.numel() for p in images().trained_model().parameters() if p.dim() > 1]
    names = 64 * len(weights) * 2  # at most, with zero points
    assert sum(weights) <= by_dtype(breakdown)["int8"] <= sum(weights) + names
    assert {"0", "3", "8"} <= by_layer(breakdown).keys()
    largest = max((part for part in breakdown.parts if part.name), key=lambda part: part.size_bytes)
    assert (largest.name, largest.layer) == ("model.3.weight_quantized", "3")
    assert math.isclose(largest.size_bytes, 24 * 16 * 9, rel_tol=0.02)


def test_without_onnx_its_file_counts_in_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved("onnx_int8_static", images, tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    breakdown = size_breakdown(folder)
    assert by_dtype(breakdown)[".onnx"] == (folder / "model.onnx").stat().st_size
    assert breakdown.size_bytes == shipped_bytes(folder)


def test_a_file_of_another_kind_counts_in_whole(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text('{"files": ["model.pt2"]}')
    (tmp_path / "model.pt2").write_bytes(bytes(1000))
    (tmp_path / "log.txt").write_text("it does not ship")
    assert by_dtype(size_breakdown(tmp_path)) == {".pt2": 1000, HEADER: 24}


@pytest.mark.parametrize(
    ("tensor", "layer"),
    [
        ("conv.weight", "conv"), ("block.1.conv.weight.codes", "block.1.conv"), ("fc.weight.scale", "fc"),
        ("layers.0.self_attn.in_proj_weight_steps", "layers.0.self_attn"), ("rnn.weight_hh_l0_reverse", "rnn"),
        ("1.num_batches_tracked", "1"), ("encoder.pos_embedding", "encoder"), ("class_token", WHOLE_MODEL),
        ("weight", WHOLE_MODEL),
    ],
)  # fmt: skip
def test_the_layer_of_a_tensor(tensor: str, layer: str) -> None:
    assert layer_of(tensor) == layer
