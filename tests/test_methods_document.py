"""docs/methods.md and the matrix behind it say what is true of the installed methods; nothing is measured here."""

from __future__ import annotations

import pytest

from autocompress.method import Technique
from autocompress.testing_families import FAMILIES
from benchmarks.method_matrix import Cell, Matrix, read
from benchmarks.methods_document import DOCUMENT, built_in, render, unchanged

HOW = "record them: python benchmarks/method_matrix.py && python -m benchmarks.methods_document"
KEYS = {"bytes_before", "bytes_after", "time_ratio", "time_ratio_low", "time_ratio_high", "output_error", "metric"}


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return read()


def measured(matrix: Matrix) -> dict[tuple[str, str], Cell]:
    """The cells of methods that were applicable."""
    return {
        (method, family): cell
        for method, row in matrix["cells"].items()
        for family, cell in row.items()
        if "not_applicable" not in cell
    }


def test_the_document_is_what_is_rendered_now(matrix: Matrix) -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == render(matrix), HOW


def test_every_method_is_in_the_document() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert [method.name for method in built_in() if text.count(f"| `{method.name}` |") != 2] == [], HOW


def test_every_cell_is_filled(matrix: Matrix) -> None:
    assert matrix["cells"].keys() == {method.name for method in built_in()}, HOW
    missing = [(name, family) for name, row in matrix["cells"].items() for family in FAMILIES if family not in row]
    assert missing == [], HOW
    assert all(cell["not_applicable"].strip() for cells in matrix["cells"].values() for cell in cells.values()
               if "not_applicable" in cell)  # fmt: skip


def test_no_method_failed(matrix: Matrix) -> None:
    assert {key: cell for key, cell in measured(matrix).items() if not cell.keys() >= KEYS} == {}


def test_what_is_applicable_changed_something(matrix: Matrix) -> None:
    """Bytes, time or outputs; a training loss changes the weights that were trained with it, and so the outputs."""
    losses = {method.name for method in built_in() if method.technique is Technique.DISTILLATION}
    cells = {key: cell for key, cell in measured(matrix).items() if key[0] not in losses and "failure" not in cell}
    same = [key for key, cell in cells.items() if unchanged(cell)]
    assert same == [], "what changes nothing is not applicable, and must say why"


def test_a_cell_like_its_baseline_is_told() -> None:
    cell = {"bytes_before": 1000, "bytes_after": 1004, "output_error": 0.0, "time_ratio": 1.01}
    same_time = {"time_ratio_low": 0.98, "time_ratio_high": 1.03}
    assert unchanged(cell | same_time)
    assert not unchanged(cell | {"time_ratio_low": 0.8, "time_ratio_high": 0.9})
    assert not unchanged(cell | same_time | {"bytes_after": 900})
    assert not unchanged(cell | same_time | {"output_error": 0.01})
