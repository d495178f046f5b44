"""Sees that every link of a built site leads somewhere: ``python docs/links.py build/docs``.

Pages, anchors, pictures, styles and scripts of the site itself; links to other sites are not followed. Sphinx warns of most of
this in Markdown; here it is the pages as a browser gets them, with what themes, includes and the reference have made.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links of a page, and the anchors that others may lead to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value is not None:
                self.links.add(value)
            elif value and (name == "id" or (tag == "a" and name == "name")):
                self.anchors.add(value)


def broken(site: Path) -> list[str]:
    """A line for each link that leads nowhere: the page, the link, and what is not there."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            where = f"{path.relative_to(site.resolve())}: {link}"
            if not target.is_file():
                found.append(f"{where} (no such file)")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{where} (no such anchor)")
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Prints what is broken in a site; returns 1 where anything is, or where there is no site."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("site", type=Path, help="the folder that sphinx-build wrote")
    site = parser.parse_args(words).site
    if not (site / "index.html").is_file():
        print(f"{site} is no built site: sphinx-build -W -b html docs {site}", file=sys.stderr)
        return 1
    found = broken(site)
    print("\n".join(found) or f"{site}: every link leads somewhere", file=sys.stderr if found else sys.stdout)
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
