"""``encode``, ``decode`` and ``reconstruct``: long files through a tokenizer in chunks, against the whole clip at once."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shlex
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import av
import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from vidgen import Latent, UserError, hub, viz
from vidgen.cli import main, stream
from vidgen.cli.progress import Stage
from vidgen.data import decode
from vidgen.data.batches import to_pixels, to_video
from vidgen.data.folder.cache import fit
from vidgen.latent_file import HEADER, LatentFile
from vidgen.tokenizers.tiling import decode_tiled, encode_tiled
from vidgen.viz import write_frames

FRAMES, HEIGHT, WIDTH = 22, 16, 24
RATE = Fraction(30000, 1001)
NAMES = ("lfq", "kl", "fsq", "pyramid_lfq", "pyramid_clip")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def save(folder: Path, name: str, seed: int = 0, **overrides: Any) -> None:
    """Saves a tokenizer of that recipe, small, as a model in ``folder``."""
    torch.manual_seed(seed)
    tokenizer = tiny.tokenizer(name, **overrides)
    tokenizer.measure(tiny.videos(tokenizer))
    about = {"generator": None, "num_classes": 0, "class_names": [], "shape": list(tiny.shape_of(tokenizer))}
    recipe = tiny.tokenizer_config(name, **overrides)
    hub.save(folder, tokenizer=tokenizer, generator=None, config=about | {"tokenizer": recipe})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of models; those of ``other`` are the weights of another training."""
    folder = tmp_path_factory.mktemp("models")
    for name in NAMES:
        save(folder / name, name)
    save(folder / "other", "lfq", seed=1)
    save(folder / "future", "lfq", backbone=tiny.backbone_config("axial_videogpt"))
    return folder


