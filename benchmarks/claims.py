"""What the field claims of tokenizers and generators, each checked by a rule on committed rows, for ``docs/claims.md``.

What a rule finds is told whichever way it comes out. Figures of others are in the sources alone, each with where it is from; ours
are read from ``benchmarks/results``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean, stdev

import rates
import sampling
import scaling
import suite
import timing
import work
from lines import cores
from measured import LOSS, Run, average, cells, families, points, runs
from records import read

from vidgen.config import load

YES, NO, UNDECIDED, NOT_RUN = "yes", "no", "undecided", "not run yet"

ENOUGH = 3
"""Seeds, pairs of timings or points of a law, below which a comparison decides nothing for good."""

LITTLE = 1.0
"""dB of PSNR that may be lost where something costs little."""

STRAIGHT = -0.95
"""Pearson's correlation of the logarithms that a power law has at least."""

PATCH = "tokenizer.backbone.patch="

FINE, COARSE = (4, 4, 4), (4, 8, 8)
"""Strides in time, height and width: the one that the other is said to cost little beside."""


@dataclass(frozen=True)
class Vote:
    """One comparison.

    Attributes:
        found: what came of it, in words.
        sign: whether it speaks for the claim (1), against it (-1) or for neither (0).
        n: the seeds, pairs or points that it rests on.
    """

    found: str
    sign: int
    n: int


@dataclass(frozen=True)
class Outcome:
    """A verdict with what it rests on."""

    verdict: str
    votes: Sequence[Vote] = ()
    missing: str = ""
    partly: bool = False

    @property
    def so_far(self) -> bool:
        """Whether any of it rests on too little to last, or on a part of what was to be run."""
        return self.partly or any(vote.n < ENOUGH for vote in self.votes)

    @property
    def words(self) -> str:
        """The verdict with what has to be known of it."""
        return self.verdict + (", so far" if self.so_far else "")


@dataclass(frozen=True)
class Claim:
    """What is claimed, by whom, when it counts as so here, and what came of it."""

    says: str
    source: str
    rule: str
    check: Callable[[], Outcome]


def decided(votes: Sequence[Vote], command: str, *, partly: bool = False) -> Outcome:
    """Yes or no where all say so; without votes, what has to be run. ``partly`` where not all of that was."""
    if not votes:
        return Outcome(NOT_RUN, missing=command)
    signs = {vote.sign for vote in votes}
    return Outcome({frozenset({1}): YES, frozenset({-1}): NO}.get(frozenset(signs), UNDECIDED), votes, partly=partly)


def of_interval(low: float, high: float, border: float = 0.0) -> int:
    """1 where an interval lies above a border, -1 where it lies below it."""
    return 1 if low > border else -1 if high < border else 0


# Sampling faster ------------------------------------------------------------------------------------------------------------


def faster(one: str, other: str) -> Outcome:
    """Whether one generator samples faster than another, in timings of both in turns.

    Seconds a sample of the suites are no part of it: each is one reading, taken under whatever load the machine had then.
    """
    return decided(_timed(one, other), f"`python benchmarks/sampling.py --only {one}`")


def _subject(one: str, other: str) -> re.Pattern[str]:
    """Of timings of the two, with the steps of each where they are of one's choice."""
    return re.compile(rf"{one}(, \d+ steps)? against {other}(, \d+ steps)?")


def _timed(one: str, other: str) -> list[Vote]:
    """Timings of both in turns, whose first and third quartiles have to be on one side of 1."""
    votes = []
    for row in timing.read(sampling.RESULTS):
        named = _subject(one, other).fullmatch(row.subject)
        if not named or row.ratio is None or row.quartiles is None:
            continue
        low, high = row.quartiles
        steps = " and ".join(f"{name} in{rest[1:]}" for name, rest in zip((one, other), named.groups(), strict=True) if rest)
        place = row.hardware.get("gpu") or f"{cores(row.hardware)} of {row.hardware['cpu']}"
        what = f"{row.measure}{f', {steps}' if steps else ''}, on {place}, {row.pairs} pairs"
        found = f"{row.ratio:.2f} times ({low:.2f}–{high:.2f}) as fast: {what}"
        votes.append(Vote(found, of_interval(low, high, border=1.0), row.pairs))
    return votes


