"""Every installed method keeps the contract on recurrent nets."""

from __future__ import annotations

from tests.contract.families import FamilyContract, families


class TestContract(FamilyContract):
    tasks = families("lstm", "gru", "variable_length", "gru4rec")
