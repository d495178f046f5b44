"""The comparison of tokenizers: its measures against closed forms, and its table."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import compare_tokenizers as compare
import lines
import numpy as np
import part_tables
import pytest
import rates
import torch
from figures import result
from made_suites import records


class Perfect:
    """A tokenizer that loses nothing but what ``shift`` columns take away."""

    def __init__(self, shift: int = 0) -> None:
        self.shift = shift

    def encode(self, video: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(z=video)

    def decode(self, latent: SimpleNamespace) -> torch.Tensor:
        return latent.z.roll(self.shift, dims=-1)


def test_ridge_regression_is_that_of_the_normal_equations() -> None:
    rng = np.random.default_rng(0)
    x, y, at = rng.normal(size=(40, 6)), rng.normal(size=(40, 2)), rng.normal(size=(5, 6))
    centred, target = x - x.mean(0), y - y.mean(0)
    penalty = 1e-2 * np.square(centred).sum(1).mean()
    weights = np.linalg.solve(centred.T @ centred + penalty * np.eye(6), centred.T @ target)
    expected = (at - x.mean(0)) @ weights + y.mean(0)
    found = compare._ridge(torch.from_numpy(x), y, torch.from_numpy(at), penalties=(1e-2,))
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_noise_is_fitted_with_the_greatest_penalty_and_signal_with_the_least() -> None:
    rng = np.random.default_rng(0)
    x, at = rng.normal(size=(100, 80)), rng.normal(size=(20, 80))
    truth = rng.normal(size=(80, 1))

    def chosen(y: np.ndarray) -> float:
        found = compare._ridge(torch.from_numpy(x), y, torch.from_numpy(at))
        each = {
            penalty: compare._ridge(torch.from_numpy(x), y, torch.from_numpy(at), penalties=(penalty,))
            for penalty in compare.PENALTIES
        }
        return next(penalty for penalty, values in each.items() if np.array_equal(values, found))

    assert chosen(rng.normal(size=(100, 1))) == max(compare.PENALTIES)
    assert chosen(x @ truth) == min(compare.PENALTIES)


def test_what_is_kept_is_found_and_what_is_moved_is_not() -> None:
    data = compare.world(compare.SMALL)
    survival, error = compare.motion(compare.encoded(Perfect(), data, "test", 4), data)
    assert survival == 1
    assert error == pytest.approx(0, abs=1e-6)
    survival, _ = compare.motion(compare.encoded(Perfect(shift=2), data, "test", 4), data)
    assert survival == 0


def test_probes_read_what_is_plain_in_the_latent() -> None:
    """From latents that are the label, the place and the velocity, all three are read; from noise none."""
    rng = np.random.default_rng(0)
    states, labels = rng.normal(size=(60, 9, 1, 5)), rng.integers(0, 3, 60)
    plain = np.concatenate([states[:, ::4, 0, :4], np.eye(3)[labels][:, None].repeat(3, 1)], axis=-1)

    def found(z: np.ndarray, part: slice) -> compare.Encoded:
        latent = torch.from_numpy(z[part]).movedim(-1, 1)[..., None, None].float()
        return compare.Encoded(latent, np.zeros(0), np.zeros(0), labels[part], states[part])

    first, rest = slice(0, 40), slice(40, 60)
    read = compare.probes(found(plain, first), found(plain, rest))
    assert read["label_accuracy"] == 1
    assert min(read["position_r2"], read["velocity_r2"]) > 0.95
    noise = rng.normal(size=plain.shape)
    assert max(compare.probes(found(noise, first), found(noise, rest)).values()) < 0.7


def test_h264_counts_its_stream_without_remarks_and_gives_all_frames_back() -> None:
    """Finer qualities cost more and give more; the encoder's remarks about itself (type 6) are no part of the picture."""
    assert compare._units(b"\0\0\0\1\x67ab\0\0\1\x06zzz\0\0\1\x65q") == [b"\0\0\1\x67ab", b"\0\0\1\x65q"]
    clip = compare.world().clip("test", 0)["video"]
    sizes, errors = [], []
    for crf in (0, 20, 40):
        size, back = compare.h264(clip, crf)
        assert back.shape == clip.shape
        again = [compare.h264(clip, crf) for _ in range(4)]
        assert {spent for spent, _ in again} == {size}
        assert all(np.array_equal(pixels, back) for _, pixels in again)
        sizes.append(size)
        errors.append(np.square(back.astype(float) - clip).mean())
    assert 100 < sizes[2] < sizes[1] < clip.nbytes / 20
    assert sizes[1] < sizes[0] < clip.nbytes
    assert errors[0] < errors[1] < errors[2] < 100


