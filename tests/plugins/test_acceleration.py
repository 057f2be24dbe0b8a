from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from autocompress_acceleration import (
    AotInductor,
    BatchNormFolding,
    ChannelsLast,
    CudaGraphs,
    OnnxRuntime,
    ParallelBatches,
    TorchCompile,
)
from autocompress_acceleration.aot_model import AotModel
from autocompress_acceleration.batch_norm_folding import fold, foldable
from autocompress_acceleration.export import Traceable, quiet
from autocompress_quantization import Int8QAT, Pt2eInt8Static
from autocompress_quantization.pt2e_int8_static import quantize
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autocompress import Method, NotApplicable, Recipe, Step, Target, Task
from autocompress.artifact import load_model, write_model
from autocompress.compress import check_order, compress, resolve
from autocompress.effect import output_error, outputs
from autocompress.errors import ArtifactError, InvalidInput
from autocompress.leaves import leaves
from autocompress.method import NotForTarget
from autocompress.plugins import registry
from autocompress.testing_families import dict_inputs, lstm, residual, two_heads, variable_length
from autocompress.testing_tasks import features, images

CPU = Target("cpu")


def make_task(model: nn.Module, inputs: Tensor) -> Task:
    data = TensorDataset(inputs, torch.zeros(len(inputs), dtype=torch.long))
    return Task(model=model.eval(), train=data, validation=data, test=data)


def with_statistics(model: nn.Module) -> nn.Module:
    """Batch norms that do something."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.5, 2.0)
            for tensor in (module.bias, module.running_mean):
                assert tensor is not None
                nn.init.normal_(tensor)
    return model.eval()


def test_batch_norms_are_folded_exactly() -> None:
    task, method = residual(), BatchNormFolding()
    plan = method.decide(task.trained_model(), {}, task)
    assert ["3.conv2", "3.bn2"] in plan["pairs"] and len(plan["pairs"]) == 6
    folded = method.finalize(task.trained_model(), plan, task, CPU)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert not any("bn" in name for name in leaves(folded)) and "3.conv2.bias" in leaves(folded)
    inputs = task.inputs(32)
    assert output_error(outputs(folded, inputs), outputs(task.trained_model(), inputs)) < 1e-6


@pytest.mark.parametrize("packing", ["int8_weight_only", "low_bit_weights", "mixed_precision"])
def test_folded_weights_are_stored_in_few_bits(packing: str, tmp_path: Path) -> None:
    """The textbook's order; weights that are trained in few bits would be changed by folding after the training."""
    task = residual()
    recipe = resolve(Recipe(steps=(Step(method="batch_norm_folding"), Step(method=packing))), registry(), task)
    compressed = compress(task, recipe, registry=registry(), target=CPU)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in compressed.model.modules())
    assert "3.conv2.weight.codes" in compressed.tensors()
    write_model(tmp_path, compressed, recipe, CPU, registry())
    loaded = load_model(tmp_path, task.trained_model(), registry(), CPU)
    inputs = task.inputs(32)
    assert output_error(outputs(loaded, inputs), outputs(compressed.model, inputs)) == 0
    with pytest.raises(InvalidInput, match="'int8_qat' cannot follow 'batch_norm_folding', which leaves weights that"):
        check_order([BatchNormFolding(), Int8QAT()])
    with pytest.raises(InvalidInput, match="in the order of their techniques"):
        check_order([ChannelsLast(), registry().get(packing)])


@pytest.mark.parametrize(
    ("layers", "inputs"),
    [
        ([nn.Linear(6, 5), nn.BatchNorm1d(5)], torch.randn(7, 6)),
        ([nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6)], torch.randn(3, 4, 5, 5)),
        ([nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6, affine=False)], torch.randn(3, 4, 5)),
    ],
    ids=["linear", "transposed", "without scale"],
)
def test_other_layers_are_folded_too(layers: list[nn.Module], inputs: Tensor) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*layers)
    if layers[1].weight is not None:
        with_statistics(model)
    model.eval()
    with torch.no_grad():
        expected = model(inputs)
        assert foldable(model, inputs) == [["0", "1"]]
        torch.testing.assert_close(fold(model, [["0", "1"]])(inputs), expected, atol=1e-5, rtol=1e-4)


