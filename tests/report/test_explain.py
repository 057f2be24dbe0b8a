"""What is told of why trials were proposed and methods left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from autocompress import Budget, Recipe, Run, SearchSpace, Step, Target, Task, cli, report
from autocompress.method import Technique
from autocompress.openings import Openings
from autocompress.outcome import OK, Outcome, failure
from autocompress.parameters import Integer
from autocompress.search.folder import open_run
from autocompress.search.sampler import LEAST_SCORED, Reason
from autocompress.search.settings import Settings
from autocompress.search.study import SearchStudy
from autocompress.space import BoundSpace
from tests.conftest import tiny_data, tiny_model

SPACE = BoundSpace(
    {"pack": {"bits": Integer(2, 64, default=8)}}, Openings({Technique.QUANTIZATION: ("pack",)}), {},
    frozenset(),
    left_out={"tucker": "splits convolutions, but this model has [none]"},
)  # fmt: skip
EXPECTED = Reason("neighbour of trial 1", expected=(0.875, 2048.0, 0.4), gain=0.0123, feasible=0.9, seconds=41.6)


def pack(bits: int) -> Recipe:
    return Recipe(steps=(Step(method="pack", params={"bits": bits}),))


def scored(accuracy: float, size_bytes: float) -> Outcome:
    latency = {"latency_ms": 5.0, "baseline_latency_ms": 10.0, "resolution": 0.01}
    speedups = {"speedup": 2.0, "speedup_low": 1.9, "speedup_high": 2.1}
    return Outcome(OK, {"accuracy": accuracy, "size_bytes": size_bytes, **latency, **speedups})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A baseline, a queued recipe that failed, one of the sampler's before and one after it has a model."""
    data = tiny_data(16, 0)
    task = Task(model=tiny_model, train=data, validation=data, test=data)
    path = tmp_path_factory.mktemp("runs") / "mine"
    settings = Settings(task, SearchSpace(), (), Budget(trials=9), (Target("cpu"),), path, (), 0, 1, 0.1, 0, False)
    with open_run(settings) as folder:
        folder.write_left_out(SPACE.left_out)
        study = SearchStudy(folder.study_url, SPACE, task.objective, (), seed=0)
        study.enqueue(Recipe(), "the baseline")
        study.enqueue(pack(3), "known good for CNNs on a CPU")
        for number in range(22):
            proposal = study.ask()
            assert proposal is not None
            bits = proposal.recipe.steps[0].params["bits"] if proposal.recipe.steps else 64
            fails = failure("raise", "RuntimeError: no kernel", "pack")
            study.tell(proposal.number, fails if number == 1 else scored(1 - 1 / bits, 100 * bits))
    return Run(path)


def told(run: Run) -> list[str]:
    console = Console(width=200, force_terminal=False)
    with console.capture() as captured:
        report.print_explanation(run, console)
    return captured.get().splitlines()


def test_every_trial_says_why_it_was_proposed(run: Run) -> None:
    origins = list(run.trials["proposed"])
    assert origins[:3] == ["the baseline", "known good for CNNs on a CPU", "free exploration"]
    assert all(origins)
    modelled = {number: proposed for number, proposed in run.proposed.items() if "expected" in proposed}
    assert modelled and min(modelled) > 2 + LEAST_SCORED
    number, proposed = next(iter(modelled.items()))
    assert run.trial(number).proposed == proposed
    assert len(proposed["expected"]) == 3 and 0 <= proposed["feasible"] <= 1


def test_methods_left_out_are_recorded_with_the_reason(run: Run) -> None:
    assert run.left_out == SPACE.left_out
    assert report.as_data(run)["left_out"] == SPACE.left_out


def test_both_are_told_as_tables(run: Run) -> None:
    lines = told(run)
    rows = [line.split() for line in lines]
    assert ["1", "failed:raise", "known", "good", "for", "CNNs", "on", "a", "CPU"] in rows
    assert lines[-1].split(maxsplit=1) == ["tucker", SPACE.left_out["tucker"]]  # brackets and all


def test_what_was_expected_has_units() -> None:
    from autocompress.report.explain import _expected

    assert list(_expected(EXPECTED.plain())) == ["0.8750", "2.05 kB", "40% of baseline", "1.23%", "90%", "42"]
    assert list(_expected({"origin": "the baseline"})) == [""] * 6


def test_the_command_line_tells_it_when_asked(run: Run) -> None:
    def output(*arguments: str) -> str:
        shown = CliRunner().invoke(cli.app, ["report", str(run.path), *arguments])
        assert shown.exit_code == 0
        return shown.stdout

    assert "tucker" in output("--explain") and "tucker" not in output()
    data = json.loads(output("--explain", "--json"))
    assert data["left_out"] == SPACE.left_out
    assert data["proposed"]["1"] == {"origin": "known good for CNNs on a CPU"}
    assert set(json.loads(output("--json"))) == {"report"}


def test_a_run_without_a_record_of_it(run: Run, tmp_path: Path) -> None:
    """As runs were before."""
    for name in ("run.json", "config.yaml", "study.db"):
        (tmp_path / name).write_bytes((run.path / name).read_bytes())
    assert Run(tmp_path).left_out == {}
    assert told(Run(tmp_path))[-1].strip() in ("", "No method was left out.")
