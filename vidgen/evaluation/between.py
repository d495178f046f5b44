"""Two sources of clips compared by a protocol: features and pairs from one decoding of each, figures with their protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidgen.data.batches import to_video
from vidgen.errors import UserError
from vidgen.evaluation.cutting import Pixels
from vidgen.evaluation.further import Figure, needs_originals, of_sets, set_figures, shown
from vidgen.evaluation.measure import Result
from vidgen.evaluation.protocol import Protocol
from vidgen.evaluation.sources import Source, batched_by
from vidgen.files import replacing
from vidgen.hub import fingerprint
from vidgen.metrics.features import too_few
from vidgen.metrics.horizon import Horizon, framewise
from vidgen.metrics.statistics import interval_95
from vidgen.protocols import Extractor
from vidgen.registry import build, find, options


@dataclass(kw_only=True)
class Comparison:
    """Figures of generated clips against real ones.

    Attributes:
        fake: the source of the generated clips, as typed.
        real: that of the real ones.
        protocol: by which they were measured.
        results: the figures.
        num_real: real clips that the figures are of; 0 where none was looked at, and in what was written before it was kept.
        num_fake: generated ones, likewise.
        real_fingerprint: sha256 of all that decides the real clips, likewise empty.
        curves: of measures of frames where a context is given, the figure of each frame after it.
        warnings: what a reader has to know of them, a sentence each.
        skipped: (source, name, reason) of videos that gave no clip.
    """

    fake: str
    real: str
    protocol: Protocol
    results: list[Result] = field(default_factory=list)
    num_real: int = 0
    num_fake: int = 0
    real_fingerprint: str = ""
    curves: dict[str, list[float]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def setting(self) -> tuple[str, int, int]:
        """What the figures depend on beside the protocol: only where it is the same do they belong in one column."""
        return self.real_fingerprint, self.num_real, self.num_fake

    @property
    def words(self) -> str:
        """How the figures were measured: by which protocol, and against how many clips where any was looked at."""
        return f"{self.protocol.label}, {self.num_real} real clips" if self.num_real else self.protocol.label

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
        lpips: the file with the weights of LPIPS's network, or a folder with those of several; empty where torch keeps downloads.
        progress: called with a source's name and the number of its clips seen so far.
    """

    device: torch.device
    batch_size: int
    cache: Path
    lpips: str = ""
    progress: Callable[[str, int], None] = lambda name, done: None


def prepared(protocol: Protocol, extractor: Extractor, lpips: str = "") -> tuple[Protocol, dict[str, Any]]:
    """The protocol with the hashes of all weights, and its measures of pairs, built.

    Raises:
        UserError: where a measure lacks its weights or cannot be taken by this protocol, or the extractor needs longer clips.
    """
    rule, chosen = protocol.data, {name: _options(recipe, lpips) for name, recipe in protocol.metric.measures.items()}
    pairs = {name: build("metrics", recipe) for name, recipe in chosen.items() if not of_sets(recipe)}
    if len(pairs) < len(chosen) and rule.frames < extractor.min_frames:
        raise UserError(
            f"The extractor {extractor.rule['extractor']} needs clips of {extractor.min_frames} frames or more, and the "
            f"protocol's have {rule.frames}: give protocol.data.frames={extractor.min_frames}, or another extractor."
        )
    if rule.context:
        for name, metric in pairs.items():
            if not framewise(metric):
                raise UserError(
                    f"'{name}' has no score for each frame, and protocol.data.context={rule.context} leaves out those that were "
                    f"given: take {name} out of protocol.metric.measures, or give protocol.data.context=0."
                )
        pairs = {name: Horizon(measure=one, context=rule.context, frames=rule.frames) for name, one in pairs.items()}
    weights = {name: sha256 for name, metric in pairs.items() if (sha256 := _weights(metric))}
    return protocol.with_extractor(extractor.rule).with_weights(weights), pairs


def _options(recipe: Mapping[str, Any], lpips: str) -> Mapping[str, Any]:
    """The recipe of a measure with the file that its network's weights are in."""
    return {**recipe, "file": lpips} if lpips and "file" in recipe else recipe


def _weights(metric: Any) -> str | None:
    """The sha256 of the file that a measure's network is from; None where it has none."""
    return getattr(metric.measure if isinstance(metric, Horizon) else metric, "sha256", None)


