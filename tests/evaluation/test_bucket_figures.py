"""Figures of every bucket: closed forms size by size, those of the first as if it were alone, and the page tells them apart."""

from __future__ import annotations

import io
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from footage import write
from rich.console import Console
from stand_ins import Same

from vidgen.cli.evaluate import Evaluation
from vidgen.data.buckets import named
from vidgen.data.folder import Folder
from vidgen.errors import UserError
from vidgen.evaluation import measure, rows
from vidgen.evaluation.report import write_report
from vidgen.hub import Model
from vidgen.latents import Latent, Shape

SIZES = ["5x16x16", "5x12x20", "9x16x16", "1x16x16", "5x20x12"]
"""The last of which has no unseen clips."""
ERRORS = {(5, 16, 16): 0.125, (5, 12, 20): 0.25, (9, 16, 16): 0.5, (1, 16, 16): 1.0}
OPTIONS = {
    "clips": 6,
    "samples": 3,
    "batch_size": 2,
    "shown": 3,
    "steps": None,
    "guidance_scale": None,
    "temperature": 1.0,
    "metrics": ["temporal_psnr"],
}


class Shifted(Same):
    """A tokenizer whose reconstructions are darker by what :data:`ERRORS` says of their size."""

    def decode(self, latent: Latent) -> torch.Tensor:
        video = super().decode(latent)
        return video - ERRORS.get(tuple(video.shape[2:]), 0.0)


class Grey(torch.nn.Module):
    """A generator of grey frames, whose loss is the number of pixels of a clip; it cannot draw ``hard``."""

    def __init__(self, hard: Shape | None = None) -> None:
        super().__init__()
        self.hard, self.drawn = hard, list[tuple[int, Shape]]()

    def validation_loss(self, latent: Latent, condition: Any) -> torch.Tensor:
        assert latent.h is not None
        return torch.tensor(float(math.prod(latent.h.shape[2:])))

    def sample(self, num: int, shape: Shape, condition: Any, **how: Any) -> Latent:
        if shape == self.hard:
            raise UserError("That is too hard.")
        self.drawn.append((num, shape))
        grid = Shifted.spec.grid(shape)
        return Latent(spec=Shifted.spec, grids=(grid,), num_frames=shape[0], z=torch.zeros(num, 3, *shape))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Bright videos: five of each size but the last, of which there are two."""
    root = tmp_path_factory.mktemp("videos")
    tones = iter(range(140, 256))
    for count, size, videos in ((7, (24, 24), 5), (6, (24, 40), 5), (11, (24, 24), 5), (1, (24, 24), 5), (6, (40, 24), 2)):
        for k in range(videos):
            write(root / f"{count}-{size[0]}-{size[1]}-{k}.mp4", count=count, tone=next(tones), size=size)
    return Folder(path=str(root), cache=str(root.parent / "cache"), buckets=SIZES, mirror=0.0, zoom=0.0, light=0.0)


def evaluated(
    folder: Path, data: Any, generator: Grey | None = None, console: Console | None = None, **options: Any
) -> Evaluation:
    config = {"class_names": [], "shape": list(data.shape), "generator": {"training": {"clips": 0}}}
    folder.mkdir(exist_ok=True)
    evaluation = Evaluation(
        folder=folder,
        model=Model(tokenizer=Shifted().eval(), generator=generator, config=config),
        data=data,
        options=OPTIONS | options,
        precision="fp32",
        seed=0,
        console=console or Console(quiet=True),
        since=time.monotonic(),
    )
    evaluation.reconstructions(7)
    if generator is not None:
        evaluation.samples(*evaluation.draw(), 8)
    return evaluation


def kept(folder: Path) -> dict[str, rows.Row]:
    return {row.name: row for row in rows.read(folder / "metrics.jsonl")}


def test_every_bucket_is_measured_by_itself(data: Folder, tmp_path: Path) -> None:
    """PSNR of a constant error e in [-1, 1] is -20 log10(e / 2), and the rate follows from the grid."""
    evaluated(tmp_path / "run", data)
    found = kept(tmp_path / "run")
    for bucket in data.buckets[1:4]:
        size = named(bucket.shape)
        row = found[f"reconstruction/psnr/{size}"]
        assert row.value == pytest.approx(-20 * math.log10(ERRORS[bucket.shape] / 2), abs=1e-4)
        assert (row.split, row.step, row.n) == ("test", 7, min(2, bucket.size("test")))
        cells = math.prod(Shifted.spec.grid(bucket.shape))
        assert found[f"tokenizer/bits_per_pixel/{size}"].value == pytest.approx(2 * cells / math.prod(bucket.shape))
        assert (f"baseline/psnr_mean_frame/{size}" in found) == (bucket.shape[0] > 1)
        assert (f"reconstruction/temporal_psnr/{size}" in found) == (bucket.shape[0] > 1)
    assert not [name for name in found if name.endswith(("/5x16x16", "/5x20x12"))]
    sizes = json.loads((tmp_path / "run" / "buckets.json").read_text())
    assert list(sizes) == SIZES
    assert sizes["5x20x12"] == {"train": 2, "val": 0, "test": 0}
    assert {path.stem for path in (tmp_path / "run" / "reconstructions").glob("*.mp4")} == {
        *("test", "bucket-5x12x20", "bucket-9x16x16", "bucket-1x16x16"),
    }


def test_the_first_bucket_s_figures_are_what_they_are_without_the_others(data: Folder, tmp_path: Path) -> None:
    for folder, those in (("all", data), ("first", data.buckets[0])):
        evaluated(tmp_path / folder, those, Grey())
    of_all, alone = kept(tmp_path / "all"), kept(tmp_path / "first")
    for name, row in alone.items():
        assert of_all[name].n == row.n
        assert of_all[name].value == row.value or name == "samples/seconds", name
    assert {name.rpartition("/")[2] for name in set(of_all) - set(alone)} == set(SIZES) - {"5x20x12"}
    assert not (tmp_path / "first" / "buckets.json").exists()


def test_images_are_measured_without_what_needs_a_next_frame(data: Folder, tmp_path: Path) -> None:
    """Data of single frames have the measures that they can have, and are told why not the others; training was not in vain."""
    said = io.StringIO()
    images = data.buckets[SIZES.index("1x16x16")]
    evaluated(tmp_path / "run", images, console=Console(file=said, width=200), metrics=["temporal_psnr", "psnr_video"])
    found = kept(tmp_path / "run")
    assert {"reconstruction/psnr", "reconstruction/psnr_video"} <= found.keys()
    assert "reconstruction/temporal_psnr" not in found
    assert "Without temporal_psnr of 1x16x16: " in said.getvalue()


def test_the_clips_are_shared_out(data: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many again as of the first, one at least of each; and no more tokens at once than of the first."""
    asked = []
    original = measure.measure_tokenizer
    monkeypatch.setattr(measure, "measure_tokenizer", lambda *a, **how: asked.append((a[1].shape, how)) or original(*a, **how))
    evaluated(tmp_path / "run", data, clips=30, batch_size=4)
    counts = {shape: how["count"] for shape, how in asked}
    assert counts.pop(data.shape) == 30
    assert 30 <= sum(counts.values()) <= 30 + len(counts)
    tokens = Shifted.spec.num_tokens
    assert all(how["batch_size"] * tokens(shape) <= 4 * tokens(data.shape) for shape, how in asked)


