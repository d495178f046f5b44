"""Results of a trained model: reconstructions, codebook, physics, samples; each a named figure with its protocol."""

from __future__ import annotations

import contextlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidgen.config import load
from vidgen.data.batches import eval_batches, to_pixels, to_video
from vidgen.data.folder import Folder
from vidgen.data.worlds import Worlds
from vidgen.data.worlds.recipe import GROUND
from vidgen.evaluation.flops import Flops
from vidgen.evaluation.further import clip_metrics, lone_metrics
from vidgen.hub import Model
from vidgen.latents import Condition, Latent, Shape
from vidgen.metrics.codebook_usage import CodebookUsage
from vidgen.metrics.legality import ALIKE, MISFIT, READABLE, RESIDUAL, RESIDUAL_MOST, SIZE, STRAY, wilson
from vidgen.metrics.physics import FOLLOWED, Findings, Physics
from vidgen.metrics.psnr import PSNR
from vidgen.metrics.region_psnr import RegionPSNR, foreground
from vidgen.metrics.ssim import SSIM, SSIM_WINDOW
from vidgen.metrics.statistics import NORMAL_95
from vidgen.protocols import Data

PSNR_RULE = "mean over frames, RGB, float in [-1, 1]"
SSIM_RULE = "11x11 Gaussian, sigma 1.5, valid window, RGB"
RATE_RULE = "log2 of the joint vocabulary"
DIVERGENCE_RULE = "mean divergence of the posterior from N(0, I)"
JUDGE_RULES = {
    "appearance_legal": f"radius constant within {100 * SIZE:g} %, at most {STRAY:g} px of coverage stray",
    "law_legal": f"within {RESIDUAL:g} px RMS and {RESIDUAL_MOST:g} px at most of a lawful motion",
    "parse_rate": f"outlines within {MISFIT:g} px in {100 * READABLE:g} % of what is seen whole",
    "class_accuracy": f"no other family's residual is smaller by over {ALIKE:g} px; what cannot be read is wrong",
    "count_correct": "in every frame",
    "law_residual": "mean over the clips that could be read",
    **{f"follows_{what}": "read from the pixels, against the facts that the caption names" for what in FOLLOWED},
}
JUDGED_AT_ONCE = 64
"""Samples, of which there may be more than memory holds."""
Precision = Callable[[], contextlib.AbstractContextManager[None]]


@dataclass(kw_only=True)
class Result:
    """One figure: its name, value, how many things it counts, how it was measured in a few words, and a 95 % interval."""

    name: str
    value: float
    n: int
    protocol: str | None
    interval: tuple[float, float] | None = None


@dataclass(kw_only=True)
class Measured:
    """Results, with the clips that are worth showing as uint8 (N, T, H, W, 3)."""

    results: list[Result] = field(default_factory=list)
    shown: dict[str, np.ndarray] = field(default_factory=dict)
    histogram: dict[str, Any] | None = None


class Judge:
    """A world's judge over batches of one subject (``originals``, ``reconstruction`` or ``samples``); silent on other data."""

    def __init__(self, data: Data, subject: str) -> None:
        self.subject = subject
        self.physics = Physics(data) if isinstance(data, Worlds) else None
        self.findings: list[Findings] = []

    def update(
        self, pixels: np.ndarray, labels: np.ndarray, actions: np.ndarray | None, captions: list[str] | None = None
    ) -> None:
        """Judges a batch of uint8 clips, of which captions say what they should show."""
        if self.physics is not None:
            self.findings.append(self.physics(pixels, labels, actions, captions=captions))

    def results(self, chosen: np.ndarray | slice = slice(None), suffix: str = "") -> list[Result]:
        """The figures of all clips, or of those ``chosen``, named ``subject/measure`` with ``suffix``."""
        if not self.findings:
            return []
        return [
            Result(
                name=f"{self.subject}/{name}{suffix}",
                value=one.value,
                n=one.n,
                interval=one.interval,
                protocol=JUDGE_RULES.get(name, "mean over clips"),
            )
            for name, one in Findings.cat(self.findings)[chosen].summary().items()
        ]

    def failures(self) -> list[Result]:
        """The share of clips that are not legal, in all and by the first thing that failed, the most frequent first."""
        if not self.findings:
            return []
        reasons = Findings.cat(self.findings).verdicts.reason
        counts = Counter(reason for reason in reasons if reason)
        failed = {"": sum(counts.values())} | {"/" + re.sub(r"\W+", "_", reason): count for reason, count in counts.most_common()}
        return [
            Result(
                name=f"{self.subject}/failed{suffix}",
                value=count / len(reasons),
                n=len(reasons),
                interval=wilson(count, len(reasons)),
                protocol="the first thing that failed" if suffix else "in appearance or by law",
            )
            for suffix, count in failed.items()
        ]


