"""What a search looks at before its first trial, what it leaves out, and what it tries first."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autocompress import Budget, Recipe, Run, SearchSpace, Step, Target, search
from autocompress.data import NoSamples
from autocompress.errors import InvalidInput, RunError
from autocompress.openings import Openings
from autocompress.parameters import Choice, Float, Integer, Parameter
from autocompress.plugins import registry
from autocompress.prospect import PROBE_FILE, Look, Prospect, read_prospect
from autocompress.report import as_data, explanation_data
from autocompress.report.probe import prospect_lines
from autocompress.search import ray_environment
from autocompress.search.display import Display
from autocompress.search.folder import open_run
from autocompress.search.look_ahead import LEAST_TRIALS, look_ahead
from autocompress.search.prospecting import TIME_UP, Prospector, prospect
from autocompress.search.settings import Settings
from autocompress.search.suggestions import after_probing
from autocompress.search.trial import TrialContext
from autocompress.search.warm_start import Start, first_recipes
from autocompress.space import BoundSpace, bind
from autocompress.testing_tasks import features
from tests.search import probed_plugin

CPU = Target("cpu")
OWN = ("slow", "slow_structure", "idle", "broken", "halving", "teaching")
SPACE = SearchSpace(methods=dict.fromkeys((*OWN, "unstructured_magnitude", "structured_magnitude", "int8_weight_only")))


@pytest.fixture(scope="module", autouse=True)
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The plugin installed for this process and those that it starts."""
    site = tmp_path_factory.mktemp("site")
    shutil.copy(probed_plugin.__file__, site)
    info = site / "probed_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: probed-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[autocompress]\nprobed = probed_plugin\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setenv("PYTHONPATH", str(site))
        registry.cache_clear()
        yield
    registry.cache_clear()


class Here:
    """Looks in this process, and takes its time."""

    def __init__(self, context: TrialContext) -> None:
        self._prospector, self.asked = Prospector(context), list[Step]()

    def model(self, seconds: float) -> dict[str, Any]:
        return self._prospector.model(5)

    def method(self, step: Step, seconds: float) -> Look:
        self.asked.append(step)
        return self._prospector.method(step)

    def size(self, step: Step, seconds: float) -> float:
        return self._prospector.size(step)


def look_around(folder: Path, *kept: str, seconds: float = 600) -> tuple[Prospect, Here]:
    context = TrialContext(features(), (CPU,), folder, 0, None, 0.05)
    here = Here(context)
    found = prospect(here, bind(SPACE, features(), registry(), CPU), registry(), context, kept, seconds)
    assert isinstance(found, Prospect)
    return found, here


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prospect, Here]:
    return look_around(tmp_path_factory.mktemp("run"), "slow_structure")


def test_what_is_slower_and_no_smaller_is_left_out_with_what_was_measured(seen: tuple[Prospect, Here]) -> None:
    found, _ = seen
    assert set(found.left_out) == {"slow", "idle"}
    (look,) = found.looks["slow"]
    slower, larger = 1 / look.scores["speedup"], look.scores["size_bytes"] / found.baseline_bytes
    assert look.scores["latency_ms"] > 1000 * probed_plugin.SLEEP_S and larger > 2
    assert found.left_out["slow"] == (
        f"probed alone, it made this model {slower:.2f}x slower on cpu@1 and {larger:.2f}x larger"
    )


def test_what_changes_nothing_at_any_setting_is_left_out(seen: tuple[Prospect, Here]) -> None:
    found, here = seen
    assert [step.params["way"] for step in here.asked if step.method == "idle"] == ["one", "two", "three"]
    words = "probed alone, it changed nothing of this model at its defaults, and did no better at 2 other settings"
    assert found.left_out["idle"] == words


def test_who_helps_at_another_setting_is_kept_with_that(seen: tuple[Prospect, Here]) -> None:
    found, _ = seen
    best = found.best("halving")
    assert best is not None and best.params == {"halves": True}
    assert best.scores["size_bytes"] < 0.7 * found.baseline_bytes
    assert found.looks["halving"][0].no_effect


def test_structure_is_looked_at_without_training(seen: tuple[Prospect, Here]) -> None:
    found, here = seen
    best = found.best("structured_magnitude")
    assert best is not None and best.scores["size_bytes"] < 0.9 * found.baseline_bytes
    steps = [step for step in here.asked if step.method == "structured_magnitude"]
    there = found.smallest["structured_magnitude"]
    assert [step.params for step in steps] == [best.params, there.params]  # it helped at its defaults; its least size