# Laws -----------------------------------------------------------------------------------------------------------------------


def var_power_law() -> Outcome:
    """Whether VAR's validation loss falls with its parameters as a power law does."""
    votes = []
    for name, own in families(_runs("scaling")).items():
        if (law := _law(own, "generator/parameters", LOSS)) and own[0].generator == "var":
            sign = of_interval(*law.interval)
            found = f"{name}, loss by parameters: {law.words}"
            # It rises; it falls, along a line or not; or nobody knows.
            votes.append(Vote(found, {1: -1, -1: 1 if law.r <= STRAIGHT else -1, 0: 0}[sign], law.n))
    return _of_suite(votes, "scaling")


def dit_follows_compute() -> Outcome:
    """Whether DiT's samples get better with the FLOPs of a sample."""
    votes = []
    for name, own in families(_runs("scaling")).items():
        if (law := _law(own, "generator/sample_flops", "samples/motion_fd")) and own[0].generator == "dit":
            votes.append(Vote(f"{name}, motion-FD by FLOPs of a sample: {law.words}", -of_interval(*law.interval), law.n))
    return _of_suite(votes, "scaling")


def codebooks() -> Outcome:
    """Whether samples get better with larger codebooks for LFQ, and do not for VQ."""
    found = _runs("codebook-size")
    votes = []
    for generator in dict.fromkeys(run.generator for run in found if run.generator):
        both = {name: [run for run in found if (run.tokenizer, run.generator) == (name, generator)] for name in ("lfq", "vq")}
        # At one stride, bits per pixel are in proportion to the bits of a token: the exponent is the same.
        laws = {name: _law(own, "tokenizer/bits_per_pixel", "samples/motion_fd") for name, own in both.items()}
        for name, law in laws.items():
            if law is not None and all(laws.values()):
                better = -of_interval(*law.interval)
                psnr = _by_rate(both[name], "reconstruction/psnr")
                words = f"{generator} × {name}, motion-FD by bits a token: {law.words}; PSNR from few bits to many: {psnr} dB"
                votes.append(Vote(words, better if name == "lfq" else -better, law.n))
    return _of_suite(votes, "codebook-size")


def reconstruction_and_generation() -> Outcome:
    """Whether tokenizers that reconstruct better are better to generate with, for each generator."""
    votes = []
    found = cells(_runs("cpu"))
    for generator in dict.fromkeys(generator for _, generator in found if generator):
        pairs = [
            (average(own, "reconstruction/motion_fd"), average(own, "samples/motion_fd"))
            for (_, its), own in found.items()
            if its == generator
        ]
        there = [(x, y) for x, y in pairs if x and y and x > 0 and y > 0]
        if len({x for x, _ in there}) >= scaling.LEAST:
            law = scaling.fit([x for x, _ in there], [y for _, y in there])
            found_words = f"{generator}, motion-FD of samples by that of reconstructions: {law.words}"
            votes.append(Vote(found_words, of_interval(*law.interval), law.n))
    return _of_suite(votes, "cpu")


def _law(own: Sequence[Run], across: str, along: str) -> scaling.PowerLaw | None:
    """The law of runs, each a point; None where there are too few sizes."""
    there = points(own, across, along)
    return scaling.fit(*zip(*there, strict=True)) if len({x for x, _ in there}) >= scaling.LEAST else None


def _by_rate(own: Sequence[Run], name: str) -> str:
    """A figure from the smallest rate to the largest, means over seeds."""
    values: dict[float, list[Run]] = {}
    for run in own:
        if rate := run.value("tokenizer/bits_per_pixel"):
            values.setdefault(rate, []).append(run)
    means = [average(values[rate], name) for rate in sorted(values)]
    return ", ".join(f"{value:.1f}" for value in means if value is not None)


# Compression ----------------------------------------------------------------------------------------------------------------


