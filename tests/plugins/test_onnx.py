from __future__ import annotations

import gc
import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from autocompress_acceleration import OnnxRuntime
from autocompress_acceleration.export import TRIED, Traceable
from autocompress_acceleration.onnx_export import to_onnx
from autocompress_acceleration.onnx_model import OnnxModel
from autocompress_quantization import OnnxInt8Dynamic, OnnxInt8Static
from autocompress_quantization.onnx_int8 import int8_weights
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autocompress import Method, NotApplicable, Target, Task
from autocompress.effect import output_error, outputs
from autocompress.tensors import call
from autocompress.testing_families import char_lstm, dict_inputs, variable_length
from autocompress.testing_tasks import features, images

CPU = Target("cpu")


def make_task(model: nn.Module, inputs: Tensor, **others: Any) -> Task:
    data = TensorDataset(inputs, torch.zeros(len(inputs), dtype=torch.long))
    return Task(model=model.eval(), train=data, validation=data, test=data, **others)


def exported(task: Task, target: Target = CPU) -> nn.Module:
    return OnnxRuntime().finalize(task.trained_model(), {}, task, target)


def error(model: nn.Module, task: Task, batch_size: int) -> float:
    inputs = task.inputs(batch_size)
    return output_error(outputs(model, inputs), outputs(task.trained_model(), inputs))


def graph_of(model: nn.Module) -> Any:
    assert isinstance(model, OnnxModel)
    return onnx.load_from_string(model.file.numpy().tobytes())


def test_any_batch_size_gives_the_models_outputs() -> None:
    model = exported(images())
    assert max(error(model, images(), samples) for samples in (1, 3, 4, 65)) < 1e-5


def test_the_file_is_hardly_larger_than_the_weights(tmp_path: Path) -> None:
    model = exported(images())
    assert isinstance(model, OnnxModel)
    assert model.save(tmp_path) == ["model.onnx", "interface.json"]
    weights = sum(tensor.numel() * tensor.element_size() for tensor in images().trained_model().state_dict().values())
    assert (tmp_path / "model.onnx").stat().st_size < 1.1 * weights
    loaded, inputs = OnnxRuntime().load(tmp_path, {}, CPU), images().inputs(8)
    torch.testing.assert_close(loaded(inputs), model(inputs), rtol=0, atol=0)


def test_inputs_and_outputs_by_name() -> None:
    model, inputs = exported(dict_inputs()), dict_inputs().inputs(5)
    expected = call(dict_inputs().trained_model(), inputs)["logits"]
    torch.testing.assert_close(model(**dict(reversed(inputs.items())))["logits"], expected)
    assert model(**inputs).logits.shape == (5, 4)
    with pytest.raises(TypeError, match="exported for inputs like .*'image'.* but got .*'features'"):
        model(features=inputs["features"])
    with pytest.raises(TypeError, match="all positional or all by name"):
        model(inputs["image"], features=inputs["features"])


def test_packed_sequences_of_any_length() -> None:
    model = exported(variable_length())
    with torch.no_grad():
        for length in (4, 6, 9):
            inputs = torch.randn(3, length, 6), torch.tensor([length, 2, length - 1])
            torch.testing.assert_close(model(*inputs), variable_length().trained_model()(*inputs), atol=1e-5, rtol=1e-4)


class MeanOfTokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 8), nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embedding(tokens).mean(dim=1))
        return logits


def cut(samples: list[Any]) -> Any:
    """A batch is as long as its first token says."""
    length = 3 + int(samples[0][0][0]) % 4
    return torch.stack([tokens[:length] for tokens, _ in samples]), torch.stack([target for _, target in samples])


def test_a_dimension_is_free_where_the_data_varies_it() -> None:
    tokens = torch.randint(9, (32, 6), generator=torch.Generator().manual_seed(0))
    task = make_task(MeanOfTokens(), tokens, collate=cut)
    assert Traceable.of(task.trained_model(), task).dynamic == (frozenset({0, 1}),)
    model, longer = exported(task), torch.randint(9, (2, 40))
    torch.testing.assert_close(model(longer), task.trained_model()(longer).detach(), atol=1e-5, rtol=1e-4)
    assert Traceable.of(images().trained_model(), images()).dynamic == (frozenset({0}),)


def test_the_target_says_how_many_threads() -> None:
    model = exported(features(), Target("cpu", threads=2))
    assert isinstance(model, OnnxModel)
    options = model._session.get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(4, 4)


class Opaque(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x, iter(())


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Opaque(), "tensors in tuples, lists and dicts, but hold a tuple_iterator"),
        (Fixed(), "any size of dimension 0 of input 'tensors_0', but its code fixes it to 4"),
    ],
)
def test_what_cannot_be_exported_is_told_before_the_search(model: nn.Module, reason: str) -> None:
    task = make_task(model, torch.randn(8, 4))
    for method in (OnnxRuntime(), OnnxInt8Static()):
        with pytest.raises(NotApplicable, match=reason):
            method.check(task, CPU)


def test_what_was_tried_is_kept_as_long_as_its_task() -> None:
    calls: list[str] = []

    def refuse(task: Task) -> None:
        calls.append(task.name)
        raise NotApplicable("for a reason")

    task = make_task(Fixed(), torch.randn(8, 4), name="first")
    for _ in range(2):
        with pytest.raises(NotApplicable, match="for a reason"):
            TRIED.get(refuse, task)
    assert calls == ["first"]
    key = id(task)
    assert key in TRIED._made
    del task
    gc.collect()
    assert key not in TRIED._made