def measure_tokenizer(
    tokenizer: Any,
    data: Data,
    *,
    split: str,
    count: int,
    batch_size: int,
    shown: int,
    device: torch.device,
    precision: Precision,
    metrics: Sequence[str] = (),
    see: Callable[[str, np.ndarray], None] = lambda subject, pixels: None,
) -> Measured:
    """Reconstructs ``count`` clips that training has not seen, and measures everything about them in one pass.

    ``metrics`` are further measures by name, of which those of sets are left out here; those that need no original are taken of
    the originals too. ``see`` is shown every batch of ``originals`` and of ``reconstructions``.
    """
    fidelity = _Fidelity(data)
    added = {name: metric.to(device) for name, metric in clip_metrics(metrics).items()}
    lone = {name: metric.to(device) for name, metric in lone_metrics(metrics).items()}
    usage = CodebookUsage(levels=tokenizer.spec.levels) if tokenizer.spec.levels else None
    originals, again = Judge(data, "originals"), Judge(data, "reconstruction")
    examples: list[tuple[np.ndarray, np.ndarray]] = []
    seen, bits = 0, 0.0
    for batch in eval_batches(data, split, count, batch_size):
        video = to_video(batch["video"].to(device))
        with torch.no_grad(), precision():
            latent = tokenizer.encode(video)
            back = tokenizer.decode(latent).clamp(-1, 1)
        bits += divergence(tokenizer, latent)
        fidelity.update(back, video)
        for metric in added.values():
            metric.update(back, video)
        for metric in lone.values():
            metric.update(video)
        if usage is not None:
            usage.update(latent.ids.cpu())
        pixels = to_pixels(back)
        source, labels = batch["video"].numpy(), batch["label"].numpy()
        actions = batch["actions"].numpy() if "actions" in batch else None
        originals.update(source, labels, actions)
        again.update(pixels, labels, actions)
        see("originals", source)
        see("reconstructions", pixels)
        if seen < shown:
            examples.append((source[: shown - seen], pixels[: shown - seen]))
        seen += len(pixels)
    found = Measured(shown={"originals": _joined(a for a, _ in examples), "reconstructions": _joined(b for _, b in examples)})
    found.results += fidelity.results(seen)
    found.results += [_further(f"reconstruction/{name}", metric, seen) for name, metric in added.items()]
    found.results += [_further(f"originals/{name}", metric, seen) for name, metric in lone.items()]
    if usage is not None:
        numbers = usage.compute()
        rule = f"{numbers['tokens']:,} {usage.protocol}"
        found.results += [
            Result(name=f"codebook/{name}", value=number, n=seen, protocol=rule) for name, number in numbers.items()
        ]
        found.histogram = usage.histogram()
    rate, rule = tokenizer.spec.bits_per_pixel(data.shape), RATE_RULE
    if rate is None and bits:
        rate, rule = bits / (seen * math.prod(data.shape)), DIVERGENCE_RULE
    if rate is not None:
        found.results.append(Result(name="tokenizer/bits_per_pixel", value=rate, n=seen, protocol=rule))
    for judge in (originals, again):
        found.results += judge.results() + judge.failures()
    return found


class _Fidelity:
    """How near reconstructions come to their originals, and how near what takes no model does: the baselines.

    Of a world they are its empty ground, which also tells where objects are; of other videos, other frames of the original.
    """

    def __init__(self, data: Data) -> None:
        self.ground = _ground(data)
        self.psnr, self.ssim, self.objects, self.blank = PSNR(), SSIM(), RegionPSNR(), PSNR()
        self.mean_frame, self.last_frame, self.before = PSNR(), PSNR(), PSNR()

    def update(self, back: Tensor, video: Tensor) -> None:
        """Takes in reconstructions and their originals, (B, C, T, H, W) in [-1, 1]."""
        self.psnr.update(back, video)
        if min(video.shape[-2:]) >= SSIM_WINDOW:
            self.ssim.update(back, video)
        if self.ground is not None:
            plain = self.ground.to(video.device).expand_as(video)
            self.objects.update(back, video, foreground(video, plain))
            self.blank.update(plain, video)
        elif video.shape[2] > 1:  # an image has no other frame
            self.mean_frame.update(video.mean(dim=2, keepdim=True).expand_as(video), video)
            self.last_frame.update(video[:, :, -1:].expand_as(video), video)
            self.before.update(video[:, :, :-1], video[:, :, 1:])

    def results(self, count: int) -> list[Result]:
        """The figures of ``count`` clips, of what there was to measure."""
        means = {
            "reconstruction/psnr": self.psnr,
            "reconstruction/ssim": self.ssim,
            "reconstruction/psnr_objects": self.objects,
            "baseline/psnr_blank": self.blank,
            "baseline/psnr_mean_frame": self.mean_frame,
            "baseline/psnr_last_frame": self.last_frame,
            "baseline/psnr_frame_before": self.before,
        }
        return [
            Result(
                name=name,
                value=metric.compute().item(),
                n=count,
                interval=metric.interval(),
                protocol=SSIM_RULE if metric is self.ssim else PSNR_RULE,
            )
            for name, metric in means.items()
            if metric.update_called
        ]