def test_how_small_methods_can_make_the_model_is_told(seen: tuple[Prospect, Here]) -> None:
    found, here = seen
    best, least = found.best("structured_magnitude"), found.least_bytes
    assert best is not None and least["structured_magnitude"] < 0.9 * best.scores["size_bytes"]
    there = found.smallest["structured_magnitude"]
    assert there.params != best.params and there.scores["size_bytes"] == least["structured_magnitude"]
    assert least["halving"] == min(look.scores.get("size_bytes", 1e9) for look in found.looks["halving"])
    assert not {"slow", "idle", "broken", "teaching"} & set(least)
    ratio = found.baseline_bytes / least["structured_magnitude"]
    lines = prospect_lines(found)
    end = f"smaller, at most {ratio:.2f}x smaller, there {found.words(there).split(' and ')[0]}"
    assert any(line.endswith(end) for line in lines)
    assert any("halving " in line and line.endswith("x smaller, at most that small") for line in lines)


def test_without_data_to_calibrate_with_who_needs_them_is_left_out(tmp_path: Path) -> None:
    """Also a method that did not say before that it needs them, as in a space bound to a task that has some."""
    task = replace(features(), train=NoSamples())
    context = TrialContext(task, (CPU,), tmp_path, 0, None, 0.05)
    space = bind(SearchSpace(methods={"mixed_precision": None, "int8_weight_only": None}), features(), registry(), CPU)
    found = prospect(Here(context), space, registry(), context, (), 600)
    assert isinstance(found, Prospect) and found.data == "none"
    assert found.left_out["mixed_precision"] == "there are no calibration data, nor training data in their place"
    assert "data to compress with: none, so nothing is trained or calibrated" in prospect_lines(found)
    assert found.best("int8_weight_only") is not None
    assert replace(found, samples={"calibration": 8}).data == "calibration only"


def test_what_cannot_be_seen_is_kept_and_the_reason_told(seen: tuple[Prospect, Here]) -> None:
    found, here = seen
    assert found.unknown == {
        "broken": "it failed: ValueError: it was not trained",
        "teaching": "it acts while training",
        "unstructured_magnitude": "what it does comes with training",
    }
    assert not {"teaching", "unstructured_magnitude"} & {step.method for step in here.asked}


def test_what_was_asked_for_is_left_out_in_no_case(seen: tuple[Prospect, Here]) -> None:
    found, _ = seen
    assert "slow_structure" not in found.left_out and found.best("slow_structure") is None
    assert "slow_structure" in replace(found, kept=()).left_out


def test_formats_come_before_structure(seen: tuple[Prospect, Here]) -> None:
    methods = [step.method for step in seen[1].asked]
    assert max(map(methods.index, ("slow", "halving", "int8_weight_only"))) < methods.index("structured_magnitude")


def test_when_the_time_is_up_the_rest_is_kept(tmp_path: Path) -> None:
    found, here = look_around(tmp_path, seconds=0)
    assert here.asked == [] and found.left_out == {}
    assert found.unknown["slow"] == TIME_UP


def test_model_and_data_are_looked_at(seen: tuple[Prospect, Here]) -> None:
    found, _ = seen
    assert found.samples == {"train": 256, "validation": 128, "test": 128}
    assert found.bounds["cpu@1"]["bounds"]["binding"] in ("compute", "memory", "launch")
    lines = prospect_lines(found)
    assert "data to compress with: labels" in lines and "acceleration alone can make it at most" in lines[0]
    assert lines[0].startswith(f"on cpu@1 {found.bounds['cpu@1']['bounds']['binding']} binds the model most")
    assert "samples, with targets unless they are called unlabelled: 256 train, 128 validation, 128 test" in lines
    assert any("slow " in line and line.endswith("larger, left out") for line in lines)
    assert any("slow_structure" in line and line.endswith("kept since it was asked for") for line in lines)
    assert "  not known of teaching, and so kept: it acts while training" in lines


def made(**looks: tuple[float, float, float]) -> Prospect:
    """By method: share of the baseline's size, speedup, and how far its interval and resolution reach."""
    return Prospect(
        ("cpu@1",),
        1000,
        {
            name: (
                Look(
                    {},
                    {
                        "size_bytes": 1000 * share,
                        "speedup": speedup,
                        "speedup_low": speedup * (1 - error),
                        "speedup_high": speedup * (1 + error),
                        "resolution": error,
                    },
                ),
            )
            for name, (share, speedup, error) in looks.items()
        },
        unknown={},
        kept=(),
        bounds={},
        samples={},
        seconds=1,
    )


