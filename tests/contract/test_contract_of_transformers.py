"""Every installed method keeps the contract on transformers."""

from __future__ import annotations

from tests.contract.families import FamilyContract, families


class TestContract(FamilyContract):
    tasks = families("vit", "encoder", "bert")
