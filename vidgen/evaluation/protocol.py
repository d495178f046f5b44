"""What figures were measured of and how: objects with a hash, so that numbers that cannot be compared never share a column.

Users who sampled one released checkpoint and ran its own evaluation report an FVD on UCF-101 of 168 and of about 320
(https://github.com/Vchitect/Latte/issues/123 and /138). Codes that all say FVD differ in the split, the stride of the real clips,
the number of clips, the resize before the network, the rounding to 8 bits and the divisor of the covariance. A
:class:`Protocol` holds all of these, its hash is that of their canonical JSON, and every figure carries ``name@hash``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from vidgen.config import flat, load
from vidgen.errors import UserError, did_you_mean
from vidgen.protocols import SPLITS

CLIPS = ("first", "center", "random", "repeated", "all", "every", "whole")
CROPS = ("center", "squash")


@dataclass(frozen=True, kw_only=True)
class DataRule:
    """Which clips are compared, and what is done to their frames before anything sees them.

    Attributes:
        reference: the real clips in words, for people: "UCF-101, train and test together".
        split: the part of a data set that the real clips are of; "all" where it is not split.
        frames: T of a clip; of "whole" videos at most.
        height: H in pixels; None leaves sizes as they are.
        width: W in pixels.
        crop: "center" cuts out the largest centred part of the shape H x W before resizing; "squash" resizes the whole.
        fps: frames a second that files are converted to, by time stamps; None keeps each file's own.
        stride: a real clip takes every such frame.
        fake_stride: likewise a generated one.
        clip: of each video the "first" frames, those in the "center", a start drawn at "random" from (seed, name), the same
            "repeated" where more real clips are wanted than there are videos, each time at another start, "all" clips one after
            another without overlap, "every" one that there is, at each frame a start, or the "whole". Shorter videos are left
            out and counted.
        count: real clips at most, of videos drawn by (seed, name); None takes all, or of a run as many as it measures itself.
        fake_count: likewise of generated ones.
        context: frames at the beginning of generated clips that were given and not generated; they count as the others.
        seed: of random clips, and of the samples that a run draws.
    """

    reference: str
    split: str
    frames: int
    height: int | None
    width: int | None
    crop: str
    fps: float | None
    stride: int
    fake_stride: int
    clip: str
    count: int | None
    fake_count: int | None
    context: int
    seed: int

    def __post_init__(self) -> None:
        for option, words in (("clip", CLIPS), ("crop", CROPS), ("split", ("all", *SPLITS))):
            value = getattr(self, option)
            if value not in words:
                raise UserError(
                    f"protocol.data.{option} is one of {', '.join(words)}, and {value} is not.{did_you_mean(value, words)}"
                )
        for option in ("frames", "stride", "fake_stride", "count", "fake_count", "height", "width"):
            if (value := getattr(self, option)) is not None and value < 1:
                raise UserError(f"protocol.data.{option}={value} makes no clip: give a whole number from 1 on.")
        if (self.height is None) != (self.width is None):
            raise UserError("protocol.data.height and protocol.data.width go together: give both, or null for both.")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise UserError(
                f"protocol.data.fps={self.fps:g} is no frame rate: give frames a second, or null for each file's own."
            )
        if not 0 <= self.context < self.frames:
            raise UserError(
                f"protocol.data.context={self.context} of protocol.data.frames={self.frames} leaves no frame that was generated: "
                f"give a whole number from 0 to {self.frames - 1}."
            )
        if self.context and self.clip == "whole":
            raise UserError("protocol.data.context needs clips of one length: give another protocol.data.clip than whole.")
        if self.clip == "repeated" and self.count is None:
            raise UserError("protocol.data.clip=repeated goes on until there are enough: give protocol.data.count.")


@dataclass(frozen=True, kw_only=True)
class MetricRule:
    """How clips are compared.

    Attributes:
        measures: recipes by name; of distributions (frechet, kvd, ...) on features, of pairs (psnr, ssim, ...) on pixels.
        extractor: what the network before the distributions is and does: its own ``rule``, with the sha256 of its weights. A
            name stands for one that has not been built yet.
        ddof: divisor of the covariance: N - ddof.
        chunk: clips of one Frechet distance; the figure is the mean over such chunks, one after another. None takes all at once.
    """

    measures: Mapping[str, Mapping[str, Any]]
    extractor: str | Mapping[str, Any]
    ddof: int
    chunk: int | None

    def __post_init__(self) -> None:
        if not self.measures:
            raise UserError("protocol.metric.measures names none: give some, such as [frechet,kvd,prdc].")
        if self.ddof not in (0, 1):
            raise UserError(f"protocol.metric.ddof={self.ddof} is no divisor N - ddof that is in use: give 0 or 1.")
        if self.chunk is not None and self.chunk < 2:
            raise UserError(
                f"protocol.metric.chunk={self.chunk} has no covariance: give 2 clips or more, or null for all at once."
            )


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A data rule with a metric rule, under the name of the preset that it is of."""

    name: str
    data: DataRule
    metric: MetricRule
    changed: bool = field(default=False, compare=False)

    @property
    def canonical(self) -> str:
        """Canonical JSON of both rules: what is hashed. The name is no part of it, nor what ``reference`` tells people."""
        rules = {"data": asdict(self.data), "metric": asdict(self.metric)}
        del rules["data"]["reference"]
        return json.dumps(rules, sort_keys=True, separators=(",", ":"))

    @property
    def hash(self) -> str:
        """The first eight figures of the sha256 of :attr:`canonical`."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:8]

    @property
    def label(self) -> str:
        """``name@hash``, or ``name+@hash`` where options of the preset were changed."""
        return f"{self.name}{'+' if self.changed else ''}@{self.hash}"

    def with_extractor(self, rule: Mapping[str, Any]) -> Protocol:
        """The same with what the extractor, now that it is built, says of itself."""
        return replace(self, metric=replace(self.metric, extractor=dict(rule)))

    def with_weights(self, found: Mapping[str, str]) -> Protocol:
        """The same with the sha256 of the weights of those measures that have a file of their own, in its place."""
        measures = {
            name: {**recipe, "file": found[name]} if name in found else recipe for name, recipe in self.metric.measures.items()
        }
        return replace(self, metric=replace(self.metric, measures=measures))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with name and hash."""
        rules: dict[str, Any] = {"data": asdict(self.data), "metric": asdict(self.metric)}
        return {"name": self.name, "changed": self.changed, "hash": self.hash, **json.loads(json.dumps(rules))}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Protocol:
        """The protocol whose :meth:`to_dict` is ``values``."""
        data, metric = DataRule(**values["data"]), MetricRule(**values["metric"])
        return cls(name=values["name"], data=data, metric=metric, changed=values["changed"])


