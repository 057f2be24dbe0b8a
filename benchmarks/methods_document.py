"""docs/methods.md, made from the installed methods and the recorded matrix.

python -m benchmarks.methods_document
"""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from autocompress import Choice, Float, Integer, Method, Parameter, Task, Technique, Trait
from autocompress.plugins import Plugin, registry
from autocompress.testing_families import FAMILIES
from benchmarks.method_matrix import Cell, Matrix, read

DOCUMENT = Path(__file__).parents[1] / "docs" / "methods.md"

HEAD = """# Methods

Made by `python -m benchmarks.methods_document` from what is installed and from `benchmarks/method_matrix.json`, which
`python benchmarks/method_matrix.py` records: each method alone, with its defaults, on a tiny trained model of each
family, saved, loaded again and measured beside the uncompressed model.

A cell reads `0.26x 1.05x (0.97-1.12) e=.01`: bytes on disk and time of a call by those of the uncompressed model, the
time's 95 % interval, and how far the outputs are from its outputs (RMS of the difference by their RMS; recovery
training is part of it). An interval that holds 1: no difference was seen. `-`: not applicable, with the reason below
the table. Models of a few kilobytes show what a method does, not what it gains: there fixed costs outweigh arithmetic.
"""


def render(matrix: Matrix) -> str:
    """The whole document; the same for the same methods and matrix."""
    parts = [HEAD, _machine(matrix)]
    for technique in Technique:
        methods = [method for method in built_in() if method.technique is technique]
        if methods:
            parts += [f"## {technique.capitalize()}\n", _descriptions(methods, matrix), _cells(methods, matrix)]
    return "\n".join(parts)


def built_in() -> list[Method]:
    """The methods that come with autocompress."""
    return [method for plugin in _plugins() for method in plugin.methods]


def unchanged(cell: Cell) -> bool:
    """Whether what ships has the bytes, the time and the outputs of the uncompressed model, as far as can be seen."""
    same_bytes = abs(cell["bytes_after"] / cell["bytes_before"] - 1) < 0.01
    same_time = cell["time_ratio_low"] <= 1 <= cell["time_ratio_high"]
    return bool(same_bytes and same_time and cell["output_error"] < 1e-6)


def _plugins() -> list[Plugin]:
    return [plugin for plugin in registry().plugins if plugin.built_in]


def _machine(matrix: Matrix) -> str:
    machine = matrix["machine"]
    measured = [cell for row in matrix["cells"].values() for cell in row.values() if _is_measured(cell)]
    seconds = " or ".join(f"{value:g}" for value in sorted({cell["seconds"] for cell in measured}))
    return (
        f"Recorded on {machine['date']}: {machine['hardware']}, {machine['cores']} cores, target {machine['target']},"
        f" torch {machine['torch']}, Python {machine['python']}, up to {seconds} s a measurement.\n"
    )


def _descriptions(methods: Iterable[Method], matrix: Matrix) -> str:
    plugin_of = {method.name: plugin.name for plugin in _plugins() for method in plugin.methods}
    rows = [
        [
            f"`{method.name}`",
            _summary(method),
            _parameters(method, matrix),
            _traits(method.gives),
            _traits(method.refuses),
            plugin_of[method.name],
        ]
        for method in methods
    ]
    return _table(["method", "what it does", "parameters: range (default)", "leaves", "refuses", "plugin"], rows)


def _summary(method: Method) -> str:
    """The first sentence of the class docstring."""
    text = " ".join(inspect.cleandoc(type(method).__doc__ or "").split())
    return _plain(re.split(r"\.\s(?=[A-Z])", text, maxsplit=1)[0].rstrip("."))


def _parameters(method: Method, matrix: Matrix) -> str:
    space = method.search_space(_task_for(method, matrix))
    return "; ".join(f"`{name}`: {_range(parameter)}" for name, parameter in space.items())


def _task_for(method: Method, matrix: Matrix) -> Task:
    """A task that the method is applicable to; ranges may depend on it."""
    row = matrix["cells"].get(method.name, {})
    return FAMILIES[next((name for name in FAMILIES if _is_measured(row.get(name, {}))), "images")]()


def _range(parameter: Parameter) -> str:
    if isinstance(parameter, Choice):
        return f"{', '.join(str(option) for option in parameter.options)} ({parameter.default})"
    assert isinstance(parameter, Float | Integer)
    log = ", log" * parameter.log
    return f"{parameter.low:g} to {parameter.high:g}{log} ({parameter.default:g})"


def _traits(traits: frozenset[Trait]) -> str:
    return ", ".join(trait for trait in Trait if trait in traits)


def _cells(methods: Iterable[Method], matrix: Matrix) -> str:
    rows, reasons = [], []
    for method in methods:
        row = matrix["cells"].get(method.name, {})
        rows.append([f"`{method.name}`", *(_cell(row.get(family)) for family in FAMILIES)])
        reasons += _reasons(method.name, row)
    table = _table(["", *FAMILIES], rows)
    if not reasons:
        return table
    return f"{table}\n<details><summary>Why not applicable</summary>\n\n" + "\n".join(reasons) + "\n\n</details>\n"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "not recorded"
    if "failure" in cell:
        return f"**failed**: {_plain(cell['failure'])}"
    if not _is_measured(cell):
        return "-"
    size, time, low, high = (
        _ratio(value)
        for value in (
            cell["bytes_after"] / cell["bytes_before"],
            cell["time_ratio"],
            cell["time_ratio_low"],
            cell["time_ratio_high"],
        )
    )
    return f"{size}x {time}x ({low}-{high}) e={_short(cell['output_error'])}"


def _reasons(method: str, row: dict[str, Cell]) -> list[str]:
    """One line for each reason, with the families that it holds for."""
    families = defaultdict(list)
    for family in FAMILIES:
        if "not_applicable" in row.get(family, {}):
            families[row[family]["not_applicable"]].append(family)
    return [f"- {', '.join(names)}: {_plain(reason)}" for reason, names in families.items()]


def _is_measured(cell: Cell) -> bool:
    return "bytes_after" in cell


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _short(value: float) -> str:
    """One significant digit: `.01`, `0`, `2e-7`."""
    if value == 0:
        return "0"
    return f"{value:.0e}".replace("e-0", "e-") if value < 0.001 else f"{float(f'{value:.1g}'):g}".removeprefix("0")


def _plain(text: str) -> str:
    """One line of text that Markdown's tables and lists leave as it is."""
    return re.sub(r"([|*<>])", r"\\\1", " ".join(text.split()))


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    DOCUMENT.write_text(render(read()), encoding="utf-8")
    print(DOCUMENT)
