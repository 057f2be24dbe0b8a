"""How much a search may spend."""

from __future__ import annotations

from pydantic import Field

from autocompress.document import Document


class Budget(Document):
    """A search ends at whichever comes first."""

    trials: int | None = Field(default=50, ge=1)
    """Trials in all, the baseline and the failed ones included; None: until the time is up."""
    hours: float | None = Field(default=None, gt=0)
    """Wall time of this call."""
    minutes_per_trial: float | None = Field(default=None, gt=0)
    """A trial that takes longer is ended as `failed:timeout`."""