def test_the_generator_has_a_loss_and_samples_of_every_size(data: Folder, tmp_path: Path) -> None:
    console = Console(record=True, width=200, file=io.StringIO())
    generator = Grey(hard=(9, 16, 16))
    evaluated(tmp_path / "run", data, generator, console)
    found = kept(tmp_path / "run")
    for bucket in data.buckets[:4]:
        row = found[f"generator/loss/{named(bucket.shape)}"]
        assert (row.value, row.split, row.step) == (math.prod(bucket.shape), "val", 8)
    assert "generator/loss/5x20x12" not in found
    assert {shape for _, shape in generator.drawn} == {bucket.shape for bucket in data.buckets} - {(9, 16, 16)}
    assert sum(num for num, shape in generator.drawn if shape == (5, 20, 12)) == 3
    assert "No samples of 9x16x16: That is too hard." in console.export_text()
    samples = tmp_path / "run" / "samples"
    assert {path.stem for path in samples.glob("bucket-*.mp4")} == {f"bucket-{size}" for size in SIZES[1:] if size[0] != "9"}
    assert np.load(samples / "samples.npy").shape == (3, 5, 16, 16, 3)
    assert not list(samples.glob(".*"))


def test_the_page_tells_the_sizes_apart(data: Folder, tmp_path: Path) -> None:
    """In one table; no other table nor a headline has what is of a bucket."""
    run = tmp_path / "run"
    evaluated(run, data, Grey())
    (run / "config.yaml").write_text("tokenizer: {}\n")
    page = write_report(run).read_text()
    section = page[page.index('<table class="sizes">') :].partition("</table>")[0]
    lines = [line for line in section.split("<tr>") if '<th scope="row">' in line]
    assert [line.partition('number">')[2].partition("<")[0] for line in lines] == [size.replace("x", "×") for size in SIZES]
    for line, size in zip(lines, SIZES, strict=True):
        shape = tuple(map(int, size.split("x")))
        assert (f"{-20 * math.log10(ERRORS[shape] / 2):.2f}" in line) if shape in ERRORS else ("none" in line)
    assert "Validation loss" in section
    rest = page.replace(section, "")
    assert "PSNR, " not in rest
    assert "Validation loss" not in rest
    assert rest.count("Unseen clips of 9x16x16") >= 1


def test_a_size_narrows_what_a_figure_means() -> None:
    known, narrowed = rows.measure("reconstruction/psnr"), rows.measure("reconstruction/psnr/17x48x80")
    assert (narrowed.label, narrowed.unit, narrowed.better) == (f"{known.label}, 17x48x80", known.unit, known.better)
    added = rows.measure("reconstruction/temporal_psnr/17x48x80")
    assert (added.label, added.unit, added.better) == ("Temporal PSNR, 17x48x80", "dB", "higher")
    assert rows.measure("generator/loss/1x16x16").label == "Validation loss, 1x16x16"
