"""The methods that export keep the contract; on every family only when AUTOCOMPRESS_ALL_FAMILIES is set."""

from __future__ import annotations

from tests.contract.families import EXPORTED, FamilyContract, methods_named, some_families


class TestContract(FamilyContract):
    methods = methods_named(EXPORTED)
    tasks = some_families("images", "bert", "lstm", "variable_length", "two_heads", "dict_inputs")
