"""The site: ``sphinx-build -W -b html docs build/docs``, without a network. Pages are Markdown, the reference is docstrings."""

from __future__ import annotations

import ast
import os
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

DOCS = Path(__file__).parent
ROOT = DOCS.parent
REFERENCE = DOCS / "reference"
INCLUDED = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Documents of the root, and the pages that they are on the site."""

sys.path.insert(0, str(ROOT))

project = "vidgen"
html_title = "vidgen"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_static"]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

add_module_names = False
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_type_aliases = {"Shape": "vidgen.latents.Shape"}
autodoc_typehints_format = "short"
maximum_signature_line_length = 88
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True
suppress_warnings = ["ref.python"]  # types that two modules have by one name
toc_object_entries = False
viewcode_follow_imported_members = False


# The reference ----------------------------------------------------------------------------------------------------------


def rooms() -> dict[str, list[Path]]:
    """The files of each room, a folder or a file of ``vidgen``, the room's own first."""
    found: dict[str, list[Path]] = {}
    for path in sorted((ROOT / "vidgen").rglob("*.py"), key=_module):
        if path.stem != "__main__":
            found.setdefault(".".join(_module(path).split(".")[:2]), []).append(path)
    return found


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def write_reference(_: Sphinx) -> None:
    """A page for each room, made of its docstrings, and one that lists them."""
    REFERENCE.mkdir(exist_ok=True)
    lines = [".. toctree::\n   :hidden:\n   :glob:\n\n   vidgen*\n"]
    for room, files in rooms().items():
        said = (ast.get_docstring(ast.parse(files[0].read_text(encoding="utf-8"))) or "").partition("\n")[0]
        lines.append(f":doc:`{room}`\n   {said}\n")
        parts = [_automodule(_module(path), "=" if _module(path) == room else "-") for path in files]
        _write(REFERENCE / f"{room}.rst", parts)
    _write(REFERENCE / "index.rst", ["Reference\n=========\n", "Every module, from its docstrings, room by room.\n", *lines])


def _automodule(module: str, underline: str) -> str:
    shown = f".. automodule:: {module}\n   :members:\n   :ignore-module-all:\n"
    return f"{module}\n{underline * len(module)}\n\n{shown}"


def _write(path: Path, parts: list[str]) -> None:
    """Only what has changed, so that Sphinx reads no other page again."""
    text = "\n".join(parts)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


MARKUP = re.compile(r"(``.+?``|`[^`]+`|(?<![\w*])\*\w[^*\n]*\w\*(?![\w*]))|([*|])", re.DOTALL)


def keep_formulae(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Stars and bars are products and magnitudes in our docstrings, but for code and *words*."""
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]  # or napoleon takes for a type what stands before a colon
    lines[:] = MARKUP.sub(lambda found: found[1] or f"\\{found[2]}", "\n".join(lines)).split("\n")


class Names(SphinxTransform):
    """Names such as ``vidgen.latents.Latent`` lead to the reference, wherever a page has them as code."""

    default_priority = 9

    def apply(self, **kwargs: Any) -> None:
        for node in list(self.document.findall(nodes.literal)):
            name = node.astext()
            if re.fullmatch(r"vidgen(\.\w+)+", name) and not isinstance(node.parent, nodes.reference | pending_xref):
                where = {"refdomain": "py", "reftype": "obj", "reftarget": name, "refwarn": False, "refdoc": self.env.docname}
                link = pending_xref("", **where)
                node.replace_self(link)
                link += node


class Figures(SphinxTransform):
    """Short cells of tables, such as a figure with its interval, are not broken over lines: wide tables scroll."""

    default_priority = 9

    def apply(self, **kwargs: Any) -> None:
        for cell in self.document.findall(nodes.entry):
            if len(cell.astext()) <= 24 and not isinstance(cell.parent.parent, nodes.thead):
                cell["classes"].append("short")


# Links ------------------------------------------------------------------------------------------------------------------


def on_the_site(text: str, folder: Path) -> str:
    """A document of ``folder`` with its links as they are from a page of the site: on GitHub they lead to files."""

    def led(found: re.Match[str]) -> str:
        path, sharp, anchor = found["link"].partition("#")
        if not path or not (folder / path).exists():
            return found[0]
        target = os.path.relpath(folder / path, ROOT)
        page = INCLUDED.get(target) or os.path.relpath(ROOT / target, DOCS)
        text = "" if re.fullmatch(r"[\w/]+\.md", found["text"]) else found["text"]  # a page is called by its title
        return f"[{text}]({page}{sharp}{anchor})"

    return re.sub(r"\[(?P<text>[^][]*)\]\((?P<link>[^)\s:]+)\)", led, text)


def lead_page(app: Sphinx, name: str, content: list[str]) -> None:
    """The links of a page, before it is read; those of the reference are its own."""
    content[0] = on_the_site(content[0], DOCS) if app.env.doc2path(name).suffix == ".md" else content[0]


def lead_included(app: Sphinx, path: Path, name: str, content: list[str]) -> None:
    """The links of a document of the root, before it is put into a page."""
    content[0] = on_the_site(content[0], ROOT)


def setup(app: Sphinx) -> None:
    """Connects all of this to Sphinx."""
    app.connect("builder-inited", write_reference)
    app.connect("autodoc-process-docstring", keep_formulae, priority=400)  # before napoleon
    app.connect("source-read", lead_page)
    app.connect("include-read", lead_included)
    app.add_transform(Names)
    app.add_transform(Figures)