def _further(name: str, metric: Any, count: int) -> Result:
    """The figure of a further measure, called ``subject/measure``, of ``count`` clips."""
    chosen = ", ".join(f"{key}={value}" for key, value in load("metric", name.partition("/")[2]).items() if key != "name")
    interval = metric.interval() if hasattr(metric, "interval") else None
    said = getattr(metric, "convention", chosen) or None
    return Result(name=name, value=float(metric.compute()), n=count, protocol=said, interval=interval)


def divergence(tokenizer: Any, latent: Latent) -> float:
    """Bits by which the posteriors of a batch diverge from the prior N(0, I), which bits-back coding of them would cost.

    0 for latents without a posterior, and of a tokenizer that does not tell by what it standardises.
    """
    if latent.logvar is None or latent.h is None or not hasattr(tokenizer, "standardise"):
        return 0.0
    mean = tokenizer.standardise.inverse(latent.h)
    logvar = latent.logvar + 2 * tokenizer.standardise.std.log().view(1, -1, 1, 1, 1)
    return float(0.5 * (mean.square() + logvar.exp() - 1 - logvar).double().sum() / math.log(2))


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What N samples are asked to show.

    Attributes:
        labels: (N,), -1 for none; where a caption is given and no label, that of the clip which the caption is of.
        by_label: whether the model is told the label.
        texts: a caption each, or None.
        actions: (N, T), or None.
    """

    labels: np.ndarray
    by_label: bool = True
    texts: list[str] | None = None
    actions: np.ndarray | None = None

    def some(self, begin: int, end: int) -> dict[str, Any]:
        """The words for :meth:`vidgen.hub.Model.sample` to a batch of the samples; only those that there are."""
        labels = torch.from_numpy(self.labels[begin:end])
        told = {
            "label": labels if self.by_label and not bool((labels < 0).all()) else None,
            "text": None if self.texts is None else self.texts[begin:end],
            "action": None if self.actions is None else torch.from_numpy(self.actions[begin:end]),
        }
        return {name: value for name, value in told.items() if value is not None}


def known(model: Model) -> tuple[str, ...]:
    """What the model's generator may be told; of one that does not say, labels."""
    conditioner = getattr(model.generator, "conditioner", None)
    return ("label",) if conditioner is None else conditioner.names


def ask(model: Model, data: Data, count: int, split: str = "test") -> Asked:
    """What ``count`` samples of a model are asked: every label equally often, or what clips of a split show."""
    words = known(model)
    classes, by_label = len(data.class_names), "label" in words
    if "text" not in words and "action" not in words:
        labels = np.arange(count) % classes if classes and by_label else np.full(count, -1)
        return Asked(labels=labels, by_label=by_label)
    clips = [
        {name: fact for name, fact in data.clip(split, index % data.size(split)).items() if name != "video"}
        for index in range(count)
    ]
    labels = np.array([clip["label"] for clip in clips])
    texts = [clip["caption"] for clip in clips] if "text" in words else None
    actions = np.stack([clip["actions"] for clip in clips]) if "action" in words else None
    told = by_label or texts is not None  # captions of the worlds name the family, which is the label
    return Asked(labels=labels if told else np.full(count, -1), by_label=by_label, texts=texts, actions=actions)


