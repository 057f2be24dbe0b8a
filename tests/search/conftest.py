"""The faulty plugin, installed as a distribution that workers find too."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from autocompress.plugins import registry

PLUGIN = Path(__file__).parents[1] / "faulty_plugin.py"


@pytest.fixture(scope="session")
def plugin_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH that holds the distribution `faulty-plugin`."""
    site = tmp_path_factory.mktemp("site")
    shutil.copy(PLUGIN, site)
    info = site / "faulty_plugin-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty-plugin\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text("[autocompress]\nfaulty = faulty_plugin\n")
    return site


@pytest.fixture(scope="module")
def faulty(plugin_site: Path) -> Iterator[None]:
    """The plugin installed for this process and the workers that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(plugin_site))
        patch.setenv("PYTHONPATH", str(plugin_site))
        registry.cache_clear()
        yield
    registry.cache_clear()
