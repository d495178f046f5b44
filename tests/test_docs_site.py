"""What builds and checks the site, ``docs/conf.py`` and ``docs/links.py``; the site itself is built by ``.ci/run``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    (tmp_path / "picture.svg").write_text("<svg/>")
    (tmp_path / "index.html").write_text(
        '<h1 id="top">A</h1><a href="parts/a%20b.html#lfq">1</a><a href="#top">2</a><img src="picture.svg"/><a href="#">3</a>'
        '<a href="https://nowhere.invalid/x">4</a><a href="mailto:a@b.invalid">5</a><a href="picture.svg#no-page">6</a>'
    )
    (tmp_path / "parts" / "a b.html").write_text('<section id="lfq"></section><a href="../index.html#top">back</a>')
    return tmp_path


def test_a_site_of_good_links_is_good(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    links = script("links")
    assert links.broken(site) == []
    assert links.main([str(site)]) == 0
    assert capsys.readouterr().out == f"{site}: every link leads somewhere\n"


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        ("gone.html", "no such file"),
        ("picture.png", "no such file"),
        ("parts", "no such file"),
        ("../index.html", "no such file"),
        ("#gone", "no such anchor"),
        ("parts/a%20b.html#vq", "no such anchor"),
    ],
)
def test_each_broken_link_is_told(site: Path, link: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    links = script("links")
    page = site / "index.html"
    page.write_text(page.read_text() + f'<a href="{link}">broken</a>')
    assert links.broken(site) == [f"index.html: {link} ({reason})"]
    assert links.main([str(site)]) == 1
    assert f"index.html: {link} ({reason})" in capsys.readouterr().err


def test_a_folder_without_a_site_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script("links").main([str(tmp_path)]) == 1
    assert "is no built site: sphinx-build -W -b html docs" in capsys.readouterr().err


@pytest.fixture(scope="module")
def conf() -> ModuleType:
    pytest.importorskip("sphinx", reason='the site is built where pip install "vidgen[docs]" was given')
    return script("conf")


def test_every_module_is_in_the_reference(conf: ModuleType) -> None:
    files = {path for room in conf.rooms().values() for path in room}
    assert files == set((ROOT / "vidgen").rglob("*.py")) - {ROOT / "vidgen" / "__main__.py"}
    assert conf.rooms()["vidgen.quantizers"][0] == ROOT / "vidgen" / "quantizers" / "__init__.py"
    assert conf.rooms()["vidgen"] == [ROOT / "vidgen" / "__init__.py"]


@pytest.mark.parametrize(
    ("folder", "text", "expected"),
    [
        (".", "[docs/data.md](docs/data.md)", "[](data.md)"),
        (".", "[them](docs/data.md#layouts)", "[them](data.md#layouts)"),
        (".", "[LICENSE](LICENSE)", "[LICENSE](../LICENSE)"),
        (".", "![clips](docs/samples.webp)", "![clips](samples.webp)"),
        ("docs", "[CONTRIBUTING.md](../CONTRIBUTING.md#floors)", "[](contributing.md#floors)"),
        ("docs", "[here](#floors), parts[0](x), [there](https://example.org/data.md)", None),
    ],
)
def test_links_lead_to_pages_on_the_site_and_to_files_elsewhere(
    conf: ModuleType, folder: str, text: str, expected: str | None
) -> None:
    assert conf.on_the_site(text, ROOT / folder) == (expected or text)


def test_formulae_stay_as_they_are_written(conf: ModuleType) -> None:
    lines = ["(B, t*h*w) of |x| times 2**k, ``a*b``, ``shrink``**s; a *share* of it"]
    conf.keep_formulae(None, "function", "", None, None, lines)
    assert lines == [r"(B, t\*h\*w) of \|x\| times 2\*\*k, ``a*b``, ``shrink``\*\*s; a *share* of it"]