def test_exporting_and_quantizing_leave_streams_logs_and_settings_alone(capfd: pytest.CaptureFixture[str]) -> None:
    handlers, disabled = list(logging.root.handlers), logging.root.manager.disable
    fastpath = torch.backends.mha.get_fastpath_enabled()
    method = OnnxInt8Static()
    plan = {"calibration": "percentile", "samples": 32}
    method.finalize(variable_length().trained_model(), plan, variable_length(), CPU)
    printed = capfd.readouterr()
    assert printed.out == "onnx_int8_static: 1 weights are int8\n" and printed.err == ""
    assert (logging.root.handlers, logging.root.manager.disable) == (handlers, disabled)
    assert torch.backends.mha.get_fastpath_enabled() == fastpath


@pytest.mark.parametrize("calibration", ["minmax", "entropy", "percentile"])
def test_static_int8_stores_every_weight_in_a_byte(calibration: str) -> None:
    method, task = OnnxInt8Static(), images()
    plan = method.decide(task.trained_model(), {"calibration": calibration, "samples": 100}, task)
    model = method.finalize(task.trained_model(), plan, task, CPU)
    assert len(int8_weights(graph_of(model))) == 3  # two convolutions and the head
    assert 0 < error(model, task, 32) < 0.05
    assert method.skipped(model, plan) == {}


def test_static_int8_has_a_scale_for_each_channel() -> None:
    method = OnnxInt8Static()
    plan = {"calibration": "minmax", "samples": 64}
    graph = graph_of(method.finalize(images().trained_model(), plan, images(), CPU))
    sizes = [len(tensor.float_data) or len(tensor.raw_data) // 4 for tensor in graph.graph.initializer
             if "weight" in tensor.name and tensor.name.endswith("scale")]  # fmt: skip
    assert 16 in sizes and 24 in sizes


@pytest.mark.parametrize("calibration", ["minmax", "entropy", "percentile"])
def test_static_int8_on_data_whose_batches_differ_in_length(calibration: str) -> None:
    """Means over short batches lie in a wider range than those over long ones: all are calibrated on."""
    tokens = torch.randint(9, (256, 6), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    task = make_task(MeanOfTokens(), tokens, collate=cut)
    model = OnnxInt8Static().finalize(task.trained_model(), {"calibration": calibration, "samples": 256}, task, CPU)
    assert len(int8_weights(graph_of(model))) == 2
    assert max(error(model, task, samples) for samples in (1, 3, 16, 32)) < (0.3 if calibration == "entropy" else 0.05)


def test_dynamic_int8_of_an_lstm() -> None:
    method, task = OnnxInt8Dynamic(), char_lstm()
    model = method.finalize(task.trained_model(), {}, task, CPU)
    kinds = Counter(node.op_type for node in graph_of(model).graph.node)
    assert kinds["DynamicQuantizeLSTM"] == 2 and kinds["LSTM"] == 0
    assert error(model, task, 32) < 0.05
    weights = sum(tensor.numel() * 4 for tensor in task.trained_model().parameters())
    assert len(graph_of(model).SerializeToString()) < 0.45 * weights


def test_what_stays_in_floating_point_is_told() -> None:
    method = OnnxInt8Dynamic()
    model = method.finalize(variable_length().trained_model(), {}, variable_length(), CPU)
    assert list(method.skipped(model, {}).values()) == ["ONNX Runtime has no int8 GRU"]


def test_a_model_without_layers_for_int8_is_not_applicable() -> None:
    model = variable_length().trained_model()
    model.head = nn.Identity()
    task = replace(variable_length(), model=model)
    for method in (OnnxInt8Static(), OnnxInt8Dynamic()):
        with pytest.raises(NotApplicable, match=f"{method.name} quantizes the weights of .* has weights only in GRU"):
            method.check(task, CPU)


def test_the_graph_keeps_no_notes_of_the_exporter() -> None:
    graph, _ = to_onnx(features().trained_model(), features())
    assert not any(node.metadata_props or node.doc_string for node in graph.graph.node)
    assert [node.name for node in graph.graph.input] == ["input_0"]
    assert [node.name for node in graph.graph.output] == ["output_0"]


@pytest.mark.parametrize("method", [OnnxInt8Static(), OnnxInt8Dynamic()], ids=lambda method: method.name)
def test_a_head_that_shares_the_embeddings_table(method: Method) -> None:
    """Rows have a scale each where they are looked up, and where they are multiplied."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(30, 16), nn.Linear(16, 30)
            self.head.weight = self.embedding.weight

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.embedding(x).mean(dim=1))
            return logits

    torch.manual_seed(0)
    task = make_task(Tied().eval(), torch.randint(30, (64, 7)))
    method.check(task, CPU)
    plan = method.decide(task.trained_model(), {"calibration": "minmax", "samples": 32}, task)
    model = method.finalize(task.trained_model(), plan, task, CPU)
    assert len(int8_weights(graph_of(model))) == 2
    assert 0 < error(model, task, 32) < 0.05