def film(name: str = "film.mp4", frames: int = FRAMES, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A file of smooth colours in motion; the frames as they are read from it."""
    pixels = to_pixels(tiny.video((frames, height, width), batch=1))[0]
    write_frames(name, pixels, float(RATE))
    return decode.read(name)


def whole(tokenizer: Any, frames: np.ndarray) -> Latent:
    return tokenizer.encode(to_video(torch.from_numpy(frames[None])))


def load(folder: Path) -> Any:
    return hub.load(folder).tokenizer


def run(words: str) -> None:
    assert main([*shlex.split(words), "accelerator=cpu", "precision=fp32"]) == 0


def mistake(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main([*shlex.split(words), "accelerator=cpu", "precision=fp32"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("vidgen: ")


@pytest.mark.parametrize("chunk", [1, 6, 16, 100, 0])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_latents_is_the_whole_clip_encoded(name: str, chunk: int, models: Path) -> None:
    """Whatever the chunk, and 22 frames are no 1 + 4 k."""
    tokenizer, frames = load(models / name), film()
    run(f"encode run={models / name} input=film.mp4 out=made/film.latents chunk={chunk}")
    expected, file = whole(tokenizer, frames), LatentFile("made/film.latents")
    assert (file.spec, file.shape, file.weights) == (tokenizer.spec, frames.shape[:3], hub.weights_hash(tokenizer))
    assert Fraction(file.fps).limit_denominator(1001) == RATE
    found = Latent.cat(list(file))
    assert (found.num_frames, found.grids, found.start) == (FRAMES, expected.grids, 0)
    if name != "kl":
        assert torch.equal(found.ids, expected.ids)
        assert list(load_file("made/film.latents")) == ["ids"]
    else:
        torch.testing.assert_close(found.h, expected.h, rtol=2**-8, atol=1e-4)  # bfloat16 keeps 8 bits
        stored = load_file("made/film.latents")["h"]
        assert torch.equal(stored.movedim(0, 1)[None].float(), found.h)
    assert {path.name for path in Path().rglob("*.*")} == {"film.mp4", "film.latents"}


@pytest.mark.parametrize("frames", [1, 16, FRAMES])
@pytest.mark.parametrize("name", ["lfq", "kl"])
def test_decoding_what_was_encoded_is_reconstructing(
    name: str, frames: int, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the pixel; both are the whole clip through the tokenizer, and what is said of loss and rate is so."""
    tokenizer, original = load(models / name), film(frames=frames)
    run(f"encode run={models / name} input=film.mp4 chunk=8")
    run(f"decode run={models / name} input=film.latents")
    run(f"reconstruct run={models / name} input=film.mp4 chunk=8")
    said = capsys.readouterr().out.splitlines()[-1]
    decoded, reconstructed = decode.read("film-decoded.mp4"), decode.read("film-reconstructed.mp4")
    assert np.array_equal(decoded, reconstructed)
    with av.open("film-decoded.mp4") as container:
        assert container.streams.video[0].average_rate == RATE

    latent = whole(tokenizer, original)
    if name == "kl":
        latent = replace(latent, z=None, h=latent.h.bfloat16().float())
    back = tokenizer.decode(latent).clamp(-1, 1)
    write_frames("expected.mp4", to_pixels(back)[0], float(RATE))
    assert np.abs(decode.read("expected.mp4").astype(int) - decoded).max() <= 8  # a level apart before H.264
    assert np.abs(decode.read("expected.mp4").astype(int) - decoded).mean() < 0.5
    error = (back.double() - to_video(torch.from_numpy(original[None])).double()).square().mean(dim=(0, 1, 3, 4))
    psnr = (10 * torch.log10(4 / error)).mean()
    cells = math.ceil((frames - 1) / 4) + 1
    bits = cells * (HEIGHT // 4) * (WIDTH // 4) * (10 if name == "lfq" else 16 * 8)
    found = re.fullmatch(r"(\d+) frames of 16x24 in (\S+): PSNR ([\d.]+) dB \(mean over frames\), ([\d.]+) bits per pixel", said)
    assert found[1], found[2] == (str(frames), "film-reconstructed.mp4")
    assert float(found[3]) == pytest.approx(float(psnr), abs=0.02)
    assert float(found[4]) == pytest.approx(bits / (frames * HEIGHT * WIDTH), rel=0.02)  # parts are filled up to bytes


def test_the_size_and_rate_of_a_file_are_converted_as_data_is(models: Path) -> None:
    tokenizer, frames = load(models / "lfq"), film(height=20, width=36)
    run(f"encode run={models / 'lfq'} input=film.mp4 'size=[16,16]' fps=15")
    file = LatentFile("film.latents")
    assert file.shape == (11, 16, 16)
    assert file.fps == 15
    resized = np.stack([fit(frame, 16, 16) for frame in frames[::2]])
    assert torch.equal(Latent.cat(list(file)).ids, whole(tokenizer, resized).ids)


def test_large_frames_are_taken_in_tiles(models: Path) -> None:
    """As the library takes them; and decoding in the same tiles is still what reconstructing gives."""
    tokenizer, frames = load(models / "lfq"), film(frames=9, height=64, width=48)
    for words in ("encode input=film.mp4", "decode input=film.latents", "reconstruct input=film.mp4"):
        run(f"{words} run={models / 'lfq'} 'tile=[32,32]'")
    decoded = decode.read("film-decoded.mp4")
    assert np.array_equal(decoded, decode.read("film-reconstructed.mp4"))
    tiles = {"tile": (8, 8), "overlap": 2, "halo": 0}
    latent = encode_tiled(tokenizer, to_video(torch.from_numpy(frames[None])), **tiles)
    for back, same in ((decode_tiled(tokenizer, latent, **tiles), True), (tokenizer.decode(latent), False)):
        write_frames("expected.mp4", to_pixels(back)[0], float(RATE))
        assert (np.abs(decode.read("expected.mp4").astype(int) - decoded).mean() < 0.5) == same


def test_no_more_frames_are_held_for_a_longer_file(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted as they are read and let go: memory does not grow with the length."""
    film()

    def most(count: int) -> int:
        alive: set[int] = set()
        peak = 0

        def frames(path: Path, fps: float | None) -> Iterator[tuple[float, np.ndarray]]:
            nonlocal peak
            for index in range(count):
                frame = np.full((HEIGHT, WIDTH, 3), index % 256, np.uint8)
                alive.add(index)
                weakref.finalize(frame, alive.discard, index)
                peak = max(peak, len(alive))
                yield float(index), frame

        monkeypatch.setattr(stream.decode, "frames", frames)
        monkeypatch.setattr(stream, "fit", lambda frame, *_: frame)
        run(f"reconstruct run={models / 'lfq'} input=film.mp4 chunk=8")
        with av.open("film-reconstructed.mp4") as container:
            assert sum(1 for _ in container.decode(video=0)) == count
        return peak

    assert most(120) == most(40) <= 30


def test_the_header_s_room_does_not_depend_on_the_length(models: Path) -> None:
    """Parts of the same length are counted, not listed."""
    film()
    run(f"encode run={models / 'lfq'} input=film.mp4 out=short.latents chunk=4")
    film(frames=101)
    run(f"encode run={models / 'lfq'} input=film.mp4 out=long.latents chunk=4")
    headers = [Path(name).read_bytes()[8 : 8 + HEADER] for name in ("short.latents", "long.latents")]
    parts = [json.loads(json.loads(header)["__metadata__"]["parts"]) for header in headers]
    assert parts == [[[2, 1], [1, 5]], [[2, 1], [1, 24]]]


def test_a_tokenizer_that_sees_the_future_takes_the_file_at_once(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer, frames = load(models / "future"), film(frames=16)
    for command in ("encode", "reconstruct"):
        assert mistake(f"{command} run={models / 'future'} input=film.mp4", capsys) == (
            "This tokenizer does not go through a video in chunks; chunk=0 takes the whole file at once, in memory that grows "
            "with its length."
        )
    run(f"encode run={models / 'future'} input=film.mp4 chunk=0")
    (latent,) = LatentFile("film.latents")
    assert torch.equal(latent.ids, whole(tokenizer, frames).ids)
    run(f"decode run={models / 'future'} input=film.latents")
    run(f"reconstruct run={models / 'future'} input=film.mp4 chunk=0")
    assert np.array_equal(decode.read("film-decoded.mp4"), decode.read("film-reconstructed.mp4"))


@pytest.fixture(scope="module")
def here(models: Path) -> Path:
    """The folder of the models, with files of all kinds; mistakes leave nothing more in it."""
    with contextlib.chdir(models):
        film()
        film("odd.mp4", 4, 18, 26)
        Path("text.mp4").write_text("no video")
        save_file({"ids": torch.zeros(4, dtype=torch.uint8)}, "other.safetensors")
        run("encode run=lfq input=film.mp4")
    return models


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("encode run=lfq", "input is missing: give input=FILE, a video."),
        ("decode run=lfq", "input is missing: give input=FILE, latents that 'vidgen encode' wrote."),
        ("encode run=lfq input=flim.mp4", "There is no file input=flim.mp4. Did you mean 'film.mp4'? Give input=FILE, a video."),
        ("reconstruct run=lfq input=lfq", "input=lfq is a folder; give input=FILE, a video."),
        ("encode run=lfq input=text.mp4", "input=text.mp4 cannot be read as a video: it cannot be opened ("),
        ("encode run=nowhere input=film.mp4", "There is no model in 'nowhere'"),
        ("encode run=lfq input=film.mp4 out=film.mp4", "out=film.mp4 is the input; give out=FILE, another name, such as "),
        ("encode run=lfq input=film.mp4 out=lfq", "out=lfq is a folder; give out=FILE, another name, such as "),
        ("reconstruct run=lfq input=film.mp4 out=text.mp4/x.mp4", "out=text.mp4 cannot be written to (Not a directory: "),
        (
            "encode run=lfq input=odd.mp4",
            "Frames of 18x26 are not a multiple of the tokenizer's stride 4x4; give size=[16,24] or size=[20,28], to which they "
            "are resized and cropped.",
        ),
        ("encode run=lfq input=film.mp4 'size=[2,8]'", "Frames of 2x8 are not a multiple of the tokenizer's stride 4x4; give "),
        ("encode run=lfq input=film.mp4 'size=[16]'", "size=[16] is not [height,width] of at least 1 each; leave it out for "),
        ("encode run=lfq input=film.mp4 size=16", "'size' is a list of whole numbers (null by default), and 16 is not."),
        (
            "encode run=lfq input=film.mp4 'tile=[30,32]'",
            "tile=[30, 32] is not [height,width] in multiples of the tokenizer's stride ",
        ),
        ("encode run=lfq input=film.mp4 chunk=-1", "'chunk' is at least 0, and -1 is not."),
        ("encode run=lfq input=film.mp4 fps=0", "'fps' is at least 1, and 0.0 is not."),
        ("decode run=lfq input=film.mp4", "'film.mp4' is no file of latents, such as 'vidgen encode' writes: "),
        ("decode run=lfq input=other.safetensors", "'other.safetensors' is no file of latents, such as 'vidgen encode' writes: "),
        ("decode run=other input=film.latents", "input=film.latents was encoded by another tokenizer (weights "),
        ("encode run=lfq inptu=film.mp4", "'encode' has no option 'inptu'. Did you mean input?"),
    ],
)
def test_mistakes_are_one_sentence(
    words: str, sentence: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    before = sorted(Path().rglob("*"))
    assert mistake(words, capsys).startswith(sentence)
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("command", ["encode", "reconstruct"])
def test_a_file_that_is_damaged_further_on_leaves_nothing_behind(
    command: str, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film("film.mp4", 60, 64, 64)
    whole_file = bytearray(Path("film.mp4").read_bytes())
    whole_file[-len(whole_file) // 3 :] = bytes(len(whole_file[-len(whole_file) // 3 :]))
    Path("film.mp4").write_bytes(whole_file)
    said = mistake(f"{command} run={models / 'lfq'} input=film.mp4 out=made", capsys)
    assert said.startswith("input=film.mp4 does not decode to its end: ")
    assert sorted(path.name for path in Path().iterdir()) == ["film.mp4"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here, a disk that is always full")
def test_a_full_disk_is_one_sentence(models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    film()
    opened = Path.open

    def full(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if path.name.endswith(".partial"):
            opened(path, mode).close()
            return opened(Path("/dev/full"), mode, buffering=0)
        return opened(path, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", full)
    monkeypatch.setattr(viz, "replacing", lambda path: contextlib.nullcontext("/dev/full"))
    for command in ("encode", "reconstruct"):
        assert mistake(f"{command} run={models / 'lfq'} input=film.mp4", capsys).startswith("The disk is full")
    assert sorted(path.name for path in Path().iterdir()) == ["film.mp4"]


def test_latents_of_another_version_are_told(tmp_path: Path) -> None:
    save_file({"ids": torch.zeros(4, dtype=torch.uint8)}, "new.latents", metadata={"format": "99"})
    with pytest.raises(UserError, match=r"^'new.latents' has format 99, and this version of vidgen reads format 1\.$"):
        LatentFile("new.latents")


@pytest.mark.parametrize("command", ["encode", "decode", "reconstruct"])
def test_help_is_there_at_once(command: str, python: Callable[[str], CompletedProcess[str]]) -> None:
    program = f"import sys\nfrom vidgen.cli import main\nstatus = main(['{command}', '--help'])\n"
    done = python(program + "sys.exit(status or 'torch' in sys.modules or 'numpy' in sys.modules)")
    assert done.returncode == 0, done.stderr
    assert f"Usage: vidgen {command} input=FILE" in done.stdout


def test_progress_without_a_known_end(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from vidgen.cli import progress

    monkeypatch.setattr(progress, "EVERY", -1.0)
    with Stage(Console(), "encoding", None, unit="frame") as stage:
        stage.update(16)
    with Stage(Console(), "encoding", 10, unit="frame") as stage:
        stage.update(12)  # headers are often wrong
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"encoding   16  [\d.]+ frames/s", first)
    assert re.fullmatch(r"encoding   12/10  [\d.]+ frames/s  0 s left", second)