def preset(name: str, overrides: Mapping[str, Any] | None = None) -> Protocol:
    """The protocol ``configs/protocol/<name>.yaml`` with ``overrides``, nested as in the yaml.

    Raises:
        UserError: on an unknown name or option, or a value that none can have.
    """
    return from_recipe(name, load("protocol", name, overrides))


def from_recipe(name: str, recipe: Mapping[str, Any]) -> Protocol:
    """The protocol of a composed recipe, which may have left its preset ``name``."""
    changed = dict(recipe) != load("protocol", name)
    measures = {measure: load("metric", measure) for measure in recipe["metric"]["measures"]}
    metric = MetricRule(**{**recipe["metric"], "measures": measures})
    return Protocol(name=name, data=DataRule(**recipe["data"]), metric=metric, changed=changed)


def differences(one: Protocol, other: Protocol) -> list[str]:
    """What differs between two protocols, in words: ``data.stride (3 and 1)``; empty where their hashes are equal."""
    return [
        f"{key} ({first} and {second})"
        for (key, first), (_, second) in zip(_flat(one, other), _flat(other, one), strict=True)
        if first != second
    ]


def _flat(protocol: Protocol, like: Protocol) -> list[tuple[str, Any]]:
    """Every value of the rules by its dotted key, those that only ``like`` has as None."""
    own = dict(flat(json.loads(protocol.canonical)))
    keys = sorted({*own, *dict(flat(json.loads(like.canonical)))})
    return [(key, own.get(key)) for key in keys]


def one_protocol(protocols: Sequence[Protocol], where: str) -> Protocol:
    """The protocol that all of them are.

    Raises:
        UserError: where two differ, saying in what: their figures cannot stand in one column.
    """
    first = protocols[0]
    for other in protocols[1:]:
        if other.hash != first.hash:
            raise UserError(
                f"{where} would hold figures of {first.label} and of {other.label}, which differ in "
                f"{', '.join(differences(first, other))}: measure all by one protocol, or keep them in tables of their own."
            )
    return first
