"""The methods that compile keep the contract; on every family only when AUTOCOMPRESS_ALL_FAMILIES is set."""

from __future__ import annotations

from autocompress.testing_families import FAMILIES
from tests.contract.families import COMPILED, EVERYWHERE, FamilyContract, methods_named, some_families


class TestContract(FamilyContract):
    methods = methods_named(COMPILED)
    tasks = FAMILIES if EVERYWHERE else some_families("images")
