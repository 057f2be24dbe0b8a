"""The loader: every plugin ends with a status, and a reason that names its distribution."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from autocompress.errors import InvalidInput
from autocompress.plugins import Plugin, Registry, load, registry

HEAD = """
from autocompress import Method, Technique, hookimpl

class Prune(Method):
    name = "prune_it"
    technique = Technique.PRUNING
"""

GOOD = f"""{HEAD}
@hookimpl
def autocompress_methods():
    return [Prune()]
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Writes a distribution as an installer would: `install(name, source)`."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(distribution: str, source: str, *, version: str = "1.0", entry_point: str = "it") -> None:
        module = f"fake_{distribution.replace('-', '_')}"
        monkeypatch.delitem(sys.modules, module, raising=False)
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
        info = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[autocompress]\n{entry_point} = {module}\n")

    return write


def found(folder: Path) -> Registry:
    return load(metadata.distributions(path=[str(folder)]))


def only(folder: Path) -> Plugin:
    (plugin,) = found(folder).plugins
    return plugin


def test_a_plugin_is_found_by_its_entry_point(install: Install, tmp_path: Path) -> None:
    install("acme-prune", GOOD, version="2.3")
    plugin = only(tmp_path)
    assert (plugin.name, plugin.distribution, plugin.version) == ("it", "acme-prune", "2.3")
    assert (plugin.status, plugin.reason, plugin.built_in) == ("ok", "", False)
    assert [method.name for method in plugin.methods] == ["prune_it"]
    assert found(tmp_path).get("prune_it").technique == "pruning"


BROKEN = {
    "does not import": ("import no_such_module", "failed to import 'fake_acme': ModuleNotFoundError: .*no_such_module"),
    "is no Python": ("def", "failed to import 'fake_acme': SyntaxError: "),
    "exits": ("raise SystemExit(3)", "failed to import 'fake_acme': SystemExit: 3"),
    "has no hook": (HEAD, "implements no hook: mark `autocompress_methods` with `@autocompress.hookimpl`"),
    "forgets the mark": (GOOD.replace("@hookimpl", ""), "implements no hook"),
    "misspells the hook": (GOOD.replace("_methods()", "_methodz()"), "misuses a hook: .*autocompress_methodz"),
    "wants an argument": (GOOD.replace("_methods()", "_methods(task)"), r"misuses a hook: .*\{'task'\}"),
    "is of another API": ("autocompress_api = 99\n" + GOOD, "wants plugin API 99, but this autocompress has 1"),
    "has a hook that raises": (GOOD.replace("return [", "[][0]; ["), "autocompress_methods failed: IndexError: list"),
    "has a hook that exits": (GOOD.replace("return", "raise SystemExit(4) #"), "failed: SystemExit: 4"),
    "yields, then raises": (GOOD.replace("return", "yield Prune(); 1 / 0 #"), "failed: ZeroDivisionError: division"),
    "gives one method": (GOOD.replace("[Prune()]", "Prune()"), "failed: TypeError: 'Prune' object is not iterable"),
    "forgets to return": (GOOD.replace("return", ""), "autocompress_methods returned None"),
    "gives no method": (GOOD.replace("[Prune()]", "[3]"), "must give instances of Method, but gave 3"),
    "gives a class": (GOOD.replace("Prune()]", "Prune]"), "must give instances of Method, but gave <class '.*Prune'>"),
    "is badly named": (GOOD.replace('"prune_it"', '"Prune it"'), "Prune.name must be lower case.* but is 'Prune it'"),
    "has no name": (GOOD.replace('name = "prune_it"', ""), "Prune.name must be lower case.* but is None"),
    "lacks a technique": (GOOD.replace("technique =", "other ="), "Prune.technique must be a Technique"),
    "says a technique in text": (GOOD.replace("Technique.PRUNING", "'prune'"), "Prune.technique must be a Technique"),
    "repeats itself": (GOOD.replace("[Prune()]", "[Prune(), Prune()]"), "offers the method 'prune_it' twice"),
}


@pytest.mark.parametrize(("source", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_plugin_that(source: str, reason: str, install: Install, tmp_path: Path) -> None:
    install("acme", source, version="2.3")
    plugin = only(tmp_path)
    assert str(plugin) == "plugin 'it' of acme 2.3"
    assert (plugin.status, plugin.methods) == ("failed", ())
    assert re.search(reason, plugin.reason)
    assert "\n" not in plugin.reason


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("Acme", "aaa", "repeats the method 'prune_it' of plugin 'it' of Acme 1.0: uninstall one of the two"),
        ("autocompress", "Acme", "shadows the built-in method 'prune_it': give it another name"),
    ],
)
def test_who_comes_second_loses_the_name(
    first: str, second: str, reason: str, install: Install, tmp_path: Path
) -> None:
    install(second, GOOD)
    install(first, GOOD)
    plugins = found(tmp_path).plugins
    assert [(plugin.distribution, plugin.reason) for plugin in plugins] == [(first, ""), (second, reason)]
    assert found(tmp_path).plugin_of("prune_it").distribution == first


def test_a_broken_plugin_does_not_take_a_name(install: Install, tmp_path: Path) -> None:
    install("aaa", GOOD.replace("[Prune()]", "[Prune(), 3]"))
    install("bbb", GOOD)
    assert [plugin.status for plugin in found(tmp_path).plugins] == ["failed", "ok"]
    assert found(tmp_path).plugin_of("prune_it").distribution == "bbb"


def test_entry_points_may_share_a_name(install: Install, tmp_path: Path) -> None:
    install("aaa", GOOD)
    install("bbb", GOOD.replace("prune_it", "prune_too"))
    assert [(plugin.name, plugin.status) for plugin in found(tmp_path).plugins] == [("it", "ok"), ("it", "ok")]


def test_a_distribution_found_twice_counts_once(install: Install, tmp_path: Path) -> None:
    install("acme", GOOD)
    twice = load(metadata.distributions(path=[str(tmp_path), str(tmp_path)]))
    assert [plugin.status for plugin in twice.plugins] == ["ok"]


def test_methods_come_in_the_order_of_techniques(install: Install, tmp_path: Path) -> None:
    install("aaa", GOOD.replace("prune_it", "quantize_it").replace("PRUNING", "QUANTIZATION"))
    install("bbb", GOOD)
    assert list(found(tmp_path).methods) == ["prune_it", "quantize_it"]


def test_an_unknown_method_names_the_nearest_and_what_failed_to_load(install: Install, tmp_path: Path) -> None:
    install("acme", GOOD)
    install("worse", "import no_such_module", version="0.7", entry_point="worst")
    with pytest.raises(InvalidInput) as caught:
        found(tmp_path).get("prune_if")
    assert "unknown method 'prune_if'; did you mean 'prune_it'?" in str(caught.value)
    assert "plugin 'worst' of worse 0.7 failed to load: failed to import 'fake_worse'" in str(caught.value)


def test_a_fresh_process_finds_the_same_methods() -> None:
    code = "from autocompress.plugins import registry; print(*registry().methods)"
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert fresh.returncode == 0, fresh.stderr
    assert fresh.stdout.split() == list(registry().methods)


def test_every_installed_plugin_loads_and_brings_methods() -> None:
    assert {plugin.name for plugin in registry().plugins if plugin.built_in} >= {
        "pruning",
        "distillation",
        "quantization",
    }
    assert [f"{plugin}: {plugin.reason}" for plugin in registry().broken] == []
