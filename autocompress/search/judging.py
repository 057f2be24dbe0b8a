"""What comes after the last trial: the finalists judged once more, beside the hardware's limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autocompress.run import Run
from autocompress.search.display import Display
from autocompress.search.folder import RunFolder
from autocompress.search.settings import Settings
from autocompress.search.trial import TrialContext

if TYPE_CHECKING:
    from autocompress.search.ray_session import JudgeProcess


def unjudged(folder: RunFolder) -> list[int]:
    """Of baseline and front the trials that were not judged yet."""
    run = Run(folder.path)
    return [n for n in sorted({run.baseline.number, *run.front.index}) if n not in run.finals] if run.scored else []


def unseen_hardware(settings: Settings, folder: RunFolder) -> bool:
    """Whether the hardware's limits are wanted and not known."""
    run = Run(folder.path)
    return bool(settings.hardware_seconds and run.scored and not run.surroundings)


def judge_finalists(context: TrialContext, settings: Settings, folder: RunFolder, display: Display) -> None:
    """Baseline and front once more, in a fresh process and on the test split; each trial once.

    What cannot be judged is told, and costs nothing else of the result.
    """
    from autocompress.search.ray_session import judging

    missing = unjudged(folder)
    if not missing and not unseen_hardware(settings, folder):
        return
    try:
        with judging(context, settings.limits, folder.log_file) as judge:
            surroundings = look_around(judge, settings, folder, display)
            for number in display.judging(missing):
                final = judge(number, surroundings)
                if isinstance(final, str):
                    folder.event("not judged", trial=number, reason=final)
                    display.not_judged(number, final)
                else:
                    folder.write_final(number, final)
    except KeyboardInterrupt:
        display.interrupted()


def look_around(judge: JudgeProcess, settings: Settings, folder: RunFolder, display: Display) -> dict[str, Any]:
    """By target, what its hardware can do at most, and the baseline with free acceleration; once a run."""
    known = Run(folder.path).surroundings
    if known or not settings.hardware_seconds:
        return known
    display.looking_around(settings.targets)
    found = judge.surroundings(settings.hardware_seconds)
    if isinstance(found, str):
        display.no_surroundings(found)
        return {}
    folder.write_surroundings(found)
    return found
