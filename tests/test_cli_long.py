"""``vidgen sample`` beyond a window: what is written, whatever the batch, and how it goes on from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from torch import nn

from tests import tiny
from vidgen import config, viz
from vidgen.cli import long
from vidgen.cli.stream import Video
from vidgen.data.batches import to_pixels, to_video
from vidgen.data.decode import frames as decoded
from vidgen.errors import UserError
from vidgen.hub import Model
from vidgen.latents import Condition, Latent, Shape
from vidgen.samplers.noise import sample_noise

SIZE = (16, 24)


class Painter(nn.Module):
    """Noise around the mean of what it is shown, by (seed, sample, start)."""

    takes_known = True

    def __init__(self, space: Any) -> None:
        super().__init__()
        self.space, self.scale = space, nn.Parameter(torch.ones(()))

    def sample(
        self, num: int, shape: Shape, condition: Condition | None, *, start: int = 0, first: int = 0, seed: int = 0, **_: Any
    ) -> Latent:
        grid = (self.space.h_channels, *self.space.spec.grid(shape, start))
        h = sample_noise(num, grid, seed=seed, first=first, start=start, device=torch.device("cpu"))
        made = self.space.project(h, num_frames=shape[0], start=start)
        if condition is not None and condition.known is not None:
            for name in ("z", "h"):
                shown = condition.known_mask[:, None, :, None, None]
                setattr(made, name, torch.where(shown, getattr(condition.known, name), getattr(made, name)))
            made.ids = torch.where(
                condition.known_mask.repeat_interleave(grid[2] * grid[3], 1)[..., None], condition.known.ids, made.ids
            )
        return made


@pytest.fixture(scope="module")
def model() -> Model:
    tokenizer = tiny.tokenizer("lfq").eval()
    return Model(tokenizer=tokenizer, generator=Painter(tokenizer.space), config={"shape": [9, *SIZE], "class_names": []})


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise is slow to encode."""
    monkeypatch.setattr(long, "WIDTH", 2 * SIZE[1])
    monkeypatch.setattr(long, "GRID_WIDTH", 0)


def draw(model: Model, out: Path, **options: Any) -> None:
    recipe = yaml.safe_load((config.config_dir() / "sample.yaml").read_text()) | {"num": 3, "fps": 10} | options
    told = {"label": None, "steps": None}
    console = Console(quiet=True)
    long.draw(recipe, model, out, told, device=torch.device("cpu"), precision="fp32", console=console)


def test_files_of_long_videos_are_those_of_the_stream(model: Model, tmp_path: Path) -> None:
    draw(model, tmp_path, frames=22, batch_size=2, seed=4)
    pixels = np.load(tmp_path / "samples.npy")
    assert pixels.shape == (3, 22, *SIZE, 3) and pixels.dtype == np.uint8
    rollout = model.rollout(22)
    assert len(rollout.stages) == 3
    whole = torch.cat(list(model.stream(rollout, 3, seed=4)), dim=2)
    assert np.array_equal(pixels, to_pixels(whole))  # in batches of 2 and 1, as in one of 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(f"000{i}.mp4" for i in range(3)),
        *("grid.mp4", "grid.png", "samples.npy", "schedule.png"),
    ]
    played = np.stack([frame for _, frame in decoded(tmp_path / "0002.mp4")])
    assert played.shape[0] == 22
    halved = played[:, ::2, ::2].astype(int)
    own, other = (np.abs(halved - clip).mean() for clip in pixels[[2, 1]])
    assert own < other / 2  # as near as H.264 comes to noise


def test_a_rollout_in_one_window_is_a_plain_sample(model: Model, tmp_path: Path) -> None:
    draw(model, tmp_path, frames=9, seed=2)
    assert np.array_equal(np.load(tmp_path / "samples.npy"), to_pixels(model.sample(3, (9, *SIZE), seed=2)))


def test_samples_go_on_from_a_file(model: Model, tmp_path: Path) -> None:
    clip = to_pixels(tiny.video((15, *SIZE), 1))[0]
    file = tmp_path / "given.mp4"
    viz.write_mp4(file, clip, fps=12)
    draw(model, tmp_path / "out", **{"continue": str(file), "frames": 28})
    pixels = np.load(tmp_path / "out" / "samples.npy")
    assert pixels.shape == (3, 28, *SIZE, 3)
    given = np.stack(list(Video({"continue": str(file), "size": SIZE, "fps": None}, model.tokenizer.spec, "continue")))[:13]
    back = model.tokenizer.decode(model.tokenizer.encode(to_video(torch.from_numpy(given[None]))))
    assert np.abs(pixels[:, :13].astype(int) - to_pixels(back.clamp(-1, 1)).astype(int)).max() <= 1  # whole cells of 15 frames
    assert not np.array_equal(pixels[0, 13:], pixels[1, 13:])
    with pytest.raises(UserError, match="frames=13 are no more than the 13 of continue="):
        draw(model, tmp_path / "out", **{"continue": str(file), "frames": 13})
    with pytest.raises(UserError, match="There is no file continue="):
        draw(model, tmp_path / "out", **{"continue": str(tmp_path / "givn.mp4")})


def test_a_schedule_is_shown_and_nothing_made(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    how = {"schedule": "hierarchy_2", "overlap": 2, "show": True}
    wide = Model(tokenizer=model.tokenizer, generator=model.generator, config=model.config | {"shape": [13, *SIZE]})
    draw(wide, tmp_path, frames=25, rollout=how)
    rows = capsys.readouterr().out.splitlines()
    assert rows[0] == "# # # #"  # 4 of 7 cells
    assert [path.name for path in tmp_path.iterdir()] == ["schedule.png"]
    with pytest.raises(UserError, match="it makes autoregressive, interpolation"):
        draw(wide, tmp_path, frames=25, rollout=how | {"show": False})


def test_a_generator_that_was_not_trained_for_it_is_refused(model: Model, tmp_path: Path) -> None:
    plain = Model(tokenizer=model.tokenizer, generator=nn.Linear(1, 1), config=model.config)
    with pytest.raises(UserError, match=r"generator/conditioning=\[label,frames\]"):
        draw(plain, tmp_path, frames=25)
    assert not (tmp_path / "samples.npy").exists()