@pytest.mark.parametrize(
    ("share", "speedup", "error", "helps"),
    [
        (0.97, 0.1, 0.01, True),
        (0.99, 1.0, 0.01, False),
        (1.5, 1.1, 0.01, True),
        (1.0, 1.03, 0.01, True),
        (1.0, 1.01, 0.1, True),
        (1.0, 0.8, 0.05, False),
    ],
    ids=["smaller", "alike", "faster", "a little faster", "too noisy to say", "slower"],
)
def test_only_who_surely_gains_nothing_cannot_help(share: float, speedup: float, error: float, helps: bool) -> None:
    found = made(method=(share, speedup, error))
    assert found.helps(found.looks["method"][0]) == helps
    assert ("method" in found.left_out) != helps


def test_words_and_gain() -> None:
    found = made(both=(0.25, 2.0, 0.01), neither=(1.0, 1.0, 0.01), worse=(1.5, 0.5, 0.01))
    words = {name: found.words(looks[0]) for name, looks in found.looks.items()}
    assert words == {
        "both": "2.00x faster on cpu@1 and 4.00x smaller",
        "neither": "not measurably faster on cpu@1 and no smaller",
        "worse": "2.00x slower on cpu@1 and 1.50x larger",
    }
    assert found.gain(found.looks["both"][0]) == pytest.approx(8)
    little = made(little=(1.0, 1.03, 0.1))
    assert little.gains(little.looks["little"][0]) == "perhaps a little faster"


def settings(folder: Path, **changes: Any) -> Settings:
    good = Settings(features(), SPACE, (), Budget(trials=40), (CPU,), folder / "run", (), 0, 1, 0.05, 0, False)
    return replace(good, **changes)


def bound(wanted: Settings) -> BoundSpace:
    return bind(wanted.space, wanted.task, registry(), CPU)


HELPFUL = made(
    halving=(0.55, 1.0, 0.01), slow=(1.5, 0.1, 0.01), structured_magnitude=(0.5, 1.5, 0.01),
    slow_structure=(0.9, 1.0, 0.01), int8_weight_only=(0.3, 1.1, 0.01),
)  # fmt: skip


def test_the_best_are_tried_after_what_was_given(tmp_path: Path) -> None:
    found, wanted = HELPFUL, settings(tmp_path)
    given, suggested = Recipe(steps=(Step(method="broken"),)), Recipe(steps=(Step(method="slow"),))
    starts = [Start(Recipe(), "the baseline"), Start(given, "given"), Start(suggested, "known good", asked=False)]
    first = after_probing(starts, found, wanted, bound(wanted).without(found.left_out), registry())
    assert [start.why for start in first[:2]] == ["the baseline", "given"]
    names = [[step.method for step in start.recipe.steps] for start in first[2:]]
    assert names == [["int8_weight_only"], ["structured_magnitude", "int8_weight_only"], ["halving"]]
    assert first[3].recipe.recovery.epochs > 0 == first[2].recipe.recovery.epochs
    assert first[2].why == "the probe found it 1.10x faster on cpu@1 and 3.33x smaller"
    assert first[4].why == "the probe found it 1.82x smaller"  # and no faster
    assert first[3].why == (
        "the probe found structured_magnitude 1.50x faster on cpu@1 and 2.00x smaller;"
        " int8_weight_only 1.10x faster on cpu@1 and 3.33x smaller"
    )


def test_few_trials_are_not_filled_with_suggestions(tmp_path: Path) -> None:
    wanted = settings(tmp_path, budget=Budget(trials=4))
    assert len(after_probing([], HELPFUL, wanted, bound(wanted).without(HELPFUL.left_out), registry())) == 1


def test_the_probe_suggests_less_after_the_portfolio_and_other_fronts(tmp_path: Path) -> None:
    wanted = settings(tmp_path, budget=Budget(trials=8))
    borrowed = [
        Start(Recipe(steps=(Step(method="halving", params={"halves": halves}),)), "a front", borrowed=True)
        for halves in (True, False)
    ]
    space = bound(wanted).without(HELPFUL.left_out)
    assert len(after_probing(borrowed, HELPFUL, wanted, space, registry())) == 4
    assert len(after_probing([*borrowed, *borrowed[:1]], HELPFUL, wanted, space, registry())) == 4


def test_a_narrowed_space_holds_no_more_of_what_is_left_out(tmp_path: Path) -> None:
    whole = bound(settings(tmp_path))
    less = whole.without({"slow": "it sleeps", "slow_structure": "so does it"})
    gone = {"slow", "slow_structure"}
    assert set(whole.parameters) - set(less.parameters) == gone
    assert not gone & ({name for names in less.openings.methods.values() for name in names} | less.needs_training)
    assert less.left_out["slow"] == "it sleeps"