def draw_samples(
    model: Model,
    *,
    asked: Asked,
    batch_size: int,
    shape: Shape,
    seed: int,
    precision: Precision,
    options: Mapping[str, Any],
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[np.ndarray]:
    """A sample for everything that is ``asked``, batch by batch as uint8 (B, T, H, W, 3)."""
    count = len(asked.labels)
    for begin in range(0, count, batch_size):
        end = min(begin + batch_size, count)
        with precision():
            video = model.sample(end - begin, shape, **asked.some(begin, end), first=begin, seed=seed, **options)
            drawn = to_pixels(video)
        progress(end)
        yield drawn


def measure_samples(pixels: np.ndarray, asked: Asked, data: Data) -> list[Result]:
    """What the judge makes of samples, over all of them of the two verdicts for each label, and of captions.

    Samples of ``agent`` that were asked for without actions are left out: whether they are lawful depends on actions.
    """
    names, labels, actions = tuple(data.class_names), asked.labels, asked.actions
    told = np.array([label < 0 or names[label] != "agent" or actions is not None for label in labels], dtype=bool)
    told &= (labels >= 0) | (not isinstance(data, Worlds))
    chosen = np.flatnonzero(told)
    if not len(chosen):
        return []
    judge = Judge(data, "samples")
    for begin in range(0, len(chosen), JUDGED_AT_ONCE):
        some = chosen[begin : begin + JUDGED_AT_ONCE]
        texts = None if asked.texts is None else [asked.texts[place] for place in some]
        judge.update(pixels[some], labels[some], None if actions is None else actions[some], texts)
    labels = labels[chosen]
    found = judge.results() + judge.failures()
    for index, name in enumerate(names):
        if (labels == index).any():
            found += [one for one in judge.results(labels == index, f"/{name}") if "_legal" in one.name]
    return found


def measure_alone(pixels: np.ndarray, metrics: Sequence[str], batch_size: int, device: torch.device) -> list[Result]:
    """Those further measures of samples, uint8 (N, T, H, W, 3), that need no original."""
    lone = {name: metric.to(device) for name, metric in lone_metrics(metrics).items()}
    for begin in range(0, len(pixels) if lone else 0, batch_size):
        video = to_video(torch.from_numpy(pixels[begin : begin + batch_size]).to(device))
        for metric in lone.values():
            metric.update(video)
    return [_further(f"samples/{name}", metric, len(pixels)) for name, metric in lone.items()]


def nearest_clips(pixels: np.ndarray, data: Data, *, most: int = 2048) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """For each sample the nearest training clip by mean squared error of frames shrunk fourfold.

    Returns:
        the clips, the PSNR of each sample against its clip at full size, and where each clip comes from (its number, if no file).
    """
    data = data.plain() if isinstance(data, Folder) else data  # the clips as they are, of which a sample may be a copy
    count = min(most, data.size("train"))
    small = _shrink(pixels)
    best = np.full(len(pixels), np.inf)
    index = np.zeros(len(pixels), dtype=np.int64)
    for candidate in range(count):
        distance = np.square(small - _shrink(data.clip("train", candidate)["video"][None])).mean(axis=(1, 2, 3, 4))
        closer = distance < best
        best[closer], index[closer] = distance[closer], candidate
    found = [data.clip("train", i) for i in index.tolist()]
    sources = [str(clip.get("source", f"training clip {i}")) for i, clip in zip(index.tolist(), found, strict=True)]
    near = np.stack([clip["video"] for clip in found])
    error = np.square((near.astype(np.float64) - pixels) / 255).mean(axis=(1, 2, 3, 4))
    return near, -10 * np.log10(np.maximum(error, 1e-10)), sources


def _shrink(pixels: np.ndarray) -> np.ndarray:
    n, t, h, w, c = pixels.shape
    h, w = h // 4 * 4, w // 4 * 4
    return pixels[:, :, :h, :w].reshape(n, t, h // 4, 4, w // 4, 4, c).mean(axis=(3, 5), dtype=np.float32)


def costs(
    model: Model, shape: Shape, *, steps: int | None = None, guidance_scale: float | Mapping[str, float] | None = None
) -> dict[str, float]:
    """Parameters of each part, and floating-point operations of one clip's encoding, decoding and sampling.

    A clip is sampled in ``steps`` and guided by ``guidance_scale``, as the generator does by itself where they are None.
    """
    device = next(model.tokenizer.parameters()).device
    video = torch.zeros(1, 3, *shape, device=device)
    found: dict[str, float] = {"tokenizer/parameters": _parameters(model.tokenizer)}
    with torch.no_grad(), Flops() as counter:
        latent = model.tokenizer.encode(video)
    found["tokenizer/encode_flops"] = counter.total
    with torch.no_grad(), Flops() as counter:
        model.tokenizer.decode(latent)
    found["tokenizer/decode_flops"] = counter.total
    if model.generator is not None:
        found["generator/parameters"] = _parameters(model.generator)
        label = torch.zeros(1, dtype=torch.long, device=device) if model.class_names and "label" in known(model) else None
        with torch.no_grad(), Flops() as counter:
            model.generator.sample(1, shape, Condition(label=label), steps=steps, guidance_scale=guidance_scale)
        found["generator/sample_flops"] = counter.total
    return found


def _parameters(part: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in part.parameters())


def _ground(data: Data) -> Tensor | None:
    """The colour of a world's ground as (1, 3, 1, 1, 1) in [-1, 1]; None for other data."""
    if not isinstance(data, Worlds):
        return None
    return torch.tensor(GROUND, dtype=torch.float32).view(1, 3, 1, 1, 1) / 127.5 - 1


def _joined(parts: Iterable[np.ndarray]) -> np.ndarray:
    found = list(parts)
    return np.concatenate(found) if found else np.zeros((0, 1, 1, 1, 3), dtype=np.uint8)


def mean_and_error(values: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Mean with a 95 % interval from the normal approximation."""
    mean = float(values.mean())
    half = NORMAL_95 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return mean, (mean - half, mean + half)
