"""What the documents say is so: names exist, commands compose, links lead somewhere, examples run, tables are as rendered."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest

from vidgen import config
from vidgen.cli import COMMANDS, COMPOSED, main
from vidgen.cli.compose import compose
from vidgen.cli.mistakes import look
from vidgen.evaluation.rows import read

ROOT = Path(__file__).parent.parent
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "LOG.md"]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in DOCUMENTS if path.exists()}

FIT = "pip install -e . -c constraints.txt && vidgen fit tokenizer=lfq generator=dit"
TEST = 'pip install -e ".[test]" -c constraints.txt && pytest'


class Block(NamedTuple):
    """A fenced block: its document, language and text, and the file that the line above it names."""

    document: str
    language: str
    text: str
    file: str


def blocks() -> Iterator[Block]:
    fence = re.compile(r"(?:^`(?P<file>[\w./-]+)`\n\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
    for document, text in TEXTS.items():
        for match in fence.finditer(text):
            yield Block(document, match["language"], match["text"], match["file"] or "")


BLOCKS = list(blocks())
EXAMPLES = {block.file: block.text for block in BLOCKS if block.file}


def prose(text: str) -> str:
    """A document without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


# The README's first promise


def test_the_readme_shows_both_commands_by_themselves() -> None:
    shown = [line for block in BLOCKS if block.document == "README.md" for line in block.text.splitlines()]
    assert shown.count(FIT) == shown.count(TEST) == 1
    assert TEXTS["README.md"].index(FIT) < TEXTS["README.md"].index(TEST) < 3000


def test_the_readme_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) < 150


def test_every_page_is_in_the_site() -> None:
    """In the index's tables of contents, once; and the README leads to all that are read first."""
    listed = re.findall(r"^([a-z]+)$", TEXTS["docs/index.md"], re.MULTILINE)
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert sorted(listed) == sorted(pages)
    assert pages - set(re.findall(r"\(docs/(\w+)\.md\)", TEXTS["README.md"])) == {"contributing", "changelog"}


def test_ci_runs_the_readmes_commands() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert f"'{TEST}'" in script
    assert re.search(r"vidgen.* fit experiment=smoke", script)


# Names


def named(pattern: str) -> list[tuple[str, str]]:
    found = {(document, name) for document, text in TEXTS.items() for name in re.findall(pattern, prose(text))}
    return sorted(found)


@pytest.mark.parametrize(("document", "name"), named(r"`(vidgen(?:\.\w+)+)(?:\(.*?\))?`"))
def test_dotted_names_exist(document: str, name: str) -> None:
    if name.split(".")[1] in config.GROUPS and "entry" in TEXTS[document] and name.count(".") == 1:
        return  # the group of an entry point
    parts = name.split(".")
    for depth in range(len(parts), 0, -1):
        with contextlib.suppress(ModuleNotFoundError):
            found = importlib.import_module(".".join(parts[:depth]))
            break
    for part in parts[depth:]:
        found = getattr(found, part)


PATH = r"`((?:vidgen|configs|tests|docs|benchmarks|\.ci)/[\w./*-]*|[\w-]+\.(?:md|toml|txt|cff)|LICENSE|\.ci/run)`"


@pytest.mark.parametrize(("document", "path"), named(PATH))
def test_files_exist(document: str, path: str) -> None:
    if "NAME" not in path and not any(file.startswith(path) for file in EXAMPLES):
        assert any(ROOT.glob(path.rstrip("/"))), f"{document} names {path}"


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


