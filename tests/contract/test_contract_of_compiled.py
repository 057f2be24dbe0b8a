"""The methods that compile keep the contract; on every family only when AUTOCOMPRESS_ALL_FAMILIES is set."""

from __future__ import annotations

from tests.contract.families import COMPILED, FamilyContract, methods_named, some_families


class TestContract(FamilyContract):
    methods = methods_named(COMPILED)
    tasks = some_families("features", "images")
