"""Installed plugins: find their entry points, import them, and classify what they offer.

Own loader instead of pluggy's: that one skips repeated names, accepts a module without a hook, and stops at the first
import that fails. Here every plugin ends with a status and a reason that names its distribution.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

import pluggy

from autocompress import hookspecs
from autocompress.errors import InvalidInput, PluginError, did_you_mean, first_line
from autocompress.method import API_VERSION, Method, Technique

OWN_DISTRIBUTION = "autocompress"


@dataclass(frozen=True)
class Plugin:
    """One entry point and what became of it."""

    name: str
    distribution: str
    version: str
    methods: tuple[Method, ...] = ()
    reason: str = ""
    """Why it could not be loaded; empty when all is well."""

    @property
    def status(self) -> str:
        return "failed" if self.reason else "ok"

    @property
    def built_in(self) -> bool:
        return self.distribution == OWN_DISTRIBUTION

    @property
    def release(self) -> str:
        """Distribution and version: `autocompress 0.1.0`."""
        return f"{self.distribution} {self.version}"

    def __str__(self) -> str:
        return f"plugin {self.name!r} of {self.release}"


@dataclass(frozen=True)
class Registry:
    """All installed plugins, and the methods of those that loaded."""

    plugins: tuple[Plugin, ...]

    @functools.cached_property
    def methods(self) -> Mapping[str, Method]:
        """Method by name, in the order of techniques."""
        found = [method for plugin in self.plugins for method in plugin.methods]
        return {method.name: method for method in sorted(found, key=lambda m: m.technique.position)}

    @property
    def broken(self) -> list[Plugin]:
        return [plugin for plugin in self.plugins if plugin.reason]

    def plugin_of(self, name: str) -> Plugin:
        """The plugin that offers the method of that name; raises InvalidInput as `get` does."""
        method = self.get(name)
        return next(plugin for plugin in self.plugins if method in plugin.methods)

    def get(self, name: str) -> Method:
        """The method of that name; raises InvalidInput with the nearest known name and what failed to load."""
        if name in self.methods:
            return self.methods[name]
        broken = "".join(f"; {plugin} failed to load: {plugin.reason}" for plugin in self.broken)
        raise InvalidInput(
            f"unknown method {name!r}{did_you_mean(name, self.methods)}{broken}"
            " (a plugin installed in editable mode is installed again after its entry points change)"
        )


@functools.cache
def registry() -> Registry:
    """The installed plugins of this process."""
    return load(metadata.distributions())


def load(distributions: Iterable[metadata.Distribution]) -> Registry:
    """Built-in plugins first, then by distribution and name: the order in which a name is taken."""
    plugins: list[Plugin] = []
    for plugin, entry_point in sorted(_find(distributions), key=lambda found: _order(found[0])):
        try:
            loaded = replace(plugin, methods=_load_methods(entry_point))
            _check_names(loaded, plugins)
        except PluginError as error:
            loaded = replace(plugin, reason=str(error))
        plugins.append(loaded)
    return Registry(tuple(plugins))


def _order(plugin: Plugin) -> tuple[bool, str, str]:
    return not plugin.built_in, plugin.distribution, plugin.name


def _find(distributions: Iterable[metadata.Distribution]) -> Iterator[tuple[Plugin, metadata.EntryPoint]]:
    seen = set()
    for distribution in distributions:
        name = distribution.metadata["Name"]
        if name in seen:  # found twice on sys.path: the first one is what an import would find
            continue
        seen.add(name)
        for entry_point in distribution.entry_points:
            if entry_point.group == hookspecs.ENTRY_POINT_GROUP:
                yield Plugin(entry_point.name, name, distribution.version), entry_point


def _load_methods(entry_point: metadata.EntryPoint) -> tuple[Method, ...]:
    module = _import(entry_point)
    version = getattr(module, "autocompress_api", API_VERSION)
    if version != API_VERSION:
        raise PluginError(
            f"wants plugin API {version!r}, but this autocompress has {API_VERSION}: install a matching one"
        )
    manager = pluggy.PluginManager("autocompress")
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(module)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"misuses a hook: {' '.join(str(error).split())}") from None
    if not manager.get_hookcallers(module):
        raise PluginError("implements no hook: mark `autocompress_methods` with `@autocompress.hookimpl`")
    try:
        offered = [list(methods) for methods in manager.hook.autocompress_methods()]
    except (Exception, SystemExit) as error:  # foreign code
        raise PluginError(f"autocompress_methods failed: {first_line(error)}") from error
    if not offered:
        raise PluginError("autocompress_methods returned None: return a list of methods")
    methods = tuple(method for group in offered for method in group)
    for method in methods:
        _check_method(method)
    return methods


def _import(entry_point: metadata.EntryPoint) -> Any:
    try:
        return entry_point.load()
    except (Exception, SystemExit) as error:  # foreign code
        raise PluginError(f"failed to import {entry_point.value!r}: {first_line(error)}") from error


def _check_method(method: Any) -> None:
    if not isinstance(method, Method):
        raise PluginError(f"autocompress_methods must give instances of Method, but gave {method!r}")
    name = getattr(method, "name", None)
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise PluginError(f"{type(method).__name__}.name must be lower case, digits and underscores, but is {name!r}")
    if not isinstance(getattr(method, "technique", None), Technique):
        raise PluginError(f"{type(method).__name__}.technique must be a Technique")


def _check_names(plugin: Plugin, earlier: list[Plugin]) -> None:
    taken = {method.name: other for other in earlier for method in other.methods}
    own: set[str] = set()
    for method in plugin.methods:
        other = taken.get(method.name)
        if other is not None and other.built_in:
            raise PluginError(f"shadows the built-in method {method.name!r}: give it another name")
        if other is not None:
            raise PluginError(f"repeats the method {method.name!r} of {other}: uninstall one of the two")
        if method.name in own:
            raise PluginError(f"offers the method {method.name!r} twice")
        own.add(method.name)
