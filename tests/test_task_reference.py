"""A task named on the command line."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import pytest
import torch
from torch.utils.data import TensorDataset

from autocompress import Task
from autocompress.errors import InvalidInput
from autocompress.plugins import registry
from autocompress.task_reference import load_task, modules_from_files

SOURCE = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from autocompress import Task

data = TensorDataset(torch.ones(4, 8), torch.zeros(4, dtype=torch.long))
my_task = Task(model=nn.Linear(8, 3), train=data, validation=data, test=data, name="mine")

def make() -> Task:
    return my_task

def fails() -> Task:
    raise FileNotFoundError("weights.pt\\nis not there")

def gives_a_number() -> int:
    return 3
"""


@pytest.fixture(autouse=True)
def modules_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    known, files = set(sys.modules), len(modules_from_files)
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield
    del modules_from_files[files:]
    for name in set(sys.modules) - known:
        if name.startswith(("mine_", "autocompress_task_")):
            del sys.modules[name]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`mine_of_test.py`, in a folder that Python imports from."""
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "mine_of_test.py"
    file.write_text(SOURCE)
    return file


@pytest.mark.parametrize("name", ["my_task", "make"])
def test_a_task_of_a_file(name: str, file: Path) -> None:
    task = load_task(f"{file}:{name}")
    assert isinstance(task, Task)
    assert task.name == "mine"
    assert modules_from_files[-1].__file__ == str(file)


CACHED = """
import functools
from torch import nn
from tests.test_task_reference import data
from autocompress import Task

@functools.lru_cache(maxsize=7)
def layers(count):
    return nn.Linear(8, 3) if count == 0 else nn.Sequential(layers(count - 1))

class Model:
    @functools.cache
    def __call__(self):
        return layers(2)

my_task = Task(model=Model(), train=data, validation=data, test=data)
"""
data = TensorDataset(torch.ones(4, 8), torch.zeros(4, dtype=torch.long))


def test_cached_functions_of_a_file_reach_a_process_that_cannot_import_it(file: Path) -> None:
    file.write_text(CACHED)
    model = load_task(f"{file}:my_task").model
    module = modules_from_files[-1]
    cloudpickle.register_pickle_by_value(module)
    try:
        pickled = cloudpickle.dumps((model, module.layers))
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    del sys.modules[module.__name__]
    there, layers = pickle.loads(pickled)
    assert str(there()) == str(module.layers(2)) and there() is there()
    assert layers.cache_parameters() == {"maxsize": 7, "typed": False}


def test_other_cached_functions_go_by_name() -> None:
    assert pickle.loads(pickle.dumps(registry)) is registry


def test_a_file_imports_its_siblings(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = file.parent / "elsewhere"
    folder.mkdir()
    (folder / "mine_sibling.py").write_text(SOURCE)
    (folder / "mine_tasks.py").write_text("from mine_sibling import my_task")
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert load_task(f"{folder / 'mine_tasks.py'}:my_task").name == "mine"


@pytest.mark.parametrize("name", ["my_task", "make"])
def test_a_task_of_a_module(name: str, file: Path) -> None:
    before = modules_from_files[:]
    assert load_task(f"mine_of_test:{name}").name == "mine"
    assert modules_from_files == before


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("", "a task is named package.module:name or file.py:name, but got ''"),
        ("mine_of_test", "a task is named package.module:name or file.py:name, but got 'mine_of_test'"),
        (":my_task", "a task is named package.module:name or file.py:name, but got ':my_task'"),
        ("mine_of_test:", "a task is named package.module:name or file.py:name, but got 'mine_of_test:'"),
        ("mine_of_test:a b", "a task is named package.module:name or file.py:name, but got 'mine_of_test:a b'"),
        ("mine_elsewhere:task", "'mine_elsewhere' cannot be imported: ModuleNotFoundError: No module named"),
        ("no/such/file.py:task", "'no/such/file.py' cannot be imported: FileNotFoundError: no such file: no/such"),
        ("mine_of_test:my_tsk", "'mine_of_test' has no 'my_tsk'; did you mean 'my_task'?"),
        ("mine_of_test:fails", "mine_of_test:fails must give a task, but: FileNotFoundError: weights.pt"),
        (
            "mine_of_test:gives_a_number",
            "mine_of_test:gives_a_number must be a Task or a function that gives one, but got int",
        ),
        ("mine_of_test:data", "mine_of_test:data must be a Task or a function that gives one, but got TensorDataset"),
    ],
)
def test_a_reference_that_names_no_task(reference: str, message: str, file: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_task(reference)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def", "SyntaxError: invalid syntax"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such"),
    ],
)
@pytest.mark.parametrize("as_file", [True, False])
def test_a_file_that_does_not_import(as_file: bool, source: str, message: str, file: Path) -> None:
    file.write_text(source)
    place = str(file) if as_file else "mine_of_test"
    with pytest.raises(InvalidInput) as caught:
        load_task(f"{place}:task")
    assert str(caught.value).startswith(f"{place!r} cannot be imported: {message}")
