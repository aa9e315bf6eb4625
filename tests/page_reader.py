"""A report as a parser sees it."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path


class PageReader(HTMLParser):
    """Collects scripts, addresses, figures, table cells and headings of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.addresses: list[str] = []
        self.figures: list[str] = []
        self.cells: list[str] = []
        self.headings: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self._open: list[str] | None = None
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "action", "data") and v is not None]
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if "plotly-graph-div" in (found.get("class") or ""):
            self.figures.append(str(found["id"]))
        kinds = {"script": self.scripts, "td": self.cells, "h2": self.headings}
        if tag in kinds:
            self._open = kinds[tag]
            self._open.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "td", "h2"):
            self._open = None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self._open[-1] += data
