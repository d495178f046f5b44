"""Timing in pairs, peak memory, and rows that are kept: measured anew where the code has changed and nowhere else."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import render
import timing
from timing import Case, Timing

from vidgen import UserError


def row(subject: str = "lfq", measure: str = "step", **changes: object) -> Timing:
    made = Timing(
        subject=subject,
        measure=measure,
        against="another",
        ours=12.5,
        theirs=30.0,
        unit="ms",
        ratio=2.4,
        quartiles=(2.25, 2.5),
        pairs=9,
        wanted="at least 2 times as fast",
        met=True,
        settings="4,096 tokens",
        load=1.5,
        code="now",
        hardware={"cpu": "A processor", "cores": 2},
        versions={"python": "3.11.9", "torch": "2.15.0"},
        commit="0123456789ab",
    )
    return replace(made, **changes)


class Clock:
    """Time that passes only where a call says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.order = 0.0, ""
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def call(self, name: str, seconds: Callable[[], float]) -> Callable[[], None]:
        def work() -> None:
            self.order += name
            self.now += seconds()

        return work


def test_sides_take_turns_and_a_busy_machine_slows_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call slower than the one before, as where others start to work: each pair still says about three times."""
    clock = Clock(monkeypatch)
    found = timing.paired(
        clock.call("o", lambda: 1 + clock.now / 1000), clock.call("t", lambda: 3 * (1 + clock.now / 1000)), pairs=10, least=0
    )
    assert clock.order[4:] == "ottoottoottoottootto"  # who goes first changes, so that being first is no advantage
    assert found.ours[-1] > 1.02 * found.ours[0]
    assert found.ratio == pytest.approx(3, rel=1e-3)
    assert found.quartiles == pytest.approx(np.quantile(found.ratios, [0.25, 0.75]))


def test_what_is_quick_is_called_often_enough_to_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    found = timing.paired(clock.call("o", lambda: 0.001), clock.call("t", lambda: 0.5), pairs=2, least=0.02)
    assert (clock.order.count("o"), clock.order.count("t")) == (2 + 2 * 20, 2 + 2)
    assert found.ratio == pytest.approx(500)


@pytest.mark.parametrize(
    ("seconds", "least", "met"),
    [([3, 3, 3], 2.0, True), ([3, 1, 1], 2.0, False), ([0.9, 0.9, 1.3], 1.0, False), ([0.8, 0.98, 1.3], 1.0, True)],
)
def test_what_is_wanted_is_held_against_the_ratios(
    monkeypatch: pytest.MonkeyPatch, seconds: list[float], least: float, met: bool
) -> None:
    """The other side takes those seconds for our one: the median decides, and 3 % are noise."""
    clock, left = Clock(monkeypatch), [1.0, 1.0, *seconds]
    words = {"subject": "s", "measure": "m", "against": "a", "settings": "", "version": "v"}
    found = timing.compared(
        clock.call("o", lambda: 1.0), clock.call("t", lambda: left.pop(0)), pairs=3, rate=(136, "frames/s"), least=least, **words
    )
    assert found.met is met
    assert found.ratio == pytest.approx(statistics.median(seconds))
    assert (found.ours, found.unit) == (pytest.approx(136), "frames/s")
    assert found.theirs == pytest.approx(136 / statistics.median(seconds))


def fill(mebibytes: int) -> float:
    timing.forget_peak()
    before, _ = timing.memory()
    for _ in range(3):  # one after another, so the peak is of one
        np.ones(mebibytes * 2**20, dtype=np.uint8)
    now, most = timing.memory()
    assert now - before < mebibytes / 2
    return most - before


@pytest.mark.skipif(not timing.STATUS.exists(), reason="peak memory is read from /proc, which this system has not")
def test_peak_memory_is_that_of_what_is_held_at_once() -> None:
    assert timing.alone(fill, 96) == pytest.approx(96, abs=3)


def test_a_row_takes_the_place_of_its_elder_and_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "results" / "t.jsonl"
    timing.keep(path, [row("a"), row("b"), row("b", "memory")])
    on_gpu = row("b", hardware={"cpu": "A processor", "cores": 2, "gpu": "A card"})
    timing.keep(path, [row("b", ours=1.0), on_gpu])
    found = timing.read(path)
    assert [(one.subject, one.measure, one.ours) for one in found] == [
        ("a", "step", 12.5),
        ("b", "step", 1.0),
        ("b", "memory", 12.5),
        ("b", "step", 12.5),
    ]
    assert found[3] == on_gpu


@pytest.mark.parametrize("broken", ["{", "3", '{"schema": 2}', '{"schema": 1}'])
def test_a_broken_line_is_named(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "t.jsonl"
    timing.keep(path, [row()])
    path.write_text(path.read_text() + broken + "\n")
    with pytest.raises(UserError, match=r"Line 2 of .*t\.jsonl is not a timing"):
        timing.read(path)


def test_a_changed_schema_needs_a_new_number() -> None:
    """Whoever changes a key changes these two together."""
    assert timing.SCHEMA == 1
    assert list(json.loads(row().to_json())) == [
        *("schema", "subject", "measure", "against", "ours", "theirs", "unit", "ratio", "quartiles", "pairs", "wanted", "met"),
        *("settings", "load", "code", "hardware", "versions", "commit"),
    ]


class TestRunning:
    @pytest.fixture
    def measured(self) -> list[str]:
        return []

    @pytest.fixture
    def cases(self, measured: list[str], monkeypatch: pytest.MonkeyPatch) -> list[Case]:
        monkeypatch.setattr(timing, "environment", lambda: {"hardware": {}})

        def case(name: str) -> Case:
            def work() -> Timing:
                measured.append(name)
                return row(name, met=name != "slow")

            return Case(name, "step", work)

        return [case("a"), case("slow"), case("b")]

    def test_goes_on_where_it_was_stopped(self, cases: list[Case], measured: list[str], tmp_path: Path) -> None:
        path = tmp_path / "t.jsonl"

        def stop() -> Timing:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            timing.run(path, [cases[0], Case("slow", "step", stop)], "now", [])
        assert timing.run(path, cases, "now", []) == 1  # a row is not as it is wanted
        assert measured == ["a", "slow", "b"]
        assert timing.run(path, cases, "now", []) == 0
        assert measured == ["a", "slow", "b"]
        timing.run(path, cases, "now", ["--again", "--only", "b"])
        timing.run(path, cases[:1], "changed", [])
        assert measured == ["a", "slow", "b", "b", "a"]

    def test_listing_measures_nothing(
        self, cases: list[Case], measured: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "t.jsonl"
        timing.run(path, cases[:1], "now", [])
        capsys.readouterr()
        timing.run(path, cases, "now", ["--list"])
        assert capsys.readouterr().out.splitlines()[:2] == ["a, step: there", "slow, step: to do"]
        assert measured == ["a"]

    def test_what_lacks_a_package_is_left_out_and_said(
        self, cases: list[Case], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def lacking() -> Timing:
            raise ModuleNotFoundError(name="diffusers")

        timing.run(tmp_path / "t.jsonl", [Case("kl", "step", lacking), cases[0]], "now", [])
        assert "kl, step: left out, for it needs diffusers" in capsys.readouterr().err
        assert [one.subject for one in timing.read(tmp_path / "t.jsonl")] == ["a"]


def test_code_is_what_its_files_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "ROOT", tmp_path)
    (tmp_path / "part").mkdir()
    (tmp_path / "part/a.py").write_text("1")
    (tmp_path / "b.py").write_text("1")
    before = timing.code("part", "b.py")
    (tmp_path / "part/notes.md").write_text("words")
    assert timing.code("part", "b.py") == before
    for file in ("part/a.py", "b.py"):
        (tmp_path / file).write_text("2")
        assert timing.code("part", "b.py") != before
        before = timing.code("part", "b.py")


def test_a_table_says_what_was_wanted_and_under_what_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "RESULTS", tmp_path)
    assert "python benchmarks/quantizers.py" in render.timings("quantizers")
    memory = row(
        "b", "peak memory", unit="MiB", ours=1234.5, ratio=0.5, quartiles=None, met=False, wanted="at most 512 MiB", load=3.0
    )
    timing.keep(tmp_path / "quantizers.jsonl", [row("a"), memory])
    lines = render.timings("quantizers").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:4]]
    assert cells[0][:6] == ["a", "step", "2.40 (2.25–2.50)", "at least 2 times as fast: yes", "12.5 ms", "30 ms"]
    assert cells[1][:5] == ["b", "peak memory", "0.50", "at most 512 MiB: no", "1,234 MiB"]
    assert "Measured on A processor (2 cores) with torch 2.15.0 at `0123456789ab`, under a load of 1.5 to 3." in lines[-1]
    assert lines[-1].startswith("A ratio is the median over 9 pairs, with its quartiles. ")
    assert "No results are collected yet" in render.results()  # they are no runs


def test_no_slower_is_decided_by_the_median_in_rows_of_another_rule_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the third quartile was enough, by which ours may be slower in most pairs."""
    monkeypatch.setattr(render, "RESULTS", tmp_path)
    made = [
        row("slow", ratio=0.9, quartiles=(0.8, 1.2), wanted="no slower", met=True),
        row("even", ratio=0.98, quartiles=(0.8, 0.99), wanted="no slower", met=False),
        row("memory", ratio=0.9, quartiles=None, wanted="at most 5 % more", met=True),
    ]
    timing.keep(tmp_path / "quantizers.jsonl", made)
    text = render.timings("quantizers")
    assert [line.split("|")[4].strip() for line in text.splitlines()[2:5]] == [
        "no slower: no",
        "no slower: yes",
        "at most 5 % more: yes",
    ]
    assert "No slower is a median of 0.97 or more: 3 % are noise." in text


def test_without_ratios_nothing_is_said_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "RESULTS", tmp_path)
    timing.keep(tmp_path / "waiting.jsonl", [row(ratio=None, quartiles=None, theirs=None, wanted="under 5 %")])
    assert render.timings("waiting").splitlines()[-1].startswith("Measured on A processor")
