"""Clips against clips: figures equal those taken by hand, features are kept, tables refuse to mix protocols."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vidgen import UserError
from vidgen.cli import main
from vidgen.cli.between import read_results
from vidgen.data.batches import to_video
from vidgen.evaluation import tables
from vidgen.evaluation.between import Comparison, Looking, compare
from vidgen.evaluation.protocol import Protocol, preset
from vidgen.evaluation.sources import Source
from vidgen.metrics.frechet import frechet_from_features
from vidgen.metrics.psnr import psnr

SMALL = {"data": {"frames": 3}}


class Corners(nn.Module):
    """The pixels of two corners of the first frame: features that can be checked by hand."""

    dim, min_frames, rule = 6, 2, {"extractor": "corners"}
    calls = 0

    def forward(self, video: Tensor) -> Tensor:
        self.calls += 1
        return torch.cat((video[:, :, 0, 0, 0], video[:, :, 0, -1, -1]), dim=1)


def source(name: str, clips: np.ndarray) -> Source:
    return Source(name=name, fingerprint=f"{name} {clips.sum()}", clips=lambda: ((str(i), clip) for i, clip in enumerate(clips)))


def drawn(count: int, seed: int, frames: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, frames, 16, 16, 3), dtype=np.uint8)


def looking(tmp_path: Path) -> Looking:
    return Looking(device=torch.device("cpu"), batch_size=7, cache=tmp_path / "features")


def protocol(*measures: str, **metric: Any) -> Protocol:
    return preset("clips", {**SMALL, "metric": {"measures": list(measures), **metric}})


def values(found: Comparison) -> dict[str, float]:
    return {result.name: result.value for result in found.results}


def test_distributions_are_compared_on_the_features_of_all_clips(tmp_path: Path) -> None:
    real, fake, extractor = drawn(40, 0), drawn(30, 1), Corners()
    found = compare(source("r", real), source("f", fake), protocol("frechet", "prdc"), extractor, looking(tmp_path))
    by_hand = frechet_from_features(*(extractor(to_video(torch.from_numpy(clips))) for clips in (fake, real)))
    assert values(found)["fake/frechet"] == pytest.approx(float(by_hand), rel=1e-6)
    assert {"fake/precision", "fake/recall", "fake/density", "fake/coverage"} <= set(values(found))
    assert {result.n for result in found.results} == {30}
    assert {result.protocol for result in found.results} == {found.protocol.label}
    assert any("2048" in warning for warning in found.warnings)


def test_features_of_clips_seen_before_are_read_and_not_made(tmp_path: Path) -> None:
    real, fake, extractor = drawn(10, 0), drawn(10, 1), Corners()
    first = compare(source("r", real), source("f", fake), protocol("frechet"), extractor, looking(tmp_path))
    calls = extractor.calls
    again = compare(source("r", real), source("f", fake), protocol("frechet"), extractor, looking(tmp_path))
    assert (extractor.calls, values(again)) == (calls, values(first))
    compare(source("r", real), source("f", drawn(10, 2)), protocol("frechet"), extractor, looking(tmp_path))
    assert extractor.calls == calls + 2  # two batches of the new clips alone


def test_clips_are_let_go_of_once_they_are_looked_at(tmp_path: Path) -> None:
    """However many there are, no more are held than two batches of either."""
    held, most = 0, 0

    def gone() -> None:
        nonlocal held
        held -= 1

    def clips(seed: int) -> Iterator[tuple[str, np.ndarray]]:
        nonlocal held, most
        for index in range(60):
            clip = drawn(1, 100 * seed + index)[0].copy()
            held, most = held + 1, max(most, held + 1)
            weakref.finalize(clip, gone)
            yield str(index), clip

    for measures in (("frechet",), ("frechet", "psnr")):
        sources = [
            Source(name=name, fingerprint=f"{name} {measures}", clips=partial(clips, seed)) for seed, name in enumerate("rf")
        ]
        compare(*sources, protocol(*measures), Corners(), looking(tmp_path))
        assert most <= 4 * looking(tmp_path).batch_size
        assert held == 0


def test_pairs_are_compared_one_by_one(tmp_path: Path) -> None:
    real, fake = drawn(10, 0), drawn(10, 1)
    found = compare(source("r", real), source("f", fake), protocol("psnr", "frechet"), Corners(), looking(tmp_path))
    by_hand = psnr(*(to_video(torch.from_numpy(clips)) for clips in (fake, real))).mean()
    assert values(found)["fake/psnr"] == pytest.approx(by_hand.item())
    assert "fake/frechet" in values(found)
    assert {result.n for result in found.results} == {10}


def test_given_frames_do_not_count_and_the_others_make_a_curve(tmp_path: Path) -> None:
    real, fake = drawn(10, 0), drawn(10, 1)
    fake[:, :1] = real[:, :1]
    rule = preset("clips", {"data": {"frames": 3, "context": 1}, "metric": {"measures": ["psnr"]}})
    found = compare(source("r", real), source("f", fake), rule, Corners(), looking(tmp_path))
    by_hand = psnr(*(to_video(torch.from_numpy(clips[:, 1:])) for clips in (fake, real))).mean(0)
    assert found.curves["fake/psnr"] == pytest.approx(by_hand.tolist())
    assert values(found)["fake/psnr"] == pytest.approx(by_hand.mean().item())


@pytest.mark.parametrize("count", [7, 9, 14])
def test_pairs_that_do_not_pair_up_are_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(UserError, match="f and r have different numbers of clips"):
        compare(source("r", drawn(10, 0)), source("f", drawn(count, 1)), protocol("psnr"), Corners(), looking(tmp_path))


def test_chunks_are_measured_apart_and_averaged(tmp_path: Path) -> None:
    real, fake, extractor = drawn(21, 0), drawn(21, 1), Corners()
    found = compare(source("r", real), source("f", fake), protocol("frechet", chunk=10), extractor, looking(tmp_path))
    features = [extractor(to_video(torch.from_numpy(clips))) for clips in (fake, real)]
    by_hand = [float(frechet_from_features(*(part[i : i + 10] for part in features))) for i in (0, 10)]
    assert values(found)["fake/frechet"] == pytest.approx(sum(by_hand) / 2, rel=1e-6)


def test_clips_too_short_for_the_extractor_are_refused_before_any_is_looked_at(tmp_path: Path) -> None:
    extractor = Corners()
    extractor.min_frames = 9
    with pytest.raises(UserError, match="needs clips of 9 frames or more, and the protocol's have 3"):
        compare(source("r", drawn(5, 0)), source("f", drawn(5, 1)), protocol("frechet"), extractor, looking(tmp_path))
    assert extractor.calls == 0


def test_tables_hold_a_row_each_and_refuse_two_protocols(tmp_path: Path) -> None:
    real = drawn(12, 0)
    rows = [
        compare(source("r", real), source(name, drawn(12, 1 + i)), protocol("frechet"), Corners(), looking(tmp_path))
        for i, name in enumerate(("one_a", "two"))
    ]
    text = tables.markdown(rows)
    assert [line.split("|")[1].strip() for line in text.splitlines()[:4]] == ["Clips", "---", "one_a", "two"]
    assert rows[0].protocol.label in text
    assert r"one\_a & 12 &" in tables.latex(rows)
    other = compare(source("r", real), source("f", real), protocol("frechet", ddof=0), Corners(), looking(tmp_path))
    for table in (tables.markdown, tables.latex):
        with pytest.raises(UserError, match=r"differ in metric.ddof \(1 and 0\)"):
            table([*rows, other], "This table")


def test_a_comparison_survives_json(tmp_path: Path) -> None:
    found = compare(source("r", drawn(9, 0)), source("f", drawn(9, 1)), protocol("frechet"), Corners(), looking(tmp_path))
    found.skipped.append(("r", "a.mp4", "it is broken"))
    assert Comparison.from_dict(found.to_dict()) == found


def test_the_command_compares_without_any_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("real", 0), ("fake", 1), ("other", 2)):
        np.save(f"{name}.npy", drawn(12, seed, frames=9))
    options = ["protocol.data.frames=9", "protocol.metric.measures=[frechet,psnr]", "out=found"]
    assert main(["eval", "real=real.npy", "fake=fake.npy", *options]) == 0
    assert main(["eval", "real=real.npy", "fake=other.npy", *options]) == 0
    assert main(["eval", "real=real.npy", "fake=other.npy", *options]) == 0  # again: its row is replaced
    assert [one.fake for one in read_results(tmp_path / "found")] == ["fake.npy", "other.npy"]
    assert (tmp_path / "found" / "table.tex").is_file()
    assert "clips+@" in capsys.readouterr().out
    assert main(["eval", "real=real.npy", "fake=fake.npy", "protocol.data.frames=5", *options[1:]]) == 2
    assert "differ in data.frames (9 and 5)" in capsys.readouterr().err
    assert main(["eval", "fake=fake.npy"]) == 2
    assert "give real=CLIPS too" in capsys.readouterr().err
