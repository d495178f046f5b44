"""``metrics.jsonl``, the one record of a run's figures, and what each figure means.

Training curves and results share one schema: a JSON object a line, always with the same keys. The report, the tables and
the command line read figures from here and from nowhere else, and all name them by ``MEASURES``.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from vidgen.config import describe, load, preset_names
from vidgen.errors import UserError
from vidgen.files import replacing
from vidgen.registry import find

Stage = Literal["tokenizer", "generator", "evaluation"]
Split = Literal["train", "val", "test"]
Better = Literal["higher", "lower"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure.

    Attributes:
        stage: What was running; rows of ``evaluation`` are results, the others are points of curves.
        split: The part of the data that the figure is of.
        step: Optimizer steps done in the stage (for ``evaluation``: of the model that was measured).
        seconds: Wall time since the run began.
        name: ``subject/measure``, such as ``reconstruction/psnr``; a third part narrows it, such as a class's name or, of data
            with buckets, the size of one: those without are of the first bucket.
        value: The figure; fractions are in [0, 1]. One that is not finite is written as null and read as NaN.
        protocol: How a result was measured, in a few words; None on curves.
        n: How many clips (or whatever the protocol counts) stand behind a result.
        interval: A result's 95 % interval.
    """

    stage: Stage
    split: Split
    step: int
    seconds: float
    name: str
    value: float
    protocol: str | None = None
    n: int | None = None
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for key, choices in (("stage", Stage), ("split", Split)):
            if getattr(self, key) not in get_args(choices):
                raise ValueError(f"{key} is one of {get_args(choices)}, not {getattr(self, key)!r}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, null for what is not finite."""
        values: dict[str, Any] = _finite(asdict(self))
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Row:
        """The row whose :meth:`to_dict` is ``values``.

        Raises:
            ValueError: where the keys are not a row's, or a value cannot be its.
        """
        keys = [field.name for field in fields(cls)]
        if sorted(values) != sorted(keys):
            raise ValueError(f"its keys are not {', '.join(keys)}")
        interval = values["interval"]
        ends = None if interval is None else (_number(interval[0]), _number(interval[1]))
        return cls(**{**values, "value": _number(values["value"]), "interval": ends})


def append(path: Path, rows: Iterable[Row]) -> None:
    """Add ``rows`` to the end of a metrics file, made when absent. A line cut short by a kill is removed first."""
    _mend(path)
    text = "".join(json.dumps(row.to_dict(), allow_nan=False) + "\n" for row in rows)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def read(path: Path) -> list[Row]:
    """All rows of a metrics file, in the order written; none where there is no file.

    A last line that a kill cut short is left out with a warning.

    Raises:
        UserError: where any other line is not a row, naming file and line.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    if lines[-1] and not _is_json(lines[-1]):
        warnings.warn(f"The last line of {path} was cut short and is left out.", stacklevel=2)
        lines[-1] = ""
    return [_parse(line, path, number) for number, line in enumerate(lines, start=1) if line.strip()]


def trim(path: Path, *, stage: Stage, step: int) -> None:
    """Remove the rows of ``stage`` after ``step``: those of steps that a resumed training is about to do again."""
    rows = read(path)
    kept = [row for row in rows if row.stage != stage or row.step <= step]
    if len(kept) == len(rows):
        return
    with replacing(path) as partial:
        append(partial, kept)


def _mend(path: Path) -> None:
    """End the file with a whole line, so that what is added begins a new one."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole, tail = content[: content.rfind(b"\n") + 1], content[content.rfind(b"\n") + 1 :]
    if not tail:
        return
    if _is_json(tail.decode("utf-8", errors="replace")):
        whole = content + b"\n"
    else:
        warnings.warn(f"The last line of {path} was cut short and is removed.", stacklevel=3)
    with path.open("r+b") as file:
        file.write(whole)
        file.truncate()


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    return True


def _finite(value: Any) -> Any:
    """NaN and the infinities, which JSON lacks, as null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _parse(line: str, path: Path, number: int) -> Row:
    try:
        raw = json.loads(line)
        if not isinstance(raw, dict):
            raise ValueError("it is not an object")
        return Row.from_dict(raw)
    except (ValueError, TypeError, IndexError) as error:
        raise UserError(f"Line {number} of {path} is not a row of figures ({error}): mend or remove that line.") from error


def large(value: float) -> str:
    """A quantity from a million on, to three figures: ``7.4 M``, ``1.31 G``."""
    size, letter = next((s, c) for s, c in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (0, "")) if abs(value) >= s)
    return f"{value / (size or 1):.3g} {letter}".rstrip()


@dataclass(frozen=True, slots=True)
class Measure:
    """What a figure is called, counted in, and for. ``better`` is None where neither direction is."""

    label: str
    unit: str
    better: Better | None
    meaning: str

    def text(self, value: float, *, unit: bool = True) -> str:
        """``value`` as a person reads it: ``98.4 %`` for a fraction, ``31.42 dB``, ``1,024``."""
        if not math.isfinite(value):
            return "not finite" if math.isinf(value) else "no value"
        factor = 100 if self.unit == "%" else 1
        number = large(value) if abs(value) >= 1e6 else f"{factor * value:,.{self._decimals(value)}f}"
        return f"{number} {self.unit}" if unit and self.unit else number

    def bound(self, bound: float, value: float) -> str:
        """An end of the interval of ``value``, to as many decimals as the value has, and without the unit."""
        decimals = 1 if self.unit == "%" else self._decimals(value)
        return f"{(100 if self.unit == '%' else 1) * bound:,.{decimals}f}" if math.isfinite(bound) else "no value"

    def _decimals(self, value: float) -> int:
        """As many as tell results apart: three significant figures where the unit has no custom of its own."""
        if self.unit == "%":
            return 0 if value in (0, 1) else 1
        if self.unit == "dB":
            return 2
        if not math.isfinite(value) or value == int(value):
            return 0
        return max(0, 2 - math.floor(math.log10(abs(value))))


SUBJECTS = {"originals": "originals", "reconstruction": "reconstructions", "samples": "samples"}
"""What the judge of a world looks at, and with the same eyes: the first part of a name."""

JUDGED = {
    "appearance_legal": Measure(
        "Appearance-legal",
        "%",
        "higher",
        "Clips with the right number of objects, shown in every frame that should show them, constant in colour and shape, "
        "and nothing stray.",
    ),
    "law_legal": Measure(
        "Law-legal",
        "%",
        "higher",
        "Clips that move by their label's law within the stated tolerance, neither frozen nor jumping.",
    ),
    "class_accuracy": Measure(
        "Class accuracy",
        "%",
        "higher",
        "Clips that show their label: no other family's law is nearer to their motion than that of their own.",
    ),
    "failed": Measure("Failed", "%", "lower", "Clips that are not legal on both counts, by the first thing that failed."),
    "parse_rate": Measure("Readable", "%", "higher", "Clips sharp enough to be judged: nine frames of ten could be read."),
    "presence": Measure("Presence", "%", "higher", "Objects there in the frames that should show them."),
    "count_correct": Measure("Count correct", "%", "higher", "Clips with the right number of objects in every frame."),
    "color_constant": Measure("Colour constant", "%", "higher", "Objects that have their clip's colours."),
    "shape_constant": Measure("Shape constant", "%", "higher", "Frames in which the objects have their clip's shapes."),
    "size_error": Measure("Size error", "%", "lower", "How far a radius departs from its clip's at most, as a share of it."),
    "stray": Measure("Stray", "px", "lower", "Coverage that belongs to no object, in the worst frame of a clip."),
    "law_residual": Measure(
        "Law residual",
        "px",
        "lower",
        "How far positions are from the nearest lawful motion, root mean square. A frozen clip strays little: read it beside "
        "the distance travelled.",
    ),
    "count_error": Measure("Count error", "objects", "lower", "How many objects too many or too few, mean over frames."),
    "energy_error": Measure(
        "Energy error", "%", "lower", "How far the energy is from what the law makes of it, as a share of its mean."
    ),
    "momentum_error": Measure(
        "Momentum error", "%", "lower", "How far the momentum between hits on walls is from constant, over the sum of the speeds."
    ),
    "wall_penetration": Measure("Wall penetration", "px", "lower", "How far an outline reached beyond the frame at most."),
    "permanence": Measure("Permanence", "%", "higher", "Objects due out from behind the wall that came out."),
    "reappearance_error": Measure(
        "Reappearance error", "px", "lower", "How far from where it was due such an object was when it could be placed again."
    ),
    "action_accuracy": Measure("Action accuracy", "%", "higher", "Moves within half a move of what the action asks."),
    "action_error": Measure("Action error", "px", "lower", "How far the moves are from what the actions ask."),
    "coverage": Measure("Coverage", "%", None, "Bins of pairs of factors that hold an object: as in the originals is right."),
    **{
        f"coverage_{factor}": Measure(f"Coverage, {words}", "%", None, f"Bins of the {words} that hold an object.")
        for factor, words in (("color", "colour"), *((name, name) for name in ("shape", "size", "speed", "position")))
    },
    "travel": Measure("Distance travelled", "px", None, "How far an object moves in a clip; as in the originals is right."),
}
"""Measures of a world's judge, which exist of each of ``SUBJECTS``: the second part of a name."""

MEASURES: dict[str, Measure] = {
    "reconstruction/psnr": Measure(
        "PSNR", "dB", "higher", "Closeness of reconstructed pixels to the original's: the mean over frames, over RGB."
    ),
    "reconstruction/psnr_objects": Measure(
        "PSNR of the objects", "dB", "higher", "The same where the original differs from its ground, which is what is hard."
    ),
    "reconstruction/ssim": Measure(
        "SSIM", "", "higher", "Likeness of local structure, 1 for equal frames: Gaussian window of 11, RGB mean."
    ),
    "baseline/psnr_blank": Measure(
        "PSNR of a blank ground", "dB", None, "What drawing no object at all scores: the floor under the PSNR."
    ),
    "baseline/psnr_mean_frame": Measure(
        "PSNR of the mean frame", "dB", None, "What the clip's mean frame scores, shown throughout: a floor under the PSNR."
    ),
    "baseline/psnr_last_frame": Measure(
        "PSNR of the last frame", "dB", None, "What the clip's last frame scores, shown throughout: a floor under the PSNR."
    ),
    "baseline/psnr_frame_before": Measure(
        "PSNR of the frame before",
        "dB",
        None,
        "What each true frame scores in place of the next: how still the clips are. No floor, for it knows all frames but one.",
    ),
    "codebook/usage": Measure(
        "Codebook usage", "%", "higher", "Codes that occur at all, of the full implicit codebook; more tokens find more."
    ),
    "codebook/perplexity": Measure(
        "Codebook perplexity", "codes", "higher", "How many equally frequent codes would be as hard to guess."
    ),
    "codebook/entropy_bits": Measure("Codebook entropy", "bits", "higher", "Information in a token: log2 of the perplexity."),
    "codebook/dead_codes": Measure("Dead codes", "codes", "lower", "Codes that never occur."),
    "codebook/tokens": Measure("Tokens counted", "tokens", None, "How many tokens stand behind the codebook's figures."),
    "tokenizer/bits_per_pixel": Measure(
        "Rate",
        "bits/pixel",
        None,
        "What a latent costs to store, per pixel of video: compare PSNR at equal rates only. Of "
        "continuous latents it is the mean divergence of the posterior from N(0, I) in bits, less than storing them takes.",
    ),
    "tokenizer/parameters": Measure("Parameters of the tokenizer", "", None, "Weights of encoder, bottleneck and decoder."),
    "tokenizer/encode_flops": Measure("Encoding", "FLOPs", None, "Floating-point operations to encode one clip."),
    "tokenizer/decode_flops": Measure("Decoding", "FLOPs", None, "Floating-point operations to decode one clip."),
    "generator/parameters": Measure("Parameters of the generator", "", None, "Weights of trunk, head and embeddings."),
    "generator/trunk_tokens": Measure(
        "Tokens in the trunk", "", None, "How many tokens a clip is to the generator's transformer in training."
    ),
    "generator/train_clips": Measure(
        "Clips trained on", "", None, "Steps times the batch size: the clips that training saw, every repeat counted."
    ),
    "generator/loss": Measure(
        "Validation loss",
        "",
        "lower",
        "The generator's objective on unseen clips with everything random held fixed: of one generator, size against size.",
    ),
    "generator/sample_flops": Measure(
        "Sampling",
        "FLOPs",
        None,
        "Floating-point operations to draw one clip's latents, with all of the recipe's steps and guidance.",
    ),
    "reconstruction/motion_fd": Measure(
        "motion-FD",
        "",
        "lower",
        "Frechet distance to unseen clips in the features of the embedded extractor. Not FVD.",
    ),
    "reconstruction/motion_fd_extrapolated": Measure(
        "motion-FD, extrapolated", "", "lower", "The same for sets without end: at few clips much of it is bias."
    ),
    "samples/motion_fd": Measure(
        "motion-FD", "", "lower", "Frechet distance to unseen clips in the features of the embedded extractor. Not FVD."
    ),
    "samples/fvd": Measure(
        "FVD", "", "lower", "Frechet distance to unseen clips in the features of I3D, whose weights are not part of this project."
    ),
    "samples/motion_fd_extrapolated": Measure(
        "motion-FD, extrapolated", "", "lower", "The same for sets without end, by its fall with the number of clips."
    ),
    "samples/motion_fd_reconstructions": Measure(
        "motion-FD to reconstructions",
        "",
        "lower",
        "The same against the tokenizer's own reconstructions: what of the distance is the generator's.",
    ),
    "samples/memorised": Measure(
        "Memorised",
        "%",
        None,
        "Samples nearer to a training clip than 95 % of unseen clips are, in the features of the embedded extractor: 5 % where "
        "nothing is copied, 100 % where every sample copies a clip that is searched. Searched are the first training clips, "
        "eight for each sample at most: copies of later ones are not found.",
    ),
    "samples/nearest_psnr": Measure(
        "PSNR to the nearest training clip", "dB", None, "How close samples come to their nearest training clip: high is copying."
    ),
    "samples/seconds": Measure("Sampling time", "s", "lower", "Seconds for one sample, in batches, decoded."),
    **{
        f"{stage}/train_{name}": Measure(f"Training of the {stage}", unit, None, meaning)
        for stage in ("tokenizer", "generator")
        for name, unit, meaning in (
            ("seconds", "s", "Wall time of the steps."),
            ("flops", "FLOPs", "Floating-point operations of all forward and backward passes."),
            ("tokens", "", "Cells of latents that were trained on, in all steps."),
        )
    },
    "loss/total": Measure("Loss", "", "lower", "What training minimises."),
    "lr": Measure("Learning rate", "", None, "As scheduled."),
    "grad_norm": Measure("Gradient norm", "", None, "Over all weights, before clipping."),
}
MEASURES |= {f"{subject}/{name}": measure for subject in SUBJECTS for name, measure in JUDGED.items()}
MEASURES |= {
    "fake/frechet": Measure("Frechet distance", "", "lower", "Between the features of both sets, as normal distributions."),
    "fake/frechet_extrapolated": Measure(
        "Frechet distance, extrapolated", "", "lower", "The same for sets without end: most of it at few clips is bias."
    ),
    "fake/kvd": Measure("KVD", "", "lower", "Squared maximum mean discrepancy of features, unbiased; cubic kernel."),
    "fake/jedi": Measure("JEDi", "", "lower", "Squared maximum mean discrepancy of features, biased; quadratic kernel."),
    "fake/precision": Measure("Precision", "%", "higher", "Generated clips within the neighbourhood of a real one."),
    "fake/recall": Measure("Recall", "%", "higher", "Real clips within the neighbourhood of a generated one."),
    "fake/density": Measure("Density", "", "higher", "How many real neighbourhoods a generated clip is in, against expectation."),
    "fake/coverage": Measure("Coverage", "%", "higher", "Real clips with a generated one among their nearest."),
}
MEASURES |= {f"samples/{name}": MEASURES[f"fake/{name}"] for name in ("kvd", "jedi")}
MEASURES |= {
    f"samples/prdc_{name}": replace(MEASURES[f"fake/{name}"], label=f"{name.capitalize()} (PRDC)")
    for name in ("precision", "recall", "density", "coverage")
}
"""What each name of a figure means. Names that are not here are shown too, as they are written."""


ACRONYMS = ("psnr", "ssim", "ms", "lpips", "kvd", "vgg")
"""Words of names that are written in capitals."""


def measure(name: str) -> Measure:
    """What ``name`` means: ``samples/law_legal/bounce`` as ``samples/law_legal`` narrowed, an unknown name by its own words.

    A measure that has a recipe in ``configs/metric`` is described by that recipe's comment and by its class.
    """
    known = MEASURES.get(name) or MEASURES.get(name.rpartition("/")[0])
    if known is None:
        subject, _, rest = name.partition("/")
        what, _, narrow = rest.partition("/")
        if subject in (*SUBJECTS, "fake") and what in preset_names("metric"):
            return _narrowed(_added(what), narrow) if narrow else _added(what)
        words = name.replace("/", ": ").replace("_", " ")
        return Measure(words[:1].upper() + words[1:], "", None, "")
    return known if name in MEASURES else _narrowed(known, name.rpartition("/")[2])


def _narrowed(known: Measure, narrow: str) -> Measure:
    return Measure(f"{known.label}, {narrow}", known.unit, known.better, "")


def _added(name: str) -> Measure:
    cls: Any = find("metrics", load("metric", name)["name"])
    better: dict[bool | None, Better] = {True: "higher", False: "lower"}
    label = " ".join(word.upper() if word in ACRONYMS else word for word in name.split("_"))
    return Measure(
        label[:1].upper() + label[1:], getattr(cls, "unit", ""), better.get(cls.higher_is_better), describe("metric", name)
    )


def markdown_table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, without an end of line at its end."""
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in (heads, *body)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (escaped[0], ["---"] * len(heads), *escaped[1:]))
