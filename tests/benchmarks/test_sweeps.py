"""Sweeps of sampling's options: what is measured is drawn, and what is there is not measured again."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import part_tables
import pytest
import sweeps

from vidgen import UserError


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "sweeps.jsonl"
    monkeypatch.setattr(sweeps, "RESULTS", path)
    return path


def line(option: str, value: float, legal: float, run: str = "one", generator: str = "dit") -> str:
    figures = {"appearance_legal": legal, "law_legal": legal / 2, "class_accuracy": 1.0}
    row = {"run": run, "tokenizer": "lfq", "generator": generator, "option": option, "value": value, "figures": figures}
    about = {"commit": None, "hardware": {"cpu": "A processor", "cores": 2}, "versions": {"torch": "2.9"}}
    return json.dumps({**row, "samples": 96, "seconds": 0.5, **about}) + "\n"


def test_pictures_have_a_line_a_run_and_the_last_word_counts(results: Path) -> None:
    results.write_text(
        line("guidance_scale", 1.0, 0.5)
        + line("guidance_scale", 2.0, 0.1)
        + line("guidance_scale", 2.0, 0.9)
        + line("guidance_scale", 1.0, 0.3, "other", "ar")
        + line("guidance_scale", 3.0, 0.4, "other", "ar")
    )
    assert {(point.run, point.value): point.figures["appearance_legal"] for point in sweeps.points()}["one", 2.0] == 0.9
    picture = sweeps.picture("guidance_scale")
    root = ElementTree.fromstring(picture)
    charts = root.findall("{http://www.w3.org/2000/svg}svg")
    assert len(charts) == len(sweeps.FIGURES)
    assert "dit x lfq from 50 to 90; ar x lfq from 30 to 40" in charts[0].attrib["aria-label"]
    assert "sweep-guidance.svg" in part_tables.sweeping() and "sweep-steps.svg" not in part_tables.sweeping()


def test_what_has_not_been_run_is_named(results: Path) -> None:
    """A line that stops in a picture is a gap and no result."""
    values = sweeps.VALUES
    results.write_text(
        "".join(line(option, value, 0.5) for option in values for value in values[option] if value != 8)
        + "".join(line("guidance_scale", value, 0.5, "other", "ar") for value in values["guidance_scale"])
    )
    assert sweeps.missing() == ["dit x lfq: steps 8", "ar x lfq: temperature 0.7, 0.85, 1, 1.15"]  # ar has no steps
    assert "Not run yet: dit x lfq: steps 8; ar x lfq: temperature 0.7, 0.85, 1, 1.15." in part_tables.sweeping()
    with results.open("a") as file:
        file.write(line("steps", 8, 0.5) + "".join(line("temperature", v, 0.5, "other", "ar") for v in values["temperature"]))
    assert "Every point was run." in part_tables.sweeping()


def test_without_results_the_command_is_named(results: Path) -> None:
    assert "python benchmarks/sweeps.py RUN" in part_tables.sweeping()


def test_only_generators_with_steps_are_swept_over_them() -> None:
    assert "steps" in sweeps.options_of(SimpleNamespace(steps=12))
    assert "steps" not in sweeps.options_of(SimpleNamespace())


def test_a_run_without_a_judge_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text("data: {name: worlds}\nseed: 0\n")
    monkeypatch.setattr(sweeps.hub, "load", lambda folder: SimpleNamespace(generator=None))
    with pytest.raises(UserError, match="has no generator of worlds"):
        list(sweeps.run(tmp_path, set(), False))


def test_every_value_that_is_left_is_sampled_alike(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"names": {"tokenizer": "lfq", "generator": "ar"}}')
    (tmp_path / "config.yaml").write_text("data: {name: worlds}\nseed: 7\n")
    calls = []

    class Model(SimpleNamespace):
        def sample(self, num: int, shape: tuple[int, int, int], **options: object) -> object:
            import torch

            calls.append(options)
            return torch.zeros(num, 3, *shape)

    monkeypatch.setattr(sweeps, "SAMPLES", 4)
    monkeypatch.setattr(sweeps, "BATCH", 2)
    monkeypatch.setattr(sweeps.hub, "load", lambda folder: Model(generator=SimpleNamespace(), to=lambda device: None))
    done = {(tmp_path.name, "guidance_scale", value) for value in sweeps.VALUES["guidance_scale"]}
    found = list(sweeps.run(tmp_path, done, False))
    assert [(point.option, point.value) for point in found] == [("temperature", value) for value in sweeps.VALUES["temperature"]]
    assert all(point.figures["appearance_legal"] == 0 and point.samples == 4 for point in found)
    assert [(call["first"], call["seed"], call["temperature"]) for call in calls[:2]] == [(0, 7, 0.7), (2, 7, 0.7)]