LINKS = [(name, link) for name, text in TEXTS.items() for link in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", prose(text))]


@pytest.mark.parametrize(("document", "link"), [(name, "".join(pair)) for name, pair in LINKS])
def test_links_lead_somewhere(document: str, link: str) -> None:
    if link.startswith("https://"):
        return
    path, _, anchor = link.partition("#")
    target = (ROOT / document).parent / path if path else ROOT / document
    assert target.exists(), link
    if anchor:
        assert anchor in anchors(target.read_text(encoding="utf-8")), link


# Commands


def commands() -> Iterator[tuple[str, str]]:
    for block in BLOCKS:
        for line in block.text.splitlines() if block.language in ("bash", "") else []:
            if match := re.search(r"(?:^|&& |^\w+=\S+ |^srun )(vidgen .*?)(?: &)?(?:\s+#.*)?$", line):
                yield block.document, match[1]
    for document, text in TEXTS.items():
        for found in re.findall(r"`(vidgen \w+[^`]*)`", prose(text)):
            yield document, found


def combinations(words: list[str]) -> Iterator[list[str]]:
    """What ``-m`` runs, but for the words of Hydra's launchers, which are packages that need not be here; else the words."""
    if "-m" not in words:
        yield words
        return
    own = [word for word in words if word != "-m" and not word.startswith("hydra")]
    several = [word.split(",") if "[" not in word else [word] for word in own]
    for values in product(*several):
        keys = [word.partition("=")[0] for word in own]
        yield [value if "=" in value else f"{key}={value}" for key, value in zip(keys, values, strict=True)]


@pytest.mark.parametrize(("document", "command"), sorted(set(commands())))
def test_commands_can_be_given(document: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, name, *words = shlex.split(command)
    assert name in COMMANDS or name.startswith("--")
    made_here = {Path(file).stem for file in EXAMPLES}
    words = [word for word in words if word.partition("=")[2] not in made_here]
    if name in COMPOSED and "--help" not in words:
        for combination in combinations(words):
            look(name, combination)
            compose(name, combination)
    elif name not in ("doctor", "data", "compare"):  # which need a machine, videos and runs
        with contextlib.redirect_stdout(io.StringIO()) as said:
            assert main([name, *words]) == 0
        assert said.getvalue()


def python(*words: str, folder: Path = ROOT, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter with the package that lies in ``folder``."""
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=cwd or folder, env=environment, capture_output=True, text=True, timeout=600, check=False)


def test_scripts_take_the_options_that_are_shown() -> None:
    lines = [line for block in BLOCKS if block.language == "bash" for line in block.text.splitlines()]
    scripts = [shlex.split(line, comments=True) for line in lines if line.startswith("python ")]
    assert scripts
    usages = {script: python(script, "--help").stdout for script in {script for _, script, *_ in scripts}}
    for _, script, *words in scripts:
        usage = usages[script]
        assert usage.startswith(f"usage: {Path(script).name}")
        assert all(word in usage for word in words if word.startswith("--"))


# Python


def test_the_library_face_of_the_readme_is_ten_lines() -> None:
    """That it runs is seen in ``test_docs_run.py``."""
    (face,) = [block.text for block in BLOCKS if block.document == "README.md" and block.language == "python"]
    assert len([line for line in face.splitlines() if line and not line.startswith(("import", "#"))]) <= 10


# The examples of CONTRIBUTING.md

FIT_EXAMPLES = [
    *("tokenizer=ternary", "generator=normal", "tokenizer.backbone.widths=[16]", "tokenizer.backbone.encoder_depths=[1]"),
    *("tokenizer.backbone.decoder_depths=[1]", "tokenizer.training.steps=3", "generator.training.steps=3"),
    *("generator.training.clips=8", "generator.training.batch_size=4", "tokenizer.training.batch_size=2"),
    *("evaluation.clips=2", "evaluation.samples=3", "evaluation.shown=1", "trainer.log_every=1", "trainer.precision=fp32"),
    "evaluation.metrics=[flicker]",
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, its recipes and its tests, with the examples written into it."""
    folder = tmp_path_factory.mktemp("contributed")
    for part in ("vidgen", "configs", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for file, text in EXAMPLES.items():
        assert not (folder / file).exists(), f"{file} is shipped: show another example"
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(text, encoding="utf-8")
    return folder


def test_the_examples_are_one_file_and_one_yaml_each() -> None:
    folders = sorted(str(Path(file).parent) for file in EXAMPLES)
    assert folders == [
        *("configs/generator", "configs/generator/conditioning", "configs/generator/head", "configs/metric"),
        *("configs/tokenizer", "configs/tokenizer/quantizer", "vidgen/conditioning"),
        *("vidgen/generators", "vidgen/heads", "vidgen/metrics", "vidgen/quantizers"),
    ]


def test_the_examples_are_as_tidy_as_our_own(copy: Path) -> None:
    files = [file for file in EXAMPLES if file.endswith(".py")]
    for words in (["check"], ["format", "--check"]):
        done = python("-m", "ruff", *words, *files, cwd=copy)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_examples_are_found_by_name(copy: Path) -> None:
    listed = json.loads(python("-m", "vidgen", "list", "--json", folder=copy).stdout)
    assert listed["quantizers"]["ternary"] == "Every channel rounded to -1, 0 or 1."
    assert "normal" in listed["generators"]
    assert listed["metrics"]["flicker"].startswith("How far each frame's change is")


def test_our_own_tests_cover_the_examples(copy: Path) -> None:
    """The pairs, the recipes against the signatures, and the tokenizers' laws: all by the examples' existing."""
    files = ["tests/test_pairs.py", "tests/test_config.py", "tests/tokenizers", "tests/test_registry.py"]
    chosen = "ternary or normal or gaussian or class_token"
    done = python("-m", "pytest", *files, "-k", chosen, "-p", "no:cacheprovider", folder=copy)
    assert done.returncode == 0, done.stdout[-5000:]
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert passed >= 10, done.stdout[-2000:]


def test_the_examples_train_together_and_the_report_shows_the_measure(copy: Path, tmp_path: Path) -> None:
    done = python("-m", "vidgen", "fit", *FIT_EXAMPLES, folder=copy, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-5000:]
    run = tmp_path / "runs" / "latest"
    assert run.resolve().name.endswith("-ternary-normal")
    results = {row.name: row for row in read(run / "metrics.jsonl") if row.stage == "evaluation"}
    assert 0 < results["reconstruction/flicker"].value < 1
    assert results["reconstruction/flicker"].protocol == "gap=1"
    assert results["codebook/usage"].value <= 1
    page = (run / "report.html").read_text(encoding="utf-8")
    assert re.search(r"Flicker\s*<span class=\"arrow\" title=\"lower is better\">", page)
    assert "How far each frame&#39;s change is from the original&#39;s" in page


# Tables, and what must not be there


def test_tables_are_as_rendered() -> None:
    done = python("benchmarks/render.py", "--check")
    assert done.returncode == 0, done.stderr


def test_no_figure_of_a_result_is_typed_by_hand() -> None:
    """Outside of rendered tables and code, no document states decibels, per cent of legal samples, or minutes."""
    pages = ("start", "concepts", "commands", "benchmark", "training", "recipes", "adding", "design", "faq")
    for document in ("README.md", "CONTRIBUTING.md", *(f"docs/{page}.md" for page in pages)):
        text = re.sub(r"<!-- ([\w-]+):begin -->.*?<!-- \1:end -->", "", prose(TEXTS[document]), flags=re.DOTALL)
        found = re.findall(r"\b\d+(?:\.\d+)?\s*(?:dB|minutes?|min|hours?|seconds?)\b", re.sub(r"`[^`]*`", "", text))
        assert not found, f"{document}: {found}"


MACHINE = re.compile(r"(?<![\w.$}])/(?:home|root|Users|work|mnt|scratch|srv|opt)/\w|/tmp/\w|[A-Z]:\\\\Users")


def repository_files() -> list[Path]:
    """What is or could be committed."""
    listed = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listed, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a checkout: git lists no files here")
    return [path for name in done.stdout.splitlines() if (path := ROOT / name).is_file() and path.suffix != ".png"]


def test_no_path_of_a_machine_is_in_the_repository() -> None:
    found = []
    for path in repository_files():
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            if MACHINE.search(line) and path != Path(__file__):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


def test_the_licence_is_the_unmodified_text() -> None:
    text = (ROOT / "LICENSE").read_bytes()
    assert hashlib.sha256(text).hexdigest() == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
