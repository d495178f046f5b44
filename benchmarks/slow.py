"""Runs the slow tests one by one and keeps what came of each: the proofs that take minutes.

    python benchmarks/slow.py            runs those that have not been run on this very code, and renders the table
    python benchmarks/slow.py --only tests/tokenizers      those whose names begin so
    python benchmarks/slow.py --list     says which those are

Stopped, it goes on where it was: a test that has passed on the same code, tests and configs is not run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import render

from vidgen.runs import environment

ROOT = Path(__file__).parent.parent


def code(test: str) -> str:
    """A hash of every file that a test's outcome may depend on; for tests of the benchmarks alone, theirs are among them."""
    return _hash(("vidgen", "configs", "tests", *(["benchmarks"] if test.startswith("tests/benchmarks/") else [])))


@cache
def _hash(folders: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".yaml", ".j2"):
                digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


MANY = 24
"""A test with more cases than this is run as one, in one process: those that go through every pair of parts."""


def slow_tests() -> list[str]:
    """The ids of all slow tests, in pytest's order; of a test with many cases the one id of all of them."""
    command = [sys.executable, "-m", "pytest", "-m", "slow", "--collect-only", "-q", "-o", "addopts="]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    ids = [line for line in done.stdout.splitlines() if "::" in line]
    cases = Counter(whole(test) for test in ids)
    return list(dict.fromkeys(whole(test) if cases[whole(test)] > MANY else test for test in ids))


def whole(test: str) -> str:
    """A test's id without the name of its case."""
    return test.partition("[")[0]


def left(tests: Sequence[str]) -> list[str]:
    """Those of ``tests`` that have not passed on the code that there is."""
    passed = {(row["test"], row["code"]) for row in render.proven() if row["outcome"] == "passed"}
    return [test for test in tests if (test, code(test)) not in passed]


def run(tests: Sequence[str]) -> Iterator[dict[str, object]]:
    """Runs ``tests``, each in a process of its own, and yields a row for each."""
    for number, test in enumerate(tests, start=1):
        print(f"{number}/{len(tests)} {test}", flush=True)
        begin = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-q", "-m", "slow", "-o", "addopts=", test]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        skipped = " skipped" in done.stdout and " passed" not in done.stdout
        outcome = "failed" if done.returncode else "skipped" if skipped else "passed"
        if outcome == "failed":
            print(done.stdout[-3000:], file=sys.stderr)
        seconds = round(time.monotonic() - begin, 1)
        yield {"test": test, "outcome": outcome, "seconds": seconds, "code": code(test), **environment()}


def main() -> int:
    """Runs what is left; returns 1 where a test failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="say what is left to run, and run nothing")
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME", help="tests whose names begin so")
    given = parser.parse_args()
    tests = [test for test in left(slow_tests()) if test.startswith(tuple(given.only))]
    if given.list:
        print("\n".join(tests))
        return 0
    failed = 0
    for row in run(tests):
        failed += row["outcome"] == "failed"
        with render.PROOFS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    render.main([])
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
