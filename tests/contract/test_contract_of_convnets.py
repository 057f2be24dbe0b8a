"""Every installed method keeps the contract on convolutional nets."""

from __future__ import annotations

from tests.contract.families import FamilyContract, families


class TestContract(FamilyContract):
    tasks = families("images", "residual", "mobilenet", "efficientnet", "grouped", "dict_inputs")
