"""What README.md and docs/ show is run, on one small run that all of these tests share, whichever worker needs it first.

Run, with the words that are shown and :data:`SMALLER` in the place of numbers that cost time, in a folder in which placeholders
(VIDEO.mp4, PATH, ...) are there: ``list``, ``show``, ``doctor``, ``data``, ``sample``, ``eval``, ``compare``, ``encode``,
``decode`` and ``reconstruct``, in blocks and in sentences; and every block of Python. Where others' weights are asked for (FILE),
the answer has to be the sentence that says so.

Not run: the other commands of training, which ``test_docs.py`` composes, each combination of them, with the words that are
shown. One ``vidgen fit`` is run here, with :data:`FIT`, and ``.ci/run`` runs ``vidgen fit experiment=smoke`` from the wheel.
Commands that install, build or collect are not run here; ``.ci/run`` installs and builds by them.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import footage
import pytest
import torch
from filelock import FileLock
from test_docs import BLOCKS, commands

import vidgen
from vidgen.cli import COMPOSED, main

FIT = [
    *("experiment=smoke", "tokenizer=lfq", "generator=maskgit", "generator/conditioning=[label,text,action,frames]"),
    "data.families=[bounce,gravity,orbit,agent]",
    *("generator.training.windows=0.5", "generator.conditioning.frames.spread=0.5", "generator.steps=2"),
    *("tokenizer.training.steps=4", "tokenizer.training.batch_size=2", "tokenizer.training.warmup=1"),
    *("generator.training.steps=4", "generator.training.batch_size=2", "generator.training.warmup=1"),
    *("generator.training.clips=16", "evaluation.clips=8", "evaluation.samples=6", "evaluation.shown=1"),
    *("trainer.precision=fp32", "trainer.accelerator=cpu"),
]
"""A generator that takes all that the documents ask of one: labels, captions, actions, given cells, cells that lie apart."""

PLACE = ["precision=fp32", "accelerator=cpu"]
"""Where and how precisely composed commands are run here."""

SMALLER = {
    "sample": {"num": "1", "steps": "1"},
    "eval": {"evaluation.samples": "6", "evaluation.clips": "8", "evaluation.shown": "1"},
    "eval of clips": {"protocol.data.count": "6", "protocol.data.fake_count": "6"},
}
"""Numbers that cost time, in the place of those shown or of the defaults; a run knows by itself how many clips it measures."""


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run and with everything that commands of the documents name; made once for all workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "workshop"
    with FileLock(f"{folder}.lock"):
        if not (folder / "VIDEO.latents").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            with contextlib.chdir(folder):
                _furnish()
    return folder


def _furnish() -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        assert main(["fit", *FIT]) == 0, said.getvalue()
    shutil.rmtree("runs/latest/checkpoints")
    for name in ("a", "b"):
        shutil.copytree("runs/latest/", f"runs/{name}")
    footage.write(Path("VIDEO.mp4"), count=17, size=(32, 32))
    shutil.copy("VIDEO.mp4", "VIDEO")
    Path("FILE").write_bytes(b"no weights")
    for folder in ("VIDEOS", "PATH", "UCF", "SAMPLES", "CLIPS"):
        for tone in range(6):
            path = Path(folder) / f"class {tone % 2}" / f"{tone}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            footage.write(path, count=24, tone=20 * tone, size=(32, 32))
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["encode", "input=VIDEO.mp4", *PLACE]) == 0
    assert Path("VIDEO.latents").exists()


@pytest.fixture
def here(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the workshop, to work in."""
    folder = tmp_path / "work"
    shutil.copytree(workshop, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def small(words: list[str]) -> list[str]:
    """The words with smaller numbers in their places."""
    name, *rest = words
    if name not in COMPOSED:
        return [name, *(word for word in rest if not word.startswith("workers="))]
    real = next((word for word in rest if word.startswith("real=")), None)
    numbers = {} if real and real.startswith("real=runs/") else SMALLER.get("eval of clips" if real else name, {})
    kept = [word for word in rest if word.partition("=")[0] not in numbers]
    return [name, *kept, *(f"{key}={value}" for key, value in numbers.items()), *PLACE]


def shown() -> Iterator[tuple[str, list[str]]]:
    """The commands that are run here, as they are run, each with the first document that has it.

    A name without more, in a sentence, is no command to give.
    """
    seen = []
    for document, text in sorted(set(commands())):
        _, name, *words = shlex.split(text)
        ours = document == "README.md" or document.startswith("docs/")
        mentioned = (name in COMPOSED and not words) or (name == "data" and len(words) < 2)
        if ours and name != "fit" and not mentioned and small([name, *words]) not in seen:
            seen.append(small([name, *words]))
            yield document, seen[-1]


SHOWN = list(shown())


def written(folder: Path) -> set[tuple[Path, int]]:
    """The files below ``folder``, each with the time of its last change."""
    return {(path, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("words", [words for _, words in SHOWN], ids=[f"{where}: {shlex.join(words)}" for where, words in SHOWN])
def test_commands_do_what_they_say(words: list[str], here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = written(here)
    status = main(words)
    out, err = capfd.readouterr()
    if any(word.partition("=")[2] == "FILE" or word == "FILE" for word in words):
        assert status == 2
        assert "FILE" in err and len([line for line in err.splitlines() if line.startswith("vidgen: ")]) == 1
        return
    assert status == 0, err
    assert out.strip() or written(here) - before
    if words[0] in COMPOSED and "rollout.show=true" not in words:
        assert written(here) - before, "nothing was written"


def test_there_are_commands_of_every_kind() -> None:
    assert {words[0] for _, words in SHOWN} == {*COMPOSED, "compare", "data", "list", "show", "doctor"} - {"fit"}


PYTHON = [block for block in BLOCKS if block.language == "python" and block.document.startswith(("README", "docs/"))]


@pytest.mark.parametrize("block", PYTHON, ids=[block.document for block in PYTHON])
def test_python_runs(block: object, here: Path) -> None:
    """With what the sentences before it have: a trained ``model``, and ``batches`` of videos with their originals."""
    document, _, text, _ = block
    generator = torch.Generator().manual_seed(0)
    videos = [torch.rand(2, 3, 5, 32, 32, generator=generator) * 2 - 1 for _ in range(2)]
    space: dict[str, object] = {"batches": [(video, video.flip(0)) for video in videos]}
    if "vidgen.load" not in text:
        space["model"] = vidgen.load("runs/latest/model")
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(text, document, "exec"), space)
    if "chunks" in space:
        assert next(iter(space["chunks"])).shape[0] == 4
    if "video" in space and document != "docs/metrics.md":
        assert space["video"].shape[1:] == (3, 17, 32, 32)
