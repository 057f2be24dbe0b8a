"""Every installed method keeps the contract on every family; a new one is tested by being installed."""

from __future__ import annotations

from autocompress.testing import MethodContract
from autocompress.testing_families import FAMILIES


class TestContract(MethodContract):
    tasks = FAMILIES
