"""Measures by name beside those of every report: of clips alone, of pairs, of sets; and what is said where one cannot be."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from stand_ins import Same

from vidgen.cli.evaluate import Evaluation
from vidgen.data.batches import to_video
from vidgen.data.worlds import Worlds
from vidgen.errors import UserError
from vidgen.evaluation import rows
from vidgen.evaluation.report import write_report
from vidgen.extractors.motion import Motion
from vidgen.hub import Model
from vidgen.latents import Latent, Shape
from vidgen.metrics.kvd import kvd
from vidgen.metrics.motion_magnitude import MotionMagnitude
from vidgen.metrics.prdc import estimates

WORLD = Worlds(frames=9, height=24, width=24, radius=(4.0, 4.5), families=("bounce", "gravity"))
NAMES = ["temporal_psnr", "motion_magnitude", "kvd", "jedi", "prdc"]


class Replay(torch.nn.Module):
    """A generator that draws the validation clips, one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def sample(self, num: int, shape: Shape, condition: Any, *, first: int = 0, **how: Any) -> Latent:
        video = to_video(torch.from_numpy(clips("val", first, first + num)))
        return Latent(spec=Same.spec, grids=(Same.spec.grid(shape),), num_frames=shape[0], z=video)


def clips(split: str, begin: int, end: int) -> np.ndarray:
    return np.stack([WORLD.clip(split, i)["video"] for i in range(begin, end)])


def evaluated(folder: Path, count: int, said: io.StringIO | None = None, metrics: list[str] = NAMES) -> dict[str, rows.Row]:
    options = {"clips": count, "samples": 12, "batch_size": 5, "shown": 2, "metrics": metrics}
    config = {"class_names": list(WORLD.class_names), "shape": list(WORLD.shape), "generator": {"training": {"clips": 0}}}
    folder.mkdir()
    (folder / "config.yaml").write_text("route: same x replay\n")
    evaluation = Evaluation(
        folder=folder,
        model=Model(tokenizer=Same().eval(), generator=Replay(), config=config),
        data=WORLD,
        options=options | {"steps": None, "guidance_scale": None, "temperature": 1.0},
        precision="fp32",
        seed=0,
        console=Console(file=said or io.StringIO(), width=300),
        since=time.monotonic(),
    )
    evaluation.reconstructions(7)
    evaluation.samples(*evaluation.draw(), 8)
    return {row.name: row for row in rows.read(folder / "metrics.jsonl")}


def test_measures_of_sets_and_of_clips_alone_are_those_of_the_library(tmp_path: Path) -> None:
    found = evaluated(tmp_path / "run", count=10)
    unseen, drawn = (to_video(torch.from_numpy(clips(split, 0, n))) for split, n in (("test", 10), ("val", 12)))
    extractor = Motion().eval()
    with torch.no_grad():
        real, fake = extractor(unseen), extractor(drawn)
    assert found["samples/kvd"].value == pytest.approx(kvd(fake, real).value, rel=1e-4)
    for name, one in estimates(fake, real).items():
        assert found[f"samples/prdc_{name}"].value == pytest.approx(one.value, abs=1e-6)
    for subject, video in (("originals", unseen), ("reconstruction", unseen), ("samples", drawn)):
        metric = MotionMagnitude()
        metric.update(video)
        row = found[f"{subject}/motion_magnitude"]
        assert (row.value, row.n) == (pytest.approx(float(metric.compute()), rel=1e-5), len(video))
    assert found["reconstruction/temporal_psnr"].value == 100  # of pairs: samples have no originals
    assert not {"samples/temporal_psnr", "originals/temporal_psnr", "reconstruction/kvd"} & found.keys()
    hashes = {found[f"samples/{name}"].protocol for name in ("kvd", "jedi", "prdc_recall", "motion_fd")}
    assert len(hashes) == 4  # each is a protocol of its own
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert all(label in page for label in ("KVD", "JEDi", "Coverage (PRDC)", "Motion magnitude"))


def test_what_a_set_is_too_small_for_is_said_and_the_rest_is_measured(tmp_path: Path) -> None:
    said = io.StringIO()
    found = evaluated(tmp_path / "run", count=5, said=said)
    assert "Without prdc of the samples: This measure needs at least 6 clips of each kind and got 5 real" in said.getvalue()
    assert {"samples/kvd", "samples/jedi", "samples/motion_fd"} <= found.keys()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("kvdd", "Did you mean 'kvd'?"),
        ("frechet", "'frechet' is in every report, as motion-FD: leave it out of evaluation.metrics."),
        ("memorisation", "'memorisation' is in every report, as Memorised"),
    ],
)
def test_names_are_checked_before_anything_is_measured(name: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        evaluated(tmp_path / "run", count=10, metrics=["psnr_video", name])
    assert sentence in str(raised.value)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
