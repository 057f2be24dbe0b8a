"""A whole search whose recipes share trainings, and whose worker is killed in the middle of one."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from autocompress import Budget, Recipe, Recovery, Run, SearchSpace, Step, Task, search
from autocompress.plugins import registry
from autocompress.report import as_data, print_result
from tests.conftest import tiny_data, tiny_model
from tests.search import counting_plugin
from tests.search.counting_plugin import DEADLY

KINDS, WAYS = 8, 5


def recipes() -> list[Recipe]:
    """40 that share 8 prefixes, those of one prefix side by side, so that two workers want it at the same time."""
    return [
        Recipe(
            steps=(Step(method="counted", params={"kind": kind}), Step(method="finish", params={"way": way})),
            recovery=Recovery(epochs=2, batch_size=16),
        )
        for kind in range(KINDS)
        for way in range(WAYS)
    ]


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the plugin counts; it is installed for this process and the workers that it starts."""
    site, counts = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("counts")
    shutil.copy(counting_plugin.__file__, site)
    info = site / "counting_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: counting-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[autocompress]\ncounting = counting_plugin\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setenv("PYTHONPATH", str(site))
        patch.setenv("COUNTING", str(counts))
        registry.cache_clear()
        yield counts
    registry.cache_clear()


@pytest.fixture(scope="module")
def run(counts: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    task = Task(
        model=tiny_model, train=tiny_data(64, 1), validation=tiny_data(32, 2), test=tiny_data(32, 3), name="sharing"
    )
    return search(
        task,
        space=SearchSpace(
            methods={"counted": None, "finish": None}, recovery={"batch_size": 16, "epochs": [2], "learning_rate": 1e-3}
        ),
        recipes=recipes(),
        budget=Budget(trials=1 + KINDS * WAYS),
        runs=tmp_path_factory.mktemp("runs"),
        limits=["accuracy >= 100%"],  # met by none, so that no front is judged again
        target="cpu@1",
        workers=2,
        latency_seconds=0.01,
        hardware_seconds=0,
        probe_seconds=0,
    )


def times(counts: Path, event: str) -> Counter[int]:
    return Counter(int(line) for line in (counts / event).read_text().split())


def test_each_prefix_is_trained_once_though_a_worker_was_killed(run: Run, counts: Path) -> None:
    assert run.trials["state"].value_counts().to_dict() == {"infeasible": KINDS * WAYS, "failed:killed": 1}
    assert times(counts, "ended") == dict.fromkeys(range(KINDS), 1)
    assert times(counts, "began") == {kind: 1 + (kind == DEADLY) for kind in range(KINDS)}


def test_the_run_says_what_the_store_spared(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    savings = run.savings
    assert (savings.trainings, savings.spared) == (KINDS * WAYS - 1, KINDS * WAYS - 1 - KINDS)
    trained = {str(r.steps[0]): o.training_s for r, o in run.all_trials.values() if o.training_s}
    expected = sum(trained[str(r.steps[0])] for r, o in run.all_trials.values() if o.spared_s)
    assert savings.spared_s == pytest.approx(expected)
    assert as_data(run)["savings"] == savings.plain()
    print_result(run)
    printed = capsys.readouterr().out
    assert f"The store spared 31 of 39 trainings, about {expected:.3g} s." in printed
    assert "None of 41 trials meets the limits" in printed


def test_a_trials_log_says_that_it_waited_or_took_what_was_there(run: Run) -> None:
    logs = [
        (run.path / "trials" / f"{n:05d}" / "log.txt").read_text() for n, (_, o) in run.all_trials.items() if o.spared_s
    ]
    assert logs and all("taken from the store" in log for log in logs)
