"""What every test shares: one thread, and a task that trains in a blink."""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own 15 would have searches wait for all other tests
# Most of what compiling ahead takes is g++ on the code that calls the kernels: here neither tuned nor to be debugged.
os.environ.setdefault("AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL", "O0")
os.environ.setdefault("AOT_INDUCTOR_ENABLE_LINE_TABLES", "0")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # else each process starts others, which import torch

import pytest  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import TensorDataset  # noqa: E402

from autocompress import Task  # noqa: E402

torch.set_num_threads(1)

collect_ignore = ["third_party_plugin"]  # its tests run where it is installed: see test_third_party_plugin.py

LONGEST = (
    "contract/test_contract_of_convnets.py", "contract/test_contract_of_transformers.py", "search/test_search.py",
    "contract/test_contract_of_generators.py", "contract/test_contract_of_recurrent.py", "search/test_interruption.py",
    "contract/test_contract_of_perceptrons.py", "search/test_sharing.py", "search/test_finals.py",
    "test_third_party_plugin.py", "plugins/test_acceleration.py", "measure/test_two_searches.py",
    "search/test_rung_search.py",
    "plugins/test_onnx.py", "search/test_prospect.py", "search/test_sampler.py", "contract/", "search/test_prefixes.py",
    "test_errors.py", "plugins/test_pruning.py", "search/test_study.py", "test_cli.py", "test_portfolio.py",
    "plugins/test_by_sensitivity.py", "search/",
)  # fmt: skip
"""Files that start first, so that the processes which share the tests end together; searches among files that wait for
nobody, since several searches at once would only wait for each other."""


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # xdist would begin with the files that have the most tests


def pytest_collection_finish() -> None:
    """Modules and thousands of tests stay as long as the process: the collector need not walk them again and again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((n for n, name in enumerate(LONGEST) if name in item.nodeid), len(LONGEST)))


def tiny_model() -> nn.Module:
    """8 features -> 3 classes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def tiny_data(samples: int, seed: int) -> TensorDataset:
    """Features (samples, 8) whose class is the largest of the first three."""
    features = torch.randn(samples, 8, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(features, features[:, :3].argmax(dim=1))


@pytest.fixture(scope="session", autouse=True)
def onnx_operators() -> Iterator[None]:
    """onnxscript parses the source of all its operators for each export, which takes a second: here once a process."""
    from onnxscript._framework_apis import torch_2_11

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_2_11, "get_torchlib_ops", functools.cache(torch_2_11.get_torchlib_ops))
        yield


@pytest.fixture
def task() -> Task:
    return Task(model=tiny_model, train=tiny_data(64, 1), validation=tiny_data(32, 2), test=tiny_data(32, 3))
