"""The site's pages: cards rendered from Markdown, templates, checksums."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt

from hub_export.card import HUB
from hub_export.shelf import MANIFEST, Place, read_manifest

HERE = Path(__file__).parent
_TEMPLATES = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
# Cards may come from elsewhere: HTML in them is shown, not obeyed.
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
_TAG = re.compile(r"^<!-- .*? -->\n?", re.MULTILINE)


@dataclass(frozen=True)
class Module:
    """A module that is offered: what the manifest says, its files, its checksum."""

    facts: dict[str, Any]
    place: Place
    serving: Place | None
    sha256: str

    @property
    def handle(self) -> str:
        """Such as "bit/xs-r26x0.5/1"."""
        return str(self.facts["handle"])

    @property
    def megabytes(self) -> str:
        """Size of the archive."""
        return f"{self.place.archive.stat().st_size / 1e6:.1f} MB"

    @property
    def text(self) -> str:
        """What a search looks at: handle, preset, task, data set and architecture."""
        names = ("handle", "preset", "task", "dataset", "architecture")
        return " ".join(str(self.facts[name]) for name in names).lower()

    def matches(self, query: str) -> bool:
        """Whether every word of the query is in the text."""
        return all(word in self.text for word in query.lower().split())


class Hub:
    """The modules of a folder as they are now; read anew when the manifest changed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._stamp: tuple[int, int] | None = None
        self._modules: dict[str, Module] = {}

    @property
    def modules(self) -> dict[str, Module]:
        """Handle → module, sorted; only those whose files are all there."""
        manifest = self.root / MANIFEST
        stat = manifest.stat() if manifest.exists() else None
        stamp = (stat.st_mtime_ns, stat.st_ino) if stat else None
        if stamp != self._stamp:
            facts = read_manifest(self.root)
            found = (_module(self.root, facts[handle]) for handle in sorted(facts))
            self._modules = {module.handle: module for module in found if module}
            self._stamp = stamp
        return self._modules

    def archives(self) -> dict[str, tuple[Place, str]]:
        """Handle → files and SHA-256, of fine-tunable and of serving modules."""
        found = {handle: (module.place, module.sha256) for handle, module in self.modules.items()}
        for module in self.modules.values():
            if module.serving is not None:
                found[module.facts["serving"]] = (module.serving, _sha256_in(module.serving))
        return found


def _sha256_in(place: Place) -> str:
    return place.checksum.read_text().split()[0]


def _module(root: Path, facts: dict[str, Any]) -> Module | None:
    place = Place.of(root, facts["handle"])
    serving = Place.of(root, facts["serving"]) if facts["serving"] else None
    files = [place.card, place.archive, place.checksum]
    files += [serving.archive, serving.checksum] if serving else []
    if not all(path.is_file() for path in files):
        return None
    return Module(facts, place, serving, _sha256_in(place))


def card_html(module: Module, base_url: str) -> str:
    """The card as HTML, its snippets with this site's address."""
    text = _TAG.sub("", module.place.card.read_text(encoding="utf-8"))
    text = text.replace(f'"{HUB}/', f'"{base_url}/')
    text = text.replace(f"`{HUB}` is the address or the folder that holds the modules.\n\n", "")
    text = re.sub(r"^# .*\n", "", text, count=1)  # the page has its own title
    return str(_MARKDOWN.render(text))


def page(name: str, **values: Any) -> str:
    """A template with its values."""
    return _TEMPLATES.get_template(name).render(**values)
