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
from vidgen.evaluation.sources import Drawing, Source, open_source
from vidgen.metrics.frechet import frechet_from_features
from vidgen.metrics.motion_magnitude import motion_magnitude
from vidgen.metrics.psnr import psnr

SMALL = {"data": {"frames": 3}}


class Corners(nn.Module):
    """The pixels of two corners of the first frame: features that can be checked by hand."""

    dim, min_frames, rule = 6, 2, {"extractor": "corners"}
    calls = 0

    def forward(self, video: Tensor) -> Tensor:
        self.calls += 1
        return torch.cat((video[:, :, 0, 0, 0], video[:, :, 0, -1, -1]), dim=1)


class Last(Corners):
    """The same of the last frame."""

    dim, rule = 6, {"extractor": "last"}

    def forward(self, video: Tensor) -> Tensor:
        return super().forward(video[:, :, -1:])


def source(name: str, clips: np.ndarray, first: int = 0) -> Source:
    """Clips that are called by their numbers from ``first`` on."""
    named = [(str(number), clip) for number, clip in enumerate(clips, start=first)]
    return Source(name=name, fingerprint=f"{name} {clips.sum()}", clips=lambda: iter(named))


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
    assert {result.protocol for result in found.results} == {f"{found.protocol.label}, 40 real clips"}
    assert (found.num_real, found.num_fake) == (40, 30)
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


def test_clips_in_one_place_under_two_rules_are_two_sides(tmp_path: Path) -> None:
    """As Latte's real clips, of which every third frame is taken, against generated ones of every frame."""
    (tmp_path / "clips").mkdir()
    np.save(tmp_path / "clips" / "v.npy", drawn(12, 0, frames=7))
    np.save(tmp_path / "other.npy", drawn(12, 0, frames=7))
    rule = preset("clips", {"data": {"frames": 3, "stride": 3, "clip": "first"}, "metric": {"measures": ["frechet"]}})
    drawing = Drawing(device=torch.device("cpu"), batch_size=4, precision=torch.no_grad, options={})
    real = open_source(str(tmp_path / "clips"), rule.data, drawing, generated=False)
    again, other = (open_source(str(tmp_path / name), rule.data, drawing, generated=True) for name in ("clips", "other.npy"))
    extractor = Last()
    distances = [values(compare(real, fake, rule, extractor, looking(tmp_path)))["fake/frechet"] for fake in (again, other)]
    assert distances[0] == distances[1] > 0
    assert real.fingerprint != again.fingerprint


def test_pairs_go_by_name_and_not_by_place(tmp_path: Path) -> None:
    """Each side lacks a clip and both have as many."""
    clips = drawn(10, 0)
    with pytest.raises(UserError, match=r"'1' of f comes where '0' of r does, and measures of pairs go by names"):
        compare(source("r", clips[:9]), source("f", clips[1:], first=1), protocol("psnr"), Corners(), looking(tmp_path))
    broken = source("f", clips[1:], first=1)
    broken.skipped.append(("0.mp4", "it is cut short"))
    with pytest.raises(UserError, match=r"Left out of f: 0.mp4, it is cut short"):
        compare(source("r", clips[:9]), broken, protocol("psnr"), Corners(), looking(tmp_path))
    found = compare(source("r", clips[1:], 1), source("f", clips[1:], 1), protocol("psnr"), Corners(), looking(tmp_path))
    assert values(found)["fake/psnr"] == 100


