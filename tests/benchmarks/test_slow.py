"""The runner of slow tests: what has passed on the same code is not run again, and every outcome is told as it was."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import render
import slow


def row(test: str, outcome: str, code: str) -> dict[str, object]:
    return {"test": test, "outcome": outcome, "seconds": 1.0, "code": code, "hardware": {"cpu": "a machine"}}


@pytest.fixture
def proofs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(render, "PROOFS", tmp_path / "proofs.jsonl")
    return tmp_path / "proofs.jsonl"


def test_only_what_has_passed_on_this_code_is_left_out(proofs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow, "code", lambda test: "now")
    assert slow.left(["a", "b"]) == ["a", "b"]
    rows = [row("a", "passed", "before"), row("b", "passed", "now"), row("c", "failed", "now"), row("d", "passed", "now")]
    rows.append(row("d", "failed", "now"))  # the last run of a test counts
    proofs.write_text("".join(json.dumps(one) + "\n" for one in rows))
    assert slow.left(["a", "b", "c", "d", "e"]) == ["a", "c", "d", "e"]


def test_outcomes_are_told_as_they_were(tmp_path: Path) -> None:
    file = tmp_path / "test_made_up.py"
    file.write_text(
        "import pytest\n\npytestmark = pytest.mark.slow\n\n"
        "def test_right(): pass\n\n"
        "def test_wrong(): assert 1 == 2\n\n"
        "def test_not_here(): pytest.skip('no reason')\n"
    )
    tests = [f"{file}::{name}" for name in ("test_right", "test_wrong", "test_not_here")]
    found = list(slow.run(tests))
    assert [one["outcome"] for one in found] == ["passed", "failed", "skipped"]
    assert all(one["code"] == slow.code("tests/a.py") and one["hardware"] for one in found)


def test_what_goes_through_every_pair_is_one_test(monkeypatch: pytest.MonkeyPatch) -> None:
    said = (
        [f"tests/a.py::few[{i}]" for i in range(3)]
        + [f"tests/a.py::many[{i}]" for i in range(slow.MANY + 1)]
        + ["tests/b.py::one"]
    )
    listing = SimpleNamespace(stdout="\n".join(said), returncode=0)
    monkeypatch.setattr(slow.subprocess, "run", lambda *args, **options: listing)
    assert slow.slow_tests() == [*said[:3], "tests/a.py::many", "tests/b.py::one"]


def test_the_code_is_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the benchmarks count for their own tests alone."""
    monkeypatch.setattr(slow, "ROOT", tmp_path)
    monkeypatch.setattr(slow, "_hash", slow._hash.__wrapped__)
    tests = ("tests/nn/a.py::one", "tests/benchmarks/a.py::one")

    def written(name: str, text: str) -> list[str]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        return [slow.code(test) for test in tests]

    first = written("vidgen/a.py", "1")
    assert written("vidgen/a.md", "words") == first
    second = written("vidgen/a.py", "2")
    assert not set(first) & set(second)
    third = written("benchmarks/a.py", "1")
    assert third[0] == second[0]
    assert third[1] != second[1]
