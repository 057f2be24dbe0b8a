"""Every installed method keeps the contract on every family; a new one is tested by being installed."""

from __future__ import annotations

from tests.other_process import OtherProcess


class TestContract(OtherProcess):
    pass
