"""What the contract asks of every installed method whatever the family, and that no family is left out."""

from __future__ import annotations

import importlib
from pathlib import Path

from autocompress.testing import MethodContract, UnderTest
from autocompress.testing_families import FAMILIES
from tests.contract.families import CHECKS, FamilyContract


class TestMethods(UnderTest):
    tasks = FAMILIES

    test_has_a_name_and_a_technique = MethodContract.test_has_a_name_and_a_technique
    test_is_applicable_to_a_task = MethodContract.test_is_applicable_to_a_task


def test_each_family_and_each_check_has_its_place() -> None:
    checks = {name for name in vars(MethodContract) if name.startswith("test_")}
    assert checks == {check.__name__ for check in CHECKS} | {name for name in vars(TestMethods) if name in checks}
    files = [path.stem for path in Path(__file__).parent.glob("test_contract_of_*.py") if path != Path(__file__)]
    contracts = [importlib.import_module(f"tests.contract.{name}").TestContract for name in files]
    assert all(issubclass(contract, FamilyContract) and contract.methods is None for contract in contracts)
    assert sorted(name for contract in contracts for name in contract.tasks) == sorted(FAMILIES)
