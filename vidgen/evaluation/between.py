"""Two sources of clips compared by a protocol: features and pairs from one decoding of each, figures with their protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidgen.data.batches import to_video
from vidgen.errors import UserError
from vidgen.evaluation.measure import Result
from vidgen.evaluation.protocol import Protocol
from vidgen.evaluation.sources import Source
from vidgen.hub import fingerprint
from vidgen.metrics.horizon import Horizon
from vidgen.protocols import Extractor
from vidgen.registry import build, find, options

CONFIDENCE = 1.96


@dataclass(kw_only=True)
class Comparison:
    """Figures of generated clips against real ones.

    Attributes:
        fake: the source of the generated clips, as typed.
        real: that of the real ones.
        protocol: by which they were measured.
        results: the figures.
        curves: of measures of frames where a context is given, the figure of each frame after it.
        warnings: what a reader has to know of them, a sentence each.
        skipped: (source, name, reason) of videos that gave no clip.
    """

    fake: str
    real: str
    protocol: Protocol
    results: list[Result] = field(default_factory=list)
    curves: dict[str, list[float]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str, str]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**{key: value for key, value in asdict(self).items() if key != "protocol"}, "protocol": self.protocol.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Comparison:
        """The comparison whose :meth:`to_dict` is ``values``."""
        results = [Result(**{**one, "interval": one["interval"] and tuple(one["interval"])}) for one in values["results"]]
        skipped = [(source, name, reason) for source, name, reason in values["skipped"]]
        return cls(**{**values, "protocol": Protocol.from_dict(values["protocol"]), "results": results, "skipped": skipped})


@dataclass(frozen=True, kw_only=True)
class Looking:
    """Where and how clips are looked at.

    Attributes:
        device: of the extractor.
        batch_size: clips at once.
        cache: a folder that keeps the features of clips already seen.
        progress: called with a source's name and the number of its clips seen so far.
    """

    device: torch.device
    batch_size: int
    cache: Path
    progress: Callable[[str, int], None] = lambda name, done: None


def compare(real: Source, fake: Source, protocol: Protocol, extractor: Extractor, looking: Looking) -> Comparison:
    """Measures ``fake`` against ``real``.

    Raises:
        UserError: where a source gives no clip, clips are shorter than the extractor can take, or pairs do not pair up.
    """
    protocol = protocol.with_extractor(extractor.rule)
    chosen = {name: (recipe, find("metrics", recipe["name"])) for name, recipe in protocol.metric.measures.items()}
    sets = {name: recipe for name, (recipe, cls) in chosen.items() if "extractor" in options(cls)}
    pairs = {name: _of_pairs(recipe, protocol).to(looking.device) for name, (recipe, _) in chosen.items() if name not in sets}
    if sets and protocol.data.frames < extractor.min_frames:
        raise UserError(
            f"The extractor {extractor.rule['extractor']} needs clips of {extractor.min_frames} frames or more, and the "
            f"protocol's have {protocol.data.frames}: give protocol.data.frames={extractor.min_frames}, or another extractor."
        )
    found = Comparison(fake=fake.name, real=real.name, protocol=protocol)
    features = {}
    if pairs:
        features = _look_at_pairs(real, fake, pairs, extractor if sets else None, looking)
    elif sets:
        features = {source.name: _features(source, extractor, looking) for source in (real, fake)}
    for source in (real, fake):
        found.skipped += [(source.name, name, reason) for name, reason in source.skipped]
    for name, metric in pairs.items():
        found.results.append(_mean(name, metric, protocol))
        if isinstance(metric, Horizon):
            found.curves[f"fake/{name}"] = metric.curve().tolist()
    for name, recipe in sets.items():
        _measure_set(name, recipe, features[real.name], features[fake.name], found)
    return found


def _of_pairs(recipe: Mapping[str, Any], protocol: Protocol) -> Any:
    """A measure of pairs; where frames are given and not generated, of those after them, with its curve over time."""
    metric, rule = build("metrics", recipe), protocol.data
    return Horizon(measure=metric, context=rule.context, frames=rule.frames) if rule.context else metric


def _look_at_pairs(
    real: Source, fake: Source, pairs: Mapping[str, Any], extractor: Extractor | None, looking: Looking
) -> dict[str, Tensor]:
    """Shows every clip with its original to the measures of pairs, and both to the extractor."""
    seen: dict[str, list[Tensor]] = {real.name: [], fake.name: []}
    done = 0
    ours, theirs = fake.batches(looking.batch_size), real.batches(looking.batch_size)
    for (names, fakes), (originals, reals) in _together(ours, theirs, fake.name, real.name):
        if fakes.shape != reals.shape:
            raise UserError(
                f"{names[0]} of {fake.name} is {fakes.shape[1:4]} and its original {originals[0]} is {reals.shape[1:4]}: pairs "
                "have one size; give protocol.data.height and protocol.data.width."
            )
        videos = {fake.name: _on(fakes, looking), real.name: _on(reals, looking)}
        for metric in pairs.values():
            metric.update(videos[fake.name], real=videos[real.name])
        if extractor is not None:
            for name, video in videos.items():
                seen[name].append(_extracted(extractor, video))
        done += len(fakes)
        looking.progress(fake.name, done)
    return {name: torch.cat(parts) for name, parts in seen.items() if parts}


def _together(ours: Iterator[Any], theirs: Iterator[Any], fake: str, real: str) -> Iterator[tuple[Any, Any]]:
    """Batches side by side. Raises UserError where one source has more clips than the other."""
    for mine in ours:
        other = next(theirs, None)
        if other is None or len(other[0]) != len(mine[0]):
            break
        yield mine, other
    else:
        if next(theirs, None) is None:
            return
    raise UserError(
        f"{fake} and {real} have different numbers of clips, and measures of pairs need an original for each: give sources of "
        "equal numbers, in the same order, or a protocol without psnr, ssim and the like."
    )


def _features(source: Source, extractor: Extractor, looking: Looking) -> Tensor:
    """The features of all clips of a source, (N, d) float32; those of clips seen before are read from the cache."""
    path = looking.cache / f"{fingerprint(source.fingerprint, extractor.rule)}.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as kept:
            source.skipped[:] = [(str(name), str(reason)) for name, reason in kept["skipped"]]
            looking.progress(source.name, len(kept["features"]))
            return torch.from_numpy(kept["features"])
    parts, done = [], 0
    for names, clips in source.batches(looking.batch_size):
        parts.append(_extracted(extractor, _on(clips, looking)))
        done += len(names)
        looking.progress(source.name, done)
    features = torch.cat(parts)
    looking.cache.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        np.savez(file, features=features.numpy(), skipped=np.array(source.skipped, dtype=np.str_).reshape(-1, 2))
    partial.replace(path)
    return features


def _on(clips: np.ndarray, looking: Looking) -> Tensor:
    return to_video(torch.from_numpy(clips).to(looking.device))


def _extracted(extractor: Extractor, video: Tensor) -> Tensor:
    """Features in fp32, whatever the machine can do faster: figures of two machines have to agree."""
    with torch.no_grad():
        features: Tensor = extractor(video)
    return features.float().cpu()


def _mean(name: str, metric: Any, protocol: Protocol) -> Result:
    interval = metric.interval() if hasattr(metric, "interval") else None
    count = int(metric.clips.max())
    return Result(name=f"fake/{name}", value=float(metric.compute()), n=count, protocol=protocol.label, interval=interval)


def _measure_set(name: str, recipe: Mapping[str, Any], real: Tensor, fake: Tensor, found: Comparison) -> None:
    """Adds what one measure of distributions says, with its standard error and its value for infinitely many clips."""
    protocol = found.protocol
    own = options(find("metrics", recipe["name"]))
    rule = {"ddof": protocol.metric.ddof} if "ddof" in own else {}

    def measured(real: Tensor, fake: Tensor) -> Any:
        metric = build("metrics", {**recipe, **rule}, extractor=None)
        metric.update(fake, real=real)
        return metric

    def add(suffix: str, value: float, error: float | None = None) -> None:
        interval = None if error is None else (value - CONFIDENCE * error, value + CONFIDENCE * error)
        found.results.append(Result(name=f"fake/{suffix}", value=value, n=len(fake), protocol=protocol.label, interval=interval))

    if protocol.metric.chunk and name == "frechet":
        size = protocol.metric.chunk
        starts = range(0, min(len(real), len(fake)) // size * size, size)
        if not starts:
            raise UserError(f"{found.fake} and {found.real} have fewer than the {size} clips of one chunk of {protocol.name}.")
        values = [measured(real[i : i + size], fake[i : i + size]).compute().item() for i in starts]
        add(name, float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else None)
        return
    metric = measured(real, fake)
    if hasattr(metric, "estimate"):
        estimate = metric.estimate()
        add(name, estimate.value, getattr(estimate, "standard_error", None))
        if getattr(estimate, "extrapolated", None) is not None:
            add(f"{name}_extrapolated", estimate.extrapolated, estimate.extrapolated_error)
        found.warnings += [f"{name}: {warning}" for warning in estimate.warnings]
        return
    value = metric.compute()
    for suffix, one in value.items() if isinstance(value, Mapping) else [(name, value)]:
        add(suffix, float(one))
