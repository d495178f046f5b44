"""What a run says of the code that made it: the commit, and whether code differed from it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from vidgen import runs


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with some code and some results, from which vidgen seems to run."""
    for name in ("vidgen/runs.py", "configs/fit.yaml", "benchmarks/results/a.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1\n")
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    for words in (("init", "-q"), ("add", "."), (*who, "commit", "-q", "-m", "first")):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "vidgen" / "runs.py"))
    return tmp_path


def test_results_do_not_make_it_another_commit(checkout: Path) -> None:
    name = runs.commit()
    assert name is not None and len(name) == 12
    (checkout / "benchmarks" / "results" / "a.jsonl").write_text("1\n2\n")
    (checkout / "benchmarks" / "results" / "b.jsonl").write_text("3\n")
    assert runs.commit() == name


@pytest.mark.parametrize("changed", ["vidgen/runs.py", "configs/fit.yaml"])
def test_other_code_or_recipes_are_told(checkout: Path, changed: str) -> None:
    name = runs.commit()
    (checkout / changed).write_text("2\n")
    assert runs.commit() == f"{name}-dirty"


def test_what_is_no_checkout_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "vidgen" / "runs.py"))
    assert runs.commit() is None