def compression() -> Outcome:
    """Whether a stride of 4x8x8 loses little PSNR beside 4x4x4 of the same tokenizer, trained on the same data."""
    found = [("", run) for run in runs(read(rates.RESULTS))]
    # Of the same tokenizer the run with a generator comes last and takes the other's place.
    found += [("in suites, ", run) for name in ("rates", "compression") for run in _runs(name)]
    groups: dict[tuple[str, ...], dict[tuple[int, ...], dict[int, Run]]] = {}
    for where, run in found:
        stride = _stride(run)
        if stride and run.value("reconstruction/psnr") is not None:
            alike = (word for word in run.words if word.startswith(("tokenizer.", "data.")) and not word.startswith(PATCH))
            key = f"{where}`{run.typed('tokenizer')}` on {run.origin.data}", *alike
            groups.setdefault(key, {}).setdefault(stride, {})[run.origin.seed] = run
    votes = []
    for (words, *_), strides in groups.items():
        fine, coarse = strides.get(FINE, {}), strides.get(COARSE, {})
        if fine.keys() & coarse.keys():
            votes.append(_cost(words, fine, coarse))
    return _of_suite(votes, "compression")


def _cost(words: str, fine: dict[int, Run], coarse: dict[int, Run]) -> Vote:
    """dB lost, with a 95 % interval over the seeds that both have, or of the clips where it is one."""
    drops = [_psnr(fine[seed]) - _psnr(coarse[seed]) for seed in fine if seed in coarse]
    if len(drops) > 1:
        half = scaling.quantile(len(drops) - 1) * stdev(drops) / math.sqrt(len(drops))
    else:
        half = math.hypot(*(_half(next(iter(side.values()))) for side in (fine, coarse)))
    low, high = mean(drops) - half, mean(drops) + half
    rate, distance = (
        [average(side.values(), name) for side in (fine, coarse)] for name in ("tokenizer/bits_per_pixel", "samples/motion_fd")
    )
    at = f", at {rate[0] / rate[1]:.2g} times less rate" if rate[0] and rate[1] else ""
    samples = f"; motion-FD of samples {distance[0]:.3g}, then {distance[1]:.3g}" if distance[0] and distance[1] else ""
    counts = sorted({row.n for side in (fine, coarse) for run in side.values() if (row := run.rows["reconstruction/psnr"]).n})
    clips = f", n is {' or '.join(f'{count:,}' for count in counts)} clips" if counts else ""
    found = f"{words}: {mean(drops):.2f} dB less ({low:.2f} to {high:.2f}){at}, {_seeds(len(drops))}{clips}{samples}"
    return Vote(found, -of_interval(low, high, border=LITTLE), len(drops))


def _stride(run: Run) -> tuple[int, ...] | None:
    """The stride of the patches, as typed or else by the recipe; None for what has none."""
    if typed := run.typed("tokenizer.backbone.patch"):
        return tuple(int(side) for side in re.findall(r"\d+", typed))
    recipe = run.typed("tokenizer")
    patch = load("tokenizer", recipe)["backbone"].get("patch") if recipe else None
    return tuple(patch) if patch else None


def _times(stride: Sequence[int]) -> str:
    return "x".join(map(str, stride))


def _psnr(run: Run) -> float:
    return run.rows["reconstruction/psnr"].value


def _half(run: Run) -> float:
    """Half of the 95 % interval of the PSNR."""
    interval = run.rows["reconstruction/psnr"].interval
    return (interval[1] - interval[0]) / 2 if interval else math.inf


# The page -------------------------------------------------------------------------------------------------------------------

FASTER = "Of timings in turns, the first quartile of the ratios is above 1."
OF_PATCHES = f"{FASTER} DiT has patches of 1x2x2, as published, so its trunk sees a quarter of the tokens."

