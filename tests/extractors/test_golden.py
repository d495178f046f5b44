"""``vidgen doctor --fvd``: what it says of weights that are not FVD's and, with stubs for published values, of those that are."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vidgen import UserError
from vidgen.cli import main
from vidgen.cli.doctor import examine_fvd
from vidgen.extractors import golden
from vidgen.extractors.i3d import I3D, PUBLISHED, Inception
from vidgen.extractors.weights import blob_of


def random_i3d(folder: Path) -> Path:
    """A file with weights of I3D's shapes that nobody trained."""
    torch.manual_seed(0)
    torch.save(Inception(bn_eps=1e-3).state_dict(), folder / "random.pt")
    return folder / "random.pt"


def test_doctor_fails_weights_that_are_not_those_of_fvd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(golden, "CONSTANT", {10: golden.CONSTANT[10]})
    file = random_i3d(tmp_path)
    assert main(["doctor", "--fvd", str(file)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok", "hint", "wrong", "wrong"]
    assert hashlib.sha256(file.read_bytes()).hexdigest() in lines[0]
    assert "published 569.2296" in lines[2]
    assert lines[3].split()[1] == "failed"


def test_doctor_passes_weights_that_give_what_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real weights are not here: what these random ones give is put in the place of what was published."""
    file = random_i3d(tmp_path)
    value = golden.constant(I3D(path=str(file)).network, 10)
    assert value > 0
    monkeypatch.setattr(golden, "constant", lambda network, frames: value)
    monkeypatch.setitem(PUBLISHED, "styleganv", replace(PUBLISHED["styleganv"], blob=blob_of(file)))
    for share, status in ((1.001, 0), (1.01, 1)):
        monkeypatch.setattr(golden, "CONSTANT", {10: value * share})
        assert main(["doctor", "--fvd", str(file)]) == status
        states = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
        assert states[1] == ["ok", "file"]
        assert states[-1] == (["wrong", "failed"] if status else ["ok", "passed"])


def test_the_whole_check_has_every_published_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden, "constant", lambda network, frames: golden.CONSTANT[frames])
    findings = [finding for finding in examine_fvd(str(random_i3d(tmp_path))) if finding.subject.startswith("black")]
    assert [finding.subject for finding in findings] == [f"black, white, {frames} frames" for frames in (10, 16, 30)]
    assert all(finding.state == "ok" for finding in findings)


def test_noise_is_that_of_the_published_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call of numpy's generator for all clips gives the same numbers as one for each, and the network sees them unscaled."""
    monkeypatch.setattr(golden, "NOISE_FRAMES", 2)
    monkeypatch.setattr(golden, "SIZE", 5)
    found = golden.noise(lambda video: video.flatten(1), seed=1, clips=3)
    expected = np.random.RandomState(1).rand(3, 2, 5, 5, 3).astype(np.float32)
    np.testing.assert_array_equal(found, np.moveaxis(expected, -1, 1).reshape(3, -1))


def test_the_long_check_takes_the_distance_of_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vidgen.metrics.frechet")
    monkeypatch.setattr(golden, "constant", lambda network, frames: golden.CONSTANT[frames])
    shift = golden.NOISE**0.5
    drawn = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(golden, "noise", lambda network, seed: drawn + (seed - 1) * shift * torch.tensor([1.0, 0.0, 0.0]))
    findings = list(examine_fvd(str(random_i3d(tmp_path)), long=True))
    assert (findings[-2].subject, findings[-2].state, findings[-1].state) == ("noise, 128 clips", "ok", "ok")


def test_a_file_that_is_not_there_is_told() -> None:
    with pytest.raises(UserError, match=r"there is no file 'nowhere\.pt'"):
        list(examine_fvd("nowhere.pt"))