def test_settings_are_defaults_and_then_one_end_at_a_time() -> None:
    parameters: dict[str, Parameter] = {
        "ratio": Float(0.1, 0.95, 0.5, step=0.2),
        "bits": Integer(2, 8, 8),
        "kind": Choice(("a", "b"), "a"),
    }
    space = BoundSpace({"method": parameters}, Openings({}), {}, frozenset())
    usual = {"ratio": 0.5, "bits": 8, "kind": "a"}
    changes: list[dict[str, Any]] = [{}, {"ratio": 0.1}, {"ratio": 0.9}, {"bits": 2}, {"kind": "b"}]
    assert list(space.settings("method")) == [usual | change for change in changes]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"budget": Budget(trials=LEAST_TRIALS - 1)}, "that is worth its time from 10 trials on, and the budget has 9"),
        ({"budget": Budget(trials=None, hours=0.05)}, "its 60 s would be more than 20% of the budget's 0.05 h"),
        ({"probe_seconds": 0}, ""),
    ],
    ids=["few trials", "few hours", "off"],
)
def test_not_probed(change: dict[str, Any], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = settings(tmp_path, progress=True, **change)
    assert ahead(wanted) is None
    told = capsys.readouterr().err
    assert f"methods were not probed: {reason}" in told if reason else "were not probed" not in told


def ahead(wanted: Settings) -> Prospect | None:
    space = bound(wanted)
    with open_run(wanted) as folder, Display(wanted, space, registry()) as display, ExitStack() as sessions:
        return look_ahead(wanted, space, first_recipes(wanted, space, registry())[0], folder, display, sessions)


@pytest.mark.parametrize("seconds", [-1, 121, float("nan")])
def test_seconds_out_of_range_are_refused(seconds: float) -> None:
    with pytest.raises(InvalidInput, match=r"probe_seconds must lie in 0\.\.120, but got"):
        search(features(), probe_seconds=seconds)


class Sluggish:
    """Takes its time to begin."""

    def __init__(self) -> None:
        time.sleep(5)

    def answer(self, seconds: float) -> str:
        time.sleep(seconds)
        return "here"


def test_what_a_process_takes_to_begin_does_not_count_and_what_takes_too_long_is_named() -> None:
    ray_environment.prepare()
    from autocompress.search.ray_session import FreshProcess, session

    with session(1):
        process = FreshProcess(Sluggish)
        assert process._ask("answer", 0, seconds=4.5) == "here"
        assert process._ask("answer", 60, seconds=1, what="the answer") == "the answer took longer than 1 s"
        process.end()


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A whole search that has one recipe left to try beside the baseline."""
    return search(
        features(),
        space=SearchSpace(methods={"slow": None, "halving": {"halves": True}}),
        budget=Budget(trials=LEAST_TRIALS),
        runs=tmp_path_factory.mktemp("runs"),
        limits=["accuracy >= 100%", "size >= 1 GB"],  # met by none, so that no front is judged again
        target="cpu@1",
        workers=1,
        latency_seconds=0.05,
        hardware_seconds=0,
        probe_seconds=120,
        screening=False,
        portfolio=False,
        progress=False,
    )


def test_a_search_leaves_out_what_cannot_help_and_begins_with_what_can(searched: Run) -> None:
    assert searched.left_out["slow"].startswith("probed alone, it made this model ")
    methods = {step.method for recipe, _ in searched.all_trials.values() for step in recipe.steps}
    assert methods == {"halving"}
    assert searched.proposed[1]["origin"].startswith("the probe found it ")
    assert searched.all_trials[1][0].steps[0].params == {"halves": True}
    assert not list((searched.path / "trials").glob(".*"))


def test_what_was_found_is_in_the_run(searched: Run) -> None:
    found = searched.prospect
    assert found is not None and Prospect.from_plain(found.plain()) == found
    assert explanation_data(searched)["probe"]["left_out"] == found.left_out
    assert as_data(searched)["probe"] == found.plain()


def test_a_run_that_goes_on_keeps_what_its_beginning_found(
    searched: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = settings(tmp_path, progress=True)
    wanted.run.mkdir()
    shutil.copy(searched.path / PROBE_FILE, wanted.run)
    assert ahead(wanted) == searched.prospect
    assert "left out slow: probed alone" in capsys.readouterr().err
    with pytest.raises(RunError, match="began without slow, which its probe left out: choose another --name"):
        ahead(replace(wanted, probe_seconds=0))


def test_a_run_that_began_without_goes_on_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = settings(tmp_path, progress=True)
    wanted.run.mkdir()
    (wanted.run / "study.db").touch()
    assert ahead(wanted) is None
    assert "not probed: the run began without" in capsys.readouterr().err


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / PROBE_FILE).write_text("{}")
    with pytest.raises(RunError, match=r"probe\.json is not readable: KeyError: 'looks'"):
        read_prospect(tmp_path)