CLAIMS = (
    Claim(
        "MaskGIT in 8 steps samples faster than an autoregressive model",
        "Up to 64 times (Chang et al., MaskGIT, 2022, abstract); 60 times on video (Yu et al., MAGVIT, 2023, abstract).",
        FASTER,
        partial(faster, "maskgit", "ar"),
    ),
    Claim(
        "MaskGIT in 8 steps samples faster than diffusion in 250",
        "Two orders of magnitude on video (Yu et al., MAGVIT, 2023, abstract).",
        OF_PATCHES,
        partial(faster, "maskgit", "dit"),
    ),
    Claim(
        "VAR samples faster than an autoregressive model",
        "About 20 times (Tian et al., VAR, 2024, abstract).",
        FASTER,
        partial(faster, "var", "ar"),
    ),
    Claim(
        "VAR samples faster than diffusion in 250 steps",
        "Tian et al., VAR, 2024, abstract, against DiT, without a figure there.",
        OF_PATCHES,
        partial(faster, "var", "dit"),
    ),
    Claim(
        "VAR's loss is a power law of its size",
        "Correlations of the logarithms near −0.998 (Tian et al., VAR, 2024, abstract).",
        f"The 95 % interval of the exponent is below 0, and r is at most {scaling.signed(STRAIGHT)}; every run is a point.",
        var_power_law,
    ),
    Claim(
        "DiT's quality follows its FLOPs",
        "More Gflops consistently give a lower FID (Peebles and Xie, DiT, 2022, abstract).",
        "The 95 % interval of the exponent of motion-FD by FLOPs is below 0; every run is a point.",
        dit_follows_compute,
    ),
    Claim(
        "Larger codebooks make generation better with LFQ alone",
        "With growing vocabularies VQ's samples get worse and LFQ's better (Yu et al., Language Model Beats Diffusion, 2023).",
        "For every generator, the exponent of motion-FD by bits a token has its 95 % interval below 0 for LFQ, above 0 for VQ.",
        codebooks,
    ),
    Claim(
        "Compressing 4 times in time and 8 times in space costs little",
        "On TokenBench, discrete: 35.119 dB at 4x4x4 (VideoGPT) and 35.137 dB at 4x8x8 (Cosmos); continuous, Cosmos: 37.270 dB "
        "at 4x8x8 and 36.856 dB at 8x8x8 (README of NVlabs/TokenBench). Not so on MCL-JCV, with four channels: 34.78 dB at 4x4x4 "
        "and 29.64 dB at 4x8x8 (README of microsoft/VidTok).",
        f"From a stride of {_times(FINE)} to {_times(COARSE)}, PSNR falls by less than {LITTLE:g} dB with the same quantizer and "
        "steps: the 95 % interval of the fall.",
        compression,
    ),
    Claim(
        "Tokenizers that reconstruct better are better to generate with",
        "Taken for granted for long; Yao et al. (Reconstruction vs. Generation, 2025, abstract) tell of the contrary: richer "
        "tokens reconstruct better, and need larger models and more training for the same generation.",
        "For every generator, motion-FD of samples rises with that of reconstructions, a point a tokenizer: the 95 % interval of "
        "the exponent is above 0.",
        reconstruction_and_generation,
    ),
)


def page() -> str:
    """All claims: their verdicts in a table, then each by itself."""
    outcomes = [(claim, claim.check()) for claim in CLAIMS]
    body = [f"| {claim.says} | {outcome.words} |" for claim, outcome in outcomes]
    table = "\n".join(["| Claim | At our scale |", "| --- | --- |", *body])
    return "\n\n".join([table, *(_section(claim, outcome) for claim, outcome in outcomes)])


def _section(claim: Claim, outcome: Outcome) -> str:
    words = {1: "for", 0: "neither", -1: "against"}
    found = "\n".join(f"- {words[vote.sign]}: {vote.found}" for vote in outcome.votes)
    count = ", ".join(f"{number} {words[sign]}" for sign in words if (number := sum(vote.sign == sign for vote in outcome.votes)))
    why = f": {count}" if outcome.verdict == UNDECIDED else f": {outcome.missing}" if outcome.missing else ""
    head = [f"## {claim.says}", f"Claimed: {claim.source}", f"Counts as so here if: {claim.rule}"]
    return "\n\n".join([*head, *([found] if found else []), f"**{outcome.words}**{why}"])


def _runs(name: str) -> list[Run]:
    """Of a suite, whether it is there yet or not."""
    return runs(work.results(suite.load(name)))


def _of_suite(votes: Sequence[Vote], name: str) -> Outcome:
    """The verdict of what was run of a suite."""
    return decided(votes, f"`{_command(name)}`", partly=len(_runs(name)) < len(suite.load(name).cells))


def _command(name: str) -> str:
    return f"python benchmarks/run.py {name}"


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"