def compare(real: Source, fake: Source, protocol: Protocol, extractor: Extractor, looking: Looking) -> Comparison:
    """Measures ``fake`` against ``real``.

    Raises:
        UserError: as :func:`prepared`, and where a source gives no clip or pairs do not pair up.
    """
    protocol, pairs = prepared(protocol, extractor, looking.lpips)
    pairs = {name: metric.to(looking.device) for name, metric in pairs.items()}
    sets = {name: recipe for name, recipe in protocol.metric.measures.items() if name not in pairs}
    for name, recipe in sets.items():
        with _or_without(name, protocol):
            _check_numbers(recipe, real, fake)
    if any(map(needs_originals, pairs.values())):
        seen = _look_at_pairs(real, fake, pairs, extractor if sets else None, looking)
    else:
        seen = _look_apart(real, fake, pairs, extractor if sets else None, looking)
    found = Comparison(
        fake=fake.name,
        real=real.name,
        protocol=protocol,
        num_real=seen.num_real,
        num_fake=seen.num_fake,
        real_fingerprint=real.fingerprint,
    )
    for source in (real, fake):
        found.skipped += [(source.name, name, reason) for name, reason in source.skipped]
        found.warnings += source.notes
    for source, wanted, number in ((real, protocol.data.count, found.num_real), (fake, protocol.data.fake_count, found.num_fake)):
        if wanted is not None and 0 < number < wanted:
            found.warnings.append(f"{source.name} gives {number} clips, and the protocol is of {wanted}.")
    for name, metric in pairs.items():
        found.results.append(_mean(name, metric, found))
        if isinstance(metric, Horizon):
            found.curves[f"fake/{name}"] = metric.curve().tolist()
    for name, recipe in sets.items():
        with _or_without(name, protocol):
            _measure_set(name, recipe, seen.real, seen.fake, found)
    return found


@contextmanager
def _or_without(name: str, protocol: Protocol) -> Iterator[None]:
    """What is said against a measure tells which one it is, and how to go on without it."""
    try:
        yield
    except UserError as error:
        others = ",".join(other for other in protocol.metric.measures if other != name)
        hint = f" Or leave {name} out: 'protocol.metric.measures=[{others}]'." if others else ""
        raise UserError(f"{name}: {error}{hint}") from error


def _check_numbers(recipe: Mapping[str, Any], real: Source, fake: Source) -> None:
    """Refuses sources that cannot give a measure of distributions its clips, before any is looked at."""
    least = build("metrics", recipe, extractor=None).least
    for source in (real, fake):
        if source.most and source.most < least:  # one that gives none says why itself
            raise UserError(too_few(least, f"{source.name} gives {source.most}"))


@dataclass(kw_only=True)
class Seen:
    """The features of the clips of both sides, (N, d) float32, empty where no measure asks for them; and how many clips."""

    real: Tensor
    fake: Tensor
    num_real: int
    num_fake: int


def _look_apart(real: Source, fake: Source, alone: Mapping[str, Any], extractor: Extractor | None, looking: Looking) -> Seen:
    """Shows the clips of both to the extractor, and the generated ones to measures that need no original."""
    reals, num_real = _look_at(real, (), extractor, looking) if extractor else (torch.empty(0), 0)
    fakes, num_fake = _look_at(fake, list(alone.values()), extractor, looking)
    return Seen(real=reals, fake=fakes, num_real=num_real, num_fake=num_fake)


def _look_at_pairs(real: Source, fake: Source, pairs: Mapping[str, Any], extractor: Extractor | None, looking: Looking) -> Seen:
    """Shows every clip with its original to the measures of pairs, and both to the extractor."""
    features: dict[str, list[Tensor]] = {"real": [], "fake": []}
    done = 0
    for batch in batched_by(_together(real, fake), looking.batch_size, lambda pair: pair[0].shape):
        number = len(batch)
        originals, fakes = (_on(np.stack(clips), looking) for clips in zip(*batch, strict=True))
        del batch  # so that no more than one is held while the next is gathered
        for metric in pairs.values():
            metric.update(fakes, real=originals)
        if extractor is not None:
            features["real"].append(_extracted(extractor, originals))
            features["fake"].append(_extracted(extractor, fakes))
        done += number
        looking.progress(fake.name, done)
    joined = {role: torch.cat(parts) if parts else torch.empty(0) for role, parts in features.items()}
    return Seen(real=joined["real"], fake=joined["fake"], num_real=done, num_fake=done)


