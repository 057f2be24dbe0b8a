"""Every installed method keeps the contract on models that give a sequence."""

from __future__ import annotations

from tests.contract.families import FamilyContract, families


class TestContract(FamilyContract):
    tasks = families("llama", "gpt", "char_lstm")
