"""All measures of frames and clips together: one update, any batches, any ranks, none mistaken for another."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from vidgen import registry
from vidgen.metrics.class_accuracy import ClassAccuracy
from vidgen.metrics.controllability import Controllability
from vidgen.metrics.horizon import Horizon
from vidgen.metrics.motion_consistency import MotionConsistency
from vidgen.metrics.motion_magnitude import MotionMagnitude
from vidgen.metrics.ms_ssim import MSSSIM
from vidgen.metrics.psnr import PSNR
from vidgen.metrics.region_psnr import RegionPSNR
from vidgen.metrics.ssim import SSIM
from vidgen.metrics.static_flicker import StaticFlicker
from vidgen.metrics.temporal_psnr import TemporalPSNR
from vidgen.metrics.warp_error import WarpError

ROOT = Path(__file__).parents[2]


def every() -> dict[str, Metric]:
    return {
        "psnr": PSNR(),
        "psnr_video": PSNR(over="video"),
        "psnr_set": PSNR(over="set"),
        "psnr_8bit": PSNR(eight_bit=True),
        "psnr_luma": PSNR(color="luma"),
        "ssim": SSIM(),
        "ssim_uniform": SSIM(window="uniform"),
        "ssim_padded": SSIM(window="padded"),
        "region_psnr": RegionPSNR(),
        "temporal_psnr": TemporalPSNR(),
        "static_flicker": StaticFlicker(tolerance=60.0),
        "warp_error": WarpError(),
        "motion": MotionMagnitude(),
        "consistency": MotionConsistency(),
        "horizon": Horizon(measure=PSNR(), context=1, frames=3),
        "controllability": Controllability(frame=2),
        "class_accuracy": ClassAccuracy(classifier=lambda video: video.mean(dim=(1, 2, 3, 4)).gt(0).long(), convention="bright"),
    }


def batch(clips: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    real = torch.rand(clips, 3, 3, 12, 12, generator=generator) * 2 - 1
    real = real[:, :, :1] * 0.7 + real * 0.3
    strength = torch.linspace(0.05, 0.3, clips).view(-1, 1, 1, 1, 1)
    video, random = (real + scale * strength * torch.randn(real.shape, generator=generator) for scale in (1, 2))
    mask = torch.zeros(clips, 3, 12, 12, dtype=torch.bool)
    mask[..., :6] = True
    return {"video": video, "real": real, "random": random, "mask": mask, "label": torch.arange(clips) % 2}


def shown(metrics: MetricCollection, given: dict[str, Tensor], part: slice = slice(None)) -> None:
    some = {name: value[part] for name, value in given.items()}
    metrics.update(some.pop("video"), **some)


def test_one_update_is_for_all_and_each_gives_what_it_gives_alone() -> None:
    given = batch()
    together = MetricCollection(every())
    shown(together, given, slice(0, 2))
    shown(together, given, slice(2, None))
    found = together.compute()
    assert found.keys() == every().keys()
    for name, metric in every().items():
        alone = MetricCollection({name: metric})
        shown(alone, given)
        assert found[name].shape == () and found[name].isfinite(), name
        assert found[name].dtype == torch.float64, name
        assert found[name].item() == pytest.approx(alone.compute()[name].item(), rel=1e-9), name


def test_ranks_do_not_matter() -> None:
    given = batch()
    whole, first, second = (MetricCollection(every(), compute_groups=False) for _ in range(3))
    shown(whole, given)
    shown(first, given, slice(0, 2))
    shown(second, given, slice(2, None))
    for name, metric in whole.items():
        first[name].merge_state(second[name])
        assert first[name].compute().item() == pytest.approx(metric.compute().item(), rel=1e-9), name
    assert first["psnr_set"].interval() == pytest.approx(whole["psnr_set"].interval(), rel=1e-9)
    ours, theirs = first["horizon"].estimate(), whole["horizon"].estimate()
    assert ours["low"] == pytest.approx(theirs["low"]) and ours["mean"] == pytest.approx(theirs["mean"])


def test_scores_that_agree_at_first_do_not_make_two_measures_one() -> None:
    """Of several metrics whose states agree after the first batch, as all SSIM of equal videos do, a collection updates one."""
    given = batch()
    names = ("ssim", "ssim_uniform", "ssim_padded", "psnr", "psnr_8bit", "psnr_luma")
    together = MetricCollection({name: metric for name, metric in every().items() if name in names})
    together.update(given["real"], real=given["real"])
    together.update(given["video"], real=given["real"])
    found = {name: value.item() for name, value in together.compute().items()}
    assert len(set(found.values())) == len(names)
    apart = copy.deepcopy(every())
    for name in names:
        apart[name].update(given["real"], given["real"])
        apart[name].update(given["video"], given["real"])
        assert found[name] == pytest.approx(apart[name].compute().item()), name


def test_every_measure_says_what_it_is() -> None:
    words = [f"{type(metric).__name__}: {metric.convention}" for metric in [*every().values(), MSSSIM()]]
    assert len(set(words)) == len(words)
    for metric in every().values():
        assert metric.full_state_update is False and metric.is_differentiable is False
        assert metric.higher_is_better in (True, False, None)
        assert isinstance(metric.unit, str)


def test_reset_forgets() -> None:
    given, together = batch(), MetricCollection(every())
    shown(together, given)
    before = {name: value.item() for name, value in together.compute().items()}
    together.reset()
    shown(together, given)
    assert {name: value.item() for name, value in together.compute().items()} == before


# The document


def test_the_documents_example_runs() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    given = batch()
    space = {"batches": [(given["video"], given["real"])]}
    exec(compile(example, "metrics.md", "exec"), space)
    assert set(space["figures"]) == {"psnr", "psnr_of_set", "ssim", "motion"}


def test_the_document_names_every_measure() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    ours = {type(metric).__name__ for metric in [*every().values(), MSSSIM()]} | {"LPIPS", "CodebookUsage", "Legality"}
    assert ours <= set(registry.parts("metrics").values())
    for name in ours:
        assert f"`{name}" in text, name
