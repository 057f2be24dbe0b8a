"""Every installed method keeps the contract on perceptrons, on features and on embeddings."""

from __future__ import annotations

from tests.contract.families import FamilyContract, families


class TestContract(FamilyContract):
    tasks = families("features", "two_heads", "recommender")
