"""Every installed method of this technique keeps the contract on every family."""

from __future__ import annotations

from autocompress import Technique
from tests.contract.families import FamilyContract, methods_of


class TestContract(FamilyContract):
    methods = methods_of(Technique.DISTILLATION)
