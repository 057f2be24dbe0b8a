"""What comes before the first trial: methods looked at alone, and those left out that cannot help."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack

from autocompress.errors import RunError
from autocompress.plugins import registry
from autocompress.prospect import Prospect
from autocompress.run import Run
from autocompress.search import ray_environment
from autocompress.search.context import trial_context
from autocompress.search.display import Display
from autocompress.search.folder import RunFolder
from autocompress.search.prospecting import SCRATCH, prospect
from autocompress.search.settings import Settings
from autocompress.search.warm_start import Start
from autocompress.space import BoundSpace

LEAST_TRIALS = 10
"""A smaller search is over before it is worth its time to look at methods alone."""
MOST_SHARE = 0.2
"""The share of the budget's hours that this may take."""


def look_ahead(
    settings: Settings,
    space: BoundSpace,
    starts: Sequence[Start],
    folder: RunFolder,
    display: Display,
    sessions: ExitStack,
) -> Prospect | None:
    """What each method does alone, looked at in a fresh process before the first trial of a run; None where nobody did.

    A run that goes on keeps what its beginning found, since methods may not come or go within it. Ray is started for it
    until `sessions` ends. Raises RunError where all methods are wanted, and the run began without some.
    """
    found = Run(folder.path).prospect
    if found is not None:
        if found.left_out and not settings.probe_seconds:
            raise RunError(
                f"run {str(folder.path)!r} began without {', '.join(found.left_out)}, which its probe left out: choose"
                " another --name to try all methods"
            )
        display.left_out(found.left_out)
        return found
    if not settings.probe_seconds or not space.parameters:
        return None
    reason = _not_worth_probing(settings, folder)
    if reason:
        display.not_probed(reason)
        return None
    ray_environment.prepare()
    from autocompress.search.ray_session import probing, session

    sessions.enter_context(session(settings.workers, settings.gpu_share))
    display.probing(len(space.parameters))
    context, seconds = trial_context(settings, folder, None), settings.probe_seconds
    kept = {step.method for start in starts if start.asked for step in start.recipe.steps}
    with probing(context, folder.log_file) as process:
        made = prospect(process, space, registry(), context, kept, seconds, display.looking_at)
    shutil.rmtree(folder.path / "trials" / SCRATCH, ignore_errors=True)  # of a process that was stopped
    if isinstance(made, str):
        display.not_probed(made)
        return None
    folder.write_prospect(made)
    folder.event("probed", seconds=made.seconds, left_out=list(made.left_out))
    display.probed(made)
    return made


def _not_worth_probing(settings: Settings, folder: RunFolder) -> str:
    """Why a search that would be probed is not; empty where it is."""
    trials, hours, seconds = settings.budget.trials, settings.budget.hours, settings.probe_seconds
    if folder.study_file.exists():
        return "the run began without"
    if trials is not None and trials < LEAST_TRIALS:
        return f"that is worth its time from {LEAST_TRIALS} trials on, and the budget has {trials}"
    if hours is not None and seconds > MOST_SHARE * hours * 3600:
        return f"its {seconds:g} s would be more than {MOST_SHARE:.0%} of the budget's {hours:g} h"
    return ""
