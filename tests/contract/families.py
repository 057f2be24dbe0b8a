"""The contract on all families; a file a technique, so that processes can share the work."""

from __future__ import annotations

from autocompress import Method, Technique
from autocompress.plugins import registry
from autocompress.testing import MethodContract
from autocompress.testing_families import FAMILIES


class FamilyContract(MethodContract):
    tasks = FAMILIES


def methods_of(technique: Technique) -> list[Method]:
    return [method for method in registry().methods.values() if method.technique is technique]