def _together(real: Source, fake: Source) -> Iterator[tuple[Pixels, Pixels]]:
    """Originals with the clips of their names.

    Raises:
        UserError: where one source has more clips than the other, or clips of other names or another size.
    """
    for original, mine in zip_longest(real.checked(), fake.checked()):
        if original is None or mine is None:
            raise UserError(
                f"{fake.name} and {real.name} have different numbers of clips, and measures of pairs need an original for each: "
                f"give sources of equal numbers, or a protocol without psnr, ssim and the like.{_left_out(real, fake)}"
            )
        if original[0] != mine[0]:
            raise UserError(
                f"'{mine[0]}' of {fake.name} comes where '{original[0]}' of {real.name} does, and measures of pairs go by names, "
                "without extensions and the folders that all lie in: call each video as its original, or give a protocol without "
                f"psnr, ssim and the like.{_left_out(real, fake)}"
            )
        if original[1].shape != mine[1].shape:
            raise UserError(
                f"{mine[0]} of {fake.name} is {mine[1].shape[:3]} and its original of {real.name} is {original[1].shape[:3]}: "
                "pairs have one size; give protocol.data.height and protocol.data.width."
            )
        yield original[1], mine[1]


def _left_out(real: Source, fake: Source) -> str:
    """What a source has left out so far, for whoever wonders why the other one's has no partner."""
    for source in (real, fake):
        if source.skipped:
            name, reason = source.skipped[0]
            return f" Left out of {source.name}: {name}, {reason}."
    return ""


def _look_at(source: Source, measures: Sequence[Any], extractor: Extractor | None, looking: Looking) -> tuple[Tensor, int]:
    """Shows the clips of one source to measures and to the extractor, in one pass: their features (N, d) float32, and how many.

    Features of clips seen before are read from the cache, and so the clips are only gone through where a measure asks for them.
    """
    path = looking.cache / f"{fingerprint(source.fingerprint, extractor.rule)}.npz" if extractor else None
    known = _known(path) if path else None
    if known is not None and not measures:
        features, source.skipped[:] = known
        looking.progress(source.name, len(features))
        return features, len(features)
    parts, done = [], 0
    for names, clips in source.batches(looking.batch_size):
        video = _on(clips, looking)
        for metric in measures:
            metric.update(video)
        if extractor and known is None:
            parts.append(_extracted(extractor, video))
        done += len(names)
        looking.progress(source.name, done)
    if known is not None:
        return known[0], done
    features = torch.cat(parts) if parts else torch.empty(0)
    if path:
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez(file, features=features.numpy(), skipped=np.array(source.skipped, dtype=np.str_).reshape(-1, 2))
    return features, done


def _known(path: Path) -> tuple[Tensor, list[tuple[str, str]]] | None:
    """The features in a file of the cache and what gave none; None where there is no such file."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as kept:
        return torch.from_numpy(kept["features"]), [(str(name), str(reason)) for name, reason in kept["skipped"]]


def _on(clips: np.ndarray, looking: Looking) -> Tensor:
    return to_video(torch.from_numpy(clips).to(looking.device))


def _extracted(extractor: Extractor, video: Tensor) -> Tensor:
    """Features in fp32, whatever the machine can do faster: figures of two machines have to agree."""
    with torch.no_grad():
        features: Tensor = extractor(video)
    return features.float().cpu()


def _mean(name: str, metric: Any, found: Comparison) -> Result:
    interval = metric.interval() if hasattr(metric, "interval") else None
    count = int(metric.clips.max())
    return Result(name=f"fake/{name}", value=float(metric.compute()), n=count, protocol=found.words, interval=interval)


def _measure_set(name: str, recipe: Mapping[str, Any], real: Tensor, fake: Tensor, found: Comparison) -> None:
    """Adds what one measure of distributions says, with its standard error and its value for infinitely many clips."""
    protocol = found.protocol
    rule = {"ddof": protocol.metric.ddof} if "ddof" in options(find("metrics", recipe["name"])) else {}
    recipe = {**recipe, **rule}
    if protocol.metric.chunk and name == "frechet":
        figures = [_mean_of_chunks(recipe, real, fake, found)]
    else:
        figures, warnings = set_figures(name, shown(recipe, fake, real))
        found.warnings += warnings
    found.results += [
        Result(name=f"fake/{one.name}", value=one.value, n=len(fake), protocol=found.words, interval=one.interval)
        for one in figures
    ]


def _mean_of_chunks(recipe: Mapping[str, Any], real: Tensor, fake: Tensor, found: Comparison) -> Figure:
    """The mean distance of chunks, one after another, as the protocol has it."""
    protocol, size = found.protocol, found.protocol.metric.chunk or 0
    starts = range(0, min(len(real), len(fake)) // size * size, size)
    if not starts:
        raise UserError(f"{found.fake} and {found.real} have fewer than the {size} clips of one chunk of {protocol.name}.")
    values = [shown(recipe, fake[i : i + size], real[i : i + size]).compute().item() for i in starts]
    value, error = float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    return Figure(name="frechet", value=value, interval=interval_95(value, error))