def test_pairs_of_several_sizes_are_compared_where_a_source_may_have_them(tmp_path: Path) -> None:
    videos = [drawn(1, seed, frames=2 + seed // 3)[0] for seed in range(9)]
    mixed = [
        Source(name=name, fingerprint=name, mixed=True, clips=lambda: ((str(i), video) for i, video in enumerate(videos)))
        for name in "rf"
    ]
    found = compare(*mixed, protocol("psnr", "frechet"), Corners(), looking(tmp_path))
    assert values(found) == {"fake/psnr": 100, "fake/frechet": 0}
    assert (found.num_real, found.num_fake) == (9, 9)


def test_what_needs_no_original_is_measured_of_the_generated_clips_alone(tmp_path: Path) -> None:
    real, fake = drawn(8, 0), drawn(5, 1)
    found = compare(
        source("r", real), source("f", fake, 3), protocol("motion_magnitude", "frechet"), Corners(), looking(tmp_path)
    )
    assert values(found)["fake/motion_magnitude"] == pytest.approx(
        float(motion_magnitude(to_video(torch.from_numpy(fake))).mean())
    )
    assert (found.num_real, found.num_fake) == (8, 5)


def test_a_source_is_gone_through_once(tmp_path: Path) -> None:
    """For a run makes its clips anew each time; with features kept, measures of videos still see the clips."""
    fake, passes = drawn(5, 1), 0

    def clips() -> Iterator[tuple[str, np.ndarray]]:
        nonlocal passes
        passes += 1
        made.skipped.append(("bad", "is broken"))
        return iter([(str(number), clip) for number, clip in enumerate(fake)])

    both, extractor = protocol("motion_magnitude", "frechet"), Corners()
    made = Source(name="f", fingerprint="f", clips=clips)
    first = compare(source("r", drawn(8, 0)), made, both, extractor, looking(tmp_path))
    assert (passes, first.skipped) == (1, [("f", "bad", "is broken")])
    calls, made = extractor.calls, Source(name="f", fingerprint="f", clips=clips)
    again = compare(source("r", drawn(8, 0)), made, both, extractor, looking(tmp_path))
    assert (passes, extractor.calls, values(again), again.skipped) == (2, calls, values(first), first.skipped)


def test_real_clips_that_none_looked_at_are_not_spoken_of(tmp_path: Path) -> None:
    found = compare(
        source("r", drawn(8, 0)), source("f", drawn(5, 1)), protocol("motion_magnitude"), Corners(), looking(tmp_path)
    )
    assert (found.num_real, found.num_fake) == (0, 5)
    assert [result.protocol for result in found.results] == [found.protocol.label]


def test_fewer_clips_than_the_protocol_is_of_are_told(tmp_path: Path) -> None:
    rule = preset("clips", {"data": {"frames": 3, "count": 10, "fake_count": 5}, "metric": {"measures": ["frechet"]}})
    found = compare(source("r", drawn(7, 0)), source("f", drawn(5, 1)), rule, Corners(), looking(tmp_path))
    assert [warning for warning in found.warnings if "the protocol is of" in warning] == [
        "r gives 7 clips, and the protocol is of 10."
    ]


@pytest.mark.parametrize("name", ["psnr_video", "temporal_psnr", "static_flicker", "warp_error"])
def test_what_has_no_score_for_each_frame_has_none_after_given_ones(tmp_path: Path, name: str) -> None:
    rule = preset("clips", {"data": {"frames": 3, "context": 1}, "metric": {"measures": ["psnr", name]}})
    with pytest.raises(UserError) as raised:
        compare(source("r", drawn(2, 0)), source("f", drawn(2, 1)), rule, Corners(), looking(tmp_path))
    assert f"'{name}' has no score for each frame, and protocol.data.context=1" in str(raised.value)


def test_chunks_are_measured_apart_and_averaged(tmp_path: Path) -> None:
    real, fake, extractor = drawn(21, 0), drawn(21, 1), Corners()
    found = compare(source("r", real), source("f", fake), protocol("frechet", chunk=10), extractor, looking(tmp_path))
    features = [extractor(to_video(torch.from_numpy(clips))) for clips in (fake, real)]
    by_hand = [float(frechet_from_features(*(part[i : i + 10] for part in features))) for i in (0, 10)]
    assert values(found)["fake/frechet"] == pytest.approx(sum(by_hand) / 2, rel=1e-6)


def test_a_measure_that_too_few_clips_are_there_for_is_named_and_what_is_left_without_it(tmp_path: Path) -> None:
    rule = preset("clips", {"data": {"frames": 3}, "metric": {"measures": ["frechet", "prdc", "kvd"]}})
    with pytest.raises(
        UserError, match=r"prdc: .* at least 6 clips .* got 5 real: .* 'protocol.metric.measures=\[frechet,kvd\]'"
    ):
        compare(source("r", drawn(5, 0)), source("f", drawn(9, 1)), rule, Corners(), looking(tmp_path))


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


def test_figures_of_other_counts_or_other_real_clips_are_in_tables_of_their_own(tmp_path: Path) -> None:
    reals = {"one": source("r", drawn(12, 0)), "more": source("r", drawn(14, 0)), "other": source("q", drawn(12, 5))}
    fakes = {name: source(name, drawn(count, 1)) for name, count in (("a", 12), ("b", 12), ("few", 9))}
    chosen = [("one", "a"), ("one", "few"), ("other", "a"), ("one", "b"), ("more", "a")]
    rows = [compare(reals[real], fakes[fake], protocol("frechet"), Corners(), looking(tmp_path)) for real, fake in chosen]
    text, label = tables.markdown(rows), rows[0].protocol.label
    seen = [
        [line.split("|")[1].strip() for line in part.splitlines() if line.startswith("|")][2:] for part in text.split("Against")
    ]
    assert seen == [["a", "b"], ["few"], ["a"], ["a"], []]
    assert [line for line in text.splitlines() if line.startswith("Against")] == [
        f"Against {real}; protocol {label}. Brackets hold 95 % intervals."
        for real in ("r, 12 clips", "r, 12 clips", "q, 12 clips", "r, 14 clips")
    ]
    assert "their figures cannot be compared" in text
    tex = tables.latex(rows)
    assert tex.count(r"\begin{tabular}") == 4
    assert rf"\footnotesize Against q, 12 clips; protocol {label}" in tex
    assert "cannot be compared" not in tables.markdown(rows[:1]) + tables.latex(rows[:1])


def test_a_comparison_survives_json(tmp_path: Path) -> None:
    found = compare(source("r", drawn(9, 0)), source("f", drawn(9, 1)), protocol("frechet"), Corners(), looking(tmp_path))
    found.skipped.append(("r", "a.mp4", "it is broken"))
    assert Comparison.from_dict(found.to_dict()) == found
    later = {"num_real", "num_fake", "real_fingerprint"}
    before = Comparison.from_dict({key: value for key, value in found.to_dict().items() if key not in later})
    assert (before.results, before.num_real) == (found.results, 0)
    assert "Against r; protocol" in tables.markdown([before])


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


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["protocol.data.count=-1"], "protocol.data.count=-1 makes no clip"),
        (["protocol.data.height=0", "protocol.data.width=0"], "protocol.data.height=0 makes no clip"),
        (["protocol.metric.measures=[]"], "protocol.metric.measures names none"),
        (["cache=/proc/nowhere"], "cache=/proc/nowhere cannot be written to"),
        (
            ["protocol.data.context=3", "protocol.metric.measures=[static_flicker]"],
            "'static_flicker' has no score for each frame",
        ),
        (["protocol.data.context=3", "protocol.metric.measures=[psnr_video]"], "'psnr_video' has no score for each frame"),
        (["protocol.data.context=-1"], "protocol.data.context=-1 of"),
        (["protocol.metric.chunk=0"], "protocol.metric.chunk=0"),
        (["protocol.data.fps=0"], "protocol.data.fps=0 is no frame rate"),
        (["protocol.data.fps=10"], "states no times that protocol.data.fps=10 could convert"),
        (["protocol.data.split=nonsense"], "protocol.data.split is one of all, train, val, test"),
        (
            ["protocol.data.count=5", "protocol.metric.measures=[psnr,prdc]"],
            "prdc: This measure needs at least 6 clips of each kind and a.npy gives 5: give more. Or leave prdc out: "
            "'protocol.metric.measures=[psnr]'",
        ),
    ],
)
def test_what_cannot_be_measured_is_said_before_any_work(
    options: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", drawn(6, 0, frames=9))
    assert main(["eval", "real=a.npy", "fake=a.npy", "protocol.data.frames=9", "out=found", *options]) == 2
    assert sentence in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]