def test_every_quality_from_the_finest_on_is_a_row_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that are there are not measured again where finer ones are asked for."""
    monkeypatch.setattr(compare, "PATH", tmp_path / "tokenizers.jsonl")
    monkeypatch.setattr(compare, "h264_point", lambda data, split, crf: (1 / (crf + 1), 50.0 - crf))
    monkeypatch.setattr(compare, "CRFS", range(12, 52, 3))
    assert compare.main(["--only", "h264"]) == 0
    monkeypatch.undo()
    monkeypatch.setattr(compare, "PATH", tmp_path / "tokenizers.jsonl")
    monkeypatch.setattr(compare, "h264_point", lambda data, split, crf: (1 / (crf + 1), 50.0 - crf))
    assert compare.CRFS[0] == 0
    assert compare.main(["--only", "h264"]) == 0
    assert "H.264, crf 12 on worlds: there already" in capsys.readouterr().out
    monkeypatch.setattr(rates, "RESULTS", tmp_path / "tokenizers.jsonl")
    rates._lines.cache_clear()
    assert rates.crfs("worlds") == list(compare.CRFS)
    assert rates.codec("worlds")[-1] == (1.0, 50.0)
    rates._lines.cache_clear()


def test_the_codec_is_read_between_its_qualities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "codec", lambda kind: [(0.1, 20.0), (0.4, 30.0)])

    def at(rate: float) -> str:
        monkeypatch.setattr(rates, "point", lambda line: (rate, 0.0))
        return rates.codec_at("worlds", None)

    assert [at(0.1), at(0.2), at(0.4)] == ["20.0", "25.0", "30.0"]
    assert (at(0.05), at(0.8)) == ("none so low", "> 30.0")


def test_every_cell_is_a_command_with_the_same_budget(tmp_path) -> None:
    commands = [(cell.data, compare.command(cell, tmp_path, tmp_path)) for cell in compare.cells()]
    for data in compare.STEPS:
        own = [words for where, words in commands if where == data]
        assert len({tuple(word for word in words if ".training." in word or "evaluation" in word) for words in own}) == 1
    assert len({tuple(words) for _, words in commands}) == len(commands)


@pytest.mark.parametrize(("psnr", "judged"), [(20.0, False), (28.0, False), (28.1, True)])
def test_rows_below_what_needs_no_tokenizer_judge_none(monkeypatch: pytest.MonkeyPatch, psnr: float, judged: bool) -> None:
    found = lines.lines(
        record
        for name, value in (("vq", psnr), ("kl", 15.0))
        for record in records(
            [
                result("reconstruction/psnr", value, n=5),
                result("baseline/psnr_mean_frame", 28.0, n=5),
                result("tokenizer/bits_per_pixel", 0.2, n=5),
                result("tokenizer/parameters", 1804234.0),
            ],
            tokenizer=name,
            generator=None,
            data="folder",
        )
    )
    monkeypatch.setattr(rates, "cells", lambda kind: found)
    monkeypatch.setattr(rates, "codec", lambda kind: [])
    monkeypatch.setattr(rates, "crfs", lambda kind: [])
    text = part_tables._compared("folder")
    assert "40 steps each, one seed a row. n is 5 clips. The clip's mean frame, shown throughout, has 28.00 dB" in text
    assert ("which no tokenizer reaches after 40 steps" in text) == (not judged)
    assert "| 1.8 M |" in text
