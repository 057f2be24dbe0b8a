"""Every installed method keeps the contract; a new one is tested by being installed."""

from __future__ import annotations

from autocompress.testing import MethodContract


class TestContract(MethodContract):
    pass
