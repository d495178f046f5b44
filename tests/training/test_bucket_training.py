"""Training on buckets: tokenizers, caches of latents, generators of every kind, stopped and gone on with, and ``vidgen fit``."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from footage import write
from torch.utils.data import DataLoader

from vidgen import hub
from vidgen.cli import main
from vidgen.data.batches import BatchOrder, ClipBatches
from vidgen.data.buckets import batch_sizes
from vidgen.evaluation import rows
from vidgen.latents import Shape
from vidgen.protocols import Data
from vidgen.routes import fitted
from vidgen.training import loop
from vidgen.training.cache import LatentCache, build_cache
from vidgen.training.task import GeneratorTask, LatentBatches

GRIDS: list[Shape] = [(3, 4, 2), (3, 2, 4), (2, 4, 4), (1, 4, 4)]
"""Upright, wide, shorter and square, and images."""


class Bucketed(tiny.Clips):
    """Random smooth clips of several sizes, the first of which are those that the whole shows."""

    def __init__(self, shapes: list[Shape]) -> None:
        super().__init__(shapes[0])
        self.buckets = tuple(tiny.Clips(shape, size=5 + k) for k, shape in enumerate(shapes))


def bucketed(tokenizer: Any) -> Bucketed:
    return Bucketed([tiny.shape_of(tokenizer, grid) for grid in GRIDS])


def test_the_whole_is_data_like_any_other() -> None:
    assert isinstance(Bucketed([(5, 8, 8), (1, 8, 8)]), Data)


def caches(tokenizer: Any, folder: Path, wants: tuple[str, ...] = ("h",)) -> list[LatentCache]:
    how: dict[str, Any] = {"count": 7, "seed": 3, "batch_size": 4, "device": torch.device("cpu"), "progress": lambda x, n: x}
    return [
        build_cache(folder / str(k), tokenizer, data, wants=wants, **how) for k, data in enumerate(bucketed(tokenizer).buckets)
    ]


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(value, b.tensors()[name]) for name, value in a.tensors().items())


def test_batches_of_latents_are_of_one_bucket_within_the_budget(tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer("lfq").eval()
    spec, own = tokenizer.spec, caches(tokenizer, tmp_path, ("ids",))
    sizes = batch_sizes([part.shape for part in bucketed(tokenizer).buckets], spec.num_tokens, 64)
    assert sizes == (2, 2, 2, 4)
    order = BatchOrder([7] * 4, sizes, seed=5)
    seen: Counter[int] = Counter()
    for step, (latent, told) in enumerate(LatentBatches(own, batch_size=sizes, seed=5, first=0, last=60)):
        bucket, places = order(step)
        expected, label = own[bucket].read([item for item, _ in places])
        assert latent.grids == (GRIDS[bucket],)
        assert same(latent, expected)
        assert torch.equal(told.label, label.label)
        assert latent.ids.shape[0] * latent.ids.shape[1] <= 64
        seen[bucket] += len(told.label)
    assert max(seen.values()) - min(seen.values()) <= 7


def test_one_cache_is_read_as_ever(tmp_path: Path) -> None:
    cache = tiny.latent_cache(tiny.tokenizer("lfq").eval(), tmp_path / "latents")
    how: dict[str, Any] = {"seed": 5, "first": 2, "last": 9}
    alone, listed = LatentBatches(cache, batch_size=3, **how), LatentBatches([cache], batch_size=[3], **how)
    assert all(same(one, two) for (one, _), (two, _) in zip(alone, listed, strict=True))


def broken_off(training: tiny.Training, folder: Path) -> Any:
    """Trained with a stop in the midst, and gone on with."""

    def stop(step: int, split: str, values: Any) -> None:
        if step == 5 and split == "train":
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(loop.Stopped):
        training.run(folder, tiny.Seen().hooks(log=stop))
    return training.run(folder)


@pytest.mark.parametrize("name", ["kl", pytest.param("lfq", marks=pytest.mark.slow)])
def test_a_tokenizer_trains_on_buckets_and_goes_on_as_if_never_stopped(name: str, tmp_path: Path) -> None:
    """With images, and an adversary that sees motion."""
    start = tiny.tokenizer(name)
    data = bucketed(start)
    training = tiny.tokenizer_training(name, data=data, start=start, adversary=tiny.ADVERSARY, images=0.2, batch_size=4)
    shapes = [tuple(batch["video"].shape[1:-1]) for batch in ClipBatches(data, batch_size=4, seed=0, first=0, last=8)]
    assert len(set(shapes)) == len(GRIDS)
    assert tiny.same_weights(broken_off(training, tmp_path / "broken"), training.run(tmp_path / "whole"))


@pytest.mark.parametrize(
    "name", ["dit", "maskgit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ar", "mar", "var", "latte"))]
)
def test_every_kind_of_generator_trains_on_buckets_and_goes_on(name: str, tmp_path: Path) -> None:
    recipe = fitted(tiny.tokenizer_config("lfq"), tiny.generator_config(name)["name"])
    tokenizer = tiny.stirred(hub.build_tokenizer(recipe)).eval()
    start = tiny.stirred(tiny.generator(name, tokenizer.space, num_classes=3), 0.05)
    own, how = caches(tokenizer, tmp_path / "caches", start.wants), tiny.recipe()
    start.prepare(own[0].read(range(7))[0])

    def loader(first: int) -> DataLoader:
        batches = LatentBatches(own, batch_size=(2, 2, 2, 4), seed=0, first=first, last=how.steps, windows=0.2)
        return DataLoader(batches, batch_size=None)

    training = tiny.Training(lambda: GeneratorTask(deepcopy(start), how, 0, own[0].read([0, 1])), loader)
    assert tiny.same_weights(broken_off(training, tmp_path / "broken"), training.run(tmp_path / "whole"))


# ---- the command line


def listed(folder: Path) -> Path:
    """Videos of three sizes with captions and labels."""
    lines = []
    for tone, (name, count, size) in enumerate(
        (f"{size[0]}x{size[1]}-{k}", count, size)
        for count, size in ((6, (24, 24)), (6, (20, 40)), (12, (24, 24)))
        for k in range(4)
    ):
        place = f"{count}-{name}.mp4"
        write(folder / place, count=count, tone=9 * tone, size=size)
        lines.append({"path": place, "caption": f"Tone {tone % 3}.", "label": f"{size[0]} high"})
    (folder / "all.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


SMALL = [
    *("tokenizer.backbone.patch=[4,4,4]", "tokenizer.backbone.widths=[12]", "tokenizer.backbone.strides=[]"),
    *("tokenizer.backbone.encoder_depths=[1]", "tokenizer.backbone.decoder_depths=[1]"),
    *("generator.width=32", "generator.depth=1", "generator.heads=2", "generator.steps=2", "generator.training.clips=9"),
    *(f"{part}.training.{word}" for part in ("tokenizer", "generator") for word in ("steps=6", "batch_size=2", "warmup=1")),
    *("evaluation.clips=2", "evaluation.samples=2", "evaluation.shown=2", "evaluation.metrics=[]", "trainer.precision=fp32"),
]


def fit(*words: str) -> int:
    return main(["fit", "data=folder", "data.path=listed", *SMALL, *words])


@pytest.mark.parametrize(
    ("buckets", "found"),
    [
        ("[5x16x16,5x12x24,9x16x16]", "5x16x16 (2), 5x12x24 (2), 9x16x16 (2) clips, 2 labels (20 high, 24 high)"),
        pytest.param("auto", "9x16x16 (2), 5x12x24 (2), 5x16x16 (2) clips, 2 labels", marks=pytest.mark.slow),
    ],
)
def test_a_folder_of_three_sizes_ends_in_a_report(
    buckets: str, found: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tokenizer, a cache for each bucket, generator told labels and texts, samples and figures of the first bucket."""
    listed(tmp_path / "listed")
    own = [f"data.buckets={buckets}", "generator/conditioning=[label,text]", "data.height=16", "data.width=16", "data.frames=9"]
    with contextlib.chdir(tmp_path):
        assert fit(*own) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert found in said
        run = Path("runs/latest")
        assert (run / "report.html").is_file()
        kept = rows.read(run / "metrics.jsonl")
        assert {row.stage for row in kept} == {"tokenizer", "generator", "evaluation"}
        assert len(list(Path("runs/cache").glob("latents-*"))) == 3
        shape = [int(size) for size in found.split()[0].split("x")]
        assert yaml.safe_load((run / "config.yaml").read_text())["data"]["buckets"] == yaml.safe_load(buckets)
        model = hub.load(run)
        assert model.config["shape"] == shape
        assert model.sample(1, (5, 12, 24), text="tone 1.", seed=0).shape == (1, 3, 5, 12, 24)  # another bucket's


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "data.buckets=[5x16x16,5x14x24]",
            "The bucket 5x14x24 of data.buckets does not suit this tokenizer. The height 14 is ",
        ),
        (
            "data.buckets=[5x16x16,5x12x24] data.tokens=35",
            "less than one clip of the bucket 5x12x24, and one has 36: give data.tokens=",
        ),
    ],
)
def test_mistakes_leave_no_run(words: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed(tmp_path / "listed")
    with contextlib.chdir(tmp_path):
        assert fit(*words.split()) == 2
        assert sentence in capsys.readouterr().err
        assert not list(Path("runs").glob("*-lfq*"))


def test_the_budget_is_that_of_the_first_bucket_s_batch_unless_it_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told before anything is trained."""

    def told(_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vidgen.cli.fit.Fit._make_tokenizer", told)
    listed(tmp_path / "listed")
    with contextlib.chdir(tmp_path):
        for words, sizes in ((["tokenizer.training.batch_size=9"], "9/8/6"), (["data.tokens=144"], "4/4/3")):
            with pytest.raises(SystemExit):
                fit("data.buckets=[5x16x16,5x12x24,9x16x16]", "stage=tokenizer", *words)
            assert f"6 steps of {sizes}" in " ".join(capsys.readouterr().out.split())
