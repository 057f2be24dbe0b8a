"""How Ray is told to be quiet and to stay on loopback: it reads its environment when it is imported and started."""

from __future__ import annotations

import os
import secrets
import sys

ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # every port on 127.0.0.1
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # a snapshot of the session is never read
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a user's relative paths stay true in workers
    # Workers see all GPUs and use the target's; who measures is settled by the device lock.
    "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",
}


def prepare() -> None:
    """Set what the user did not set; called before Ray is imported. A Ray that runs already is left as it is."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}  # else Ray keeps one in the home folder
    for name, value in {**ENVIRONMENT, **token}.items():
        os.environ.setdefault(name, value)
