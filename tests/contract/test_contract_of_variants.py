"""Rankings of channels keep the contract; on every family only when AUTOCOMPRESS_ALL_FAMILIES is set."""

from __future__ import annotations

from autocompress.testing_families import FAMILIES
from tests.contract.families import EVERYWHERE, VARIANTS, FamilyContract, methods_named, some_families


class TestContract(FamilyContract):
    methods = methods_named(VARIANTS)
    tasks = FAMILIES if EVERYWHERE else some_families("images", "residual", "vit")
