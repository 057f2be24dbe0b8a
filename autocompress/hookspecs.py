"""The hooks a plugin may implement: the whole of what a plugin author needs beside `Method`.

A plugin is a distribution with an entry point in the group `autocompress`, which names a module:

    [project.entry-points.autocompress]
    my_plugin = "my_package"

and in that module one function:

    from autocompress import hookimpl

    @hookimpl
    def autocompress_methods():
        return [MyMethod()]
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from autocompress.method import Method

ENTRY_POINT_GROUP = "autocompress"

hookspec = pluggy.HookspecMarker("autocompress")
hookimpl = pluggy.HookimplMarker("autocompress")


@hookspec
def autocompress_methods() -> Iterable[Method]:  # type: ignore[empty-body]
    """The methods that the plugin offers. Called once in every process that compresses, before anything else."""