class ReadTwice(nn.Module):
    """The first convolution's outputs are read beside the norm too; the third one runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.second, self.second_norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.third, self.third_norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        x = self.second_norm(self.second(first + self.first_norm(first)))
        x = self.third_norm(self.third(self.third(x)))
        return x


def test_a_layer_that_something_else_reads_is_left_alone() -> None:
    torch.manual_seed(0)
    model, inputs = with_statistics(ReadTwice()), torch.randn(2, 3, 4, 4)
    assert foldable(model, inputs) == [["second", "second_norm"]]
    left = BatchNormFolding().skipped(fold(model, [["second", "second_norm"]]), {})
    assert set(left) == {"first_norm", "third_norm"}


def test_a_norm_over_time_is_no_norm_over_channels() -> None:
    torch.manual_seed(0)
    model = with_statistics(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)))
    task = make_task(model, torch.randn(8, 5, 6))  # (B, T = 5, 6): the norm's channels are the time steps
    with pytest.raises(NotApplicable, match="needs a batch norm whose only input is"):
        BatchNormFolding().check(task, CPU)


def test_channels_last_weights_stay_so_when_restored() -> None:
    method = ChannelsLast()
    model = method.restore(images().trained_model(), {}, CPU)
    assert model.get_parameter("3.weight").is_contiguous(memory_format=torch.channels_last)
    assert not images().trained_model().get_parameter("3.weight").is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(NotApplicable, match="2-d convolutions, but this model has none"):
        method.check(features(), CPU)


@pytest.mark.parametrize("factory", [images, two_heads, dict_inputs, variable_length], ids=lambda made: made.__name__)
def test_a_batch_is_split_over_threads(factory: Any) -> None:
    method, task, target = ParallelBatches(), factory(), Target("cpu", 8, 3)
    method.check(task, target)
    model, threads = method.finalize(task.trained_model(), {}, task, target), torch.get_num_threads()
    parts: list[tuple[int, int]] = []
    model.get_submodule("model").register_forward_pre_hook(
        lambda module, args, kwargs: parts.append((len([*args, *kwargs.values()][0]), torch.get_num_threads())),
        with_kwargs=True,
    )
    for samples in (8, 1):
        inputs = task.inputs(samples)
        assert output_error(outputs(model, inputs), outputs(task.trained_model(), inputs)) < 1e-5
    assert sorted(parts) == [(1, 1), (2, 1), (3, 1), (3, 1)]
    assert torch.get_num_threads() == threads


def test_nothing_to_split_is_told() -> None:
    for target in (Target("cpu"), Target("cpu", 8, 1), Target("cpu", 1, 2)):
        with pytest.raises(NotForTarget, match=rf"over the threads of a CPU .*, but the target is {target}$"):
            ParallelBatches().check(images(), target)


def test_a_model_that_mixes_the_samples_of_a_batch_is_not_split() -> None:
    class Centred(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(dim=0)

    with pytest.raises(NotApplicable, match="for parts of a batch must be those for the whole"):
        ParallelBatches().check(make_task(Centred(), torch.randn(8, 3)), Target("cpu", 8, 2))


def test_cuda_graphs_are_for_cuda() -> None:
    with pytest.raises(NotForTarget, match="needs a CUDA target"):
        CudaGraphs().check(images(), CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_graphs_give_the_models_outputs() -> None:
    method, target = CudaGraphs(), Target("cuda:0", 2)
    method.check(images(), target)
    model = method.finalize(images().trained_model().cuda(), {}, images(), target)
    for samples in (2, 5, 2):
        inputs = images().inputs(samples)
        with torch.no_grad():
            torch.testing.assert_close(
                model(inputs.cuda()).cpu(), images().trained_model()(inputs), atol=1e-3, rtol=1e-3
            )


@pytest.mark.parametrize("wrapper", [TorchCompile(), ParallelBatches(), CudaGraphs()], ids=lambda method: method.name)
def test_what_reads_the_models_layers_comes_before_what_wraps_it(wrapper: Method) -> None:
    with pytest.raises(InvalidInput, match="which leaves the model inside another module: put it first"):
        check_order([wrapper, BatchNormFolding()])
    check_order([BatchNormFolding(), wrapper])
    for runtime in (OnnxRuntime(), AotInductor()):
        with pytest.raises(InvalidInput, match="which leaves the model inside another module: use one of the two"):
            check_order([wrapper, runtime])


def test_compiled_models_have_frozen_weights_and_leave_torchs_settings_alone() -> None:
    import torch._inductor.config as inductor

    method = TorchCompile()
    method.check(features(), CPU)
    before = inductor.save_config()
    model = method.finalize(features().trained_model(), {"freezing": True, "mode": "default"}, features(), CPU)
    inputs = features().inputs(4)
    assert output_error(outputs(model, inputs), outputs(features().trained_model(), inputs)) < 1e-5
    assert inductor.save_config() == before
    weight = model.get_parameter("model.0.weight")
    with torch.no_grad():
        compiled = model(inputs)
        weight.zero_()
        torch.testing.assert_close(model(inputs), compiled)  # frozen: constants of the machine code


def test_every_trial_of_a_process_is_compiled() -> None:
    method, inputs = TorchCompile(), features().inputs(4)
    with torch._dynamo.config.patch(recompile_limit=1), torch.no_grad():
        for _ in range(3):
            model = method.restore(features().trained_model(), {"freezing": True, "mode": "default"}, CPU)
            compiled = model(inputs)
            model.get_parameter("model.0.weight").zero_()
            torch.testing.assert_close(model(inputs), compiled)


def test_recurrent_layers_that_torch_compile_leaves_are_told() -> None:
    assert list(TorchCompile().skipped(lstm().trained_model(), {})) == ["rnn"]


def test_a_model_of_which_nothing_can_be_captured_is_not_compiled() -> None:
    with pytest.raises(NotApplicable, match="captures no operation of this model"):
        TorchCompile().check(make_task(nn.Identity(), torch.randn(4, 3)), CPU)


@pytest.fixture(scope="module")
def ahead() -> AotModel:
    model = AotInductor().finalize(features().trained_model(), {}, features(), CPU)
    assert isinstance(model, AotModel)
    return model


def test_ahead_of_time_for_any_batch_size(ahead: AotModel, tmp_path: Path) -> None:
    assert ahead.save(tmp_path) == ["model.pt2", "interface.json"]
    loaded = AotInductor().load(tmp_path, {}, CPU)
    for samples in (1, 4, 65):
        inputs = features().inputs(samples)
        assert output_error(outputs(ahead, inputs), outputs(features().trained_model(), inputs)) < 1e-5
        torch.testing.assert_close(loaded(inputs), ahead(inputs), rtol=0, atol=0)


@pytest.mark.parametrize("entry", ["m/data/weights/weights.pt", "m/extra/data.pkl", "m/data/aotinductor/x.pt"])
def test_a_package_with_something_to_unpickle_is_refused(ahead: AotModel, tmp_path: Path, entry: str) -> None:
    ahead.save(tmp_path)
    with zipfile.ZipFile(tmp_path / "model.pt2", "a") as package:
        package.writestr(entry, b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ArtifactError, match=f"must hold compiled code and no more, but holds '{entry}'"):
        AotInductor().load(tmp_path, {}, CPU)


def test_int8_weights_are_compiled_in() -> None:
    """Large enough that the machine code is not all."""
    torch.manual_seed(0)
    layers = [nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 8)]
    task = make_task(nn.Sequential(*layers), torch.randn(64, 256))
    method = Pt2eInt8Static()
    method.check(task, CPU)
    plan = method.decide(task.trained_model(), {"calibration": "histogram", "samples": 64}, task)
    model = method.finalize(task.trained_model(), plan, task, CPU)
    assert isinstance(model, AotModel)
    weights = sum(tensor.numel() * 4 for tensor in task.trained_model().parameters())
    assert len(model.file) < 0.45 * weights + 2e6
    for samples in (1, 32):
        inputs = task.inputs(samples)
        assert 1e-4 < output_error(outputs(model, inputs), outputs(task.trained_model(), inputs)) < 0.1


def test_layers_without_int8_kernels_are_told() -> None:
    method = Pt2eInt8Static()
    plan = method.decide(lstm().trained_model(), {"calibration": "histogram", "samples": 32}, lstm())
    left = method.skipped(lstm().trained_model(), plan)
    assert left == {"rnn": "the quantizer has int8 for called linear layers and 2-d convolutions only"}
    with pytest.raises(NotApplicable, match="linear layers and 2-d convolutions, but this model has none"):
        method.check(make_task(nn.Conv1d(2, 3, 1), torch.randn(4, 2, 5)), CPU)


def test_activations_are_rounded_over_their_extremes_or_by_a_histogram() -> None:
    """Few values are far from the others, so that to cut them off loses less."""
    torch.manual_seed(0)
    inputs = torch.randn(512, 32) ** 3
    task = make_task(nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 3)), inputs)
    expected = outputs(task.trained_model(), inputs[:256])
    errors = {}
    for calibration in ("histogram", "minmax"):
        with quiet(), torch.no_grad():
            made = quantize(Traceable.of(task.trained_model(), task), task, 512, calibration)
            errors[calibration] = output_error(list(made(inputs[:256])), expected)
    assert 0 < errors["histogram"] < errors["minmax"] < 0.2


@pytest.mark.parametrize("method", [AotInductor(), Pt2eInt8Static()], ids=lambda method: method.name)
def test_packed_sequences_cannot_be_compiled_ahead(method: AotInductor | Pt2eInt8Static) -> None:
    with pytest.raises(NotApplicable, match="torch.export must be able to trace the model, but"):
        method.check(variable_length(), CPU)


@pytest.mark.parametrize("method", [TorchCompile(), AotInductor(), Pt2eInt8Static()], ids=lambda method: method.name)
def test_without_a_compiler_there_is_a_reason(
    method: TorchCompile | AotInductor | Pt2eInt8Static, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor.cpp_builder import cpp_compiler_search

    monkeypatch.setenv("PATH", "")
    cpp_compiler_search.cache_clear()
    with pytest.raises(NotApplicable, match=f"{method.name} needs a C\\+\\+ compiler, but this machine has none"):
        method.check(features(), CPU)
