"""``vidgen encode``: a video file of any length as a file of latents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console

from vidgen import latent_file
from vidgen.cli.progress import Stage
from vidgen.cli.stream import Codec, Video, existing_file, new_file
from vidgen.latents import Latent


def run(config: dict[str, Any]) -> None:
    """Encodes ``input`` with the tokenizer of ``run`` into ``out``, chunk by chunk."""
    console = Console(soft_wrap=True)
    existing_file(config, "a video")
    out = new_file(config, ".latents")
    codec = Codec(config)
    video = Video(config, codec.spec)
    frames = 0
    with Stage(console, "encoding", video.frames, unit="frame") as stage:

        def counted() -> Iterator[Latent]:
            nonlocal frames
            for latent in codec.encode(video, config["chunk"]):
                yield latent
                frames += latent.num_frames
                stage.update(frames)

        size = latent_file.write(out, counted(), weights=codec.weights, fps=video.fps)
    rate = 8 * size / (frames * video.height * video.width)
    console.print(
        f"{frames} frames of {video.height}x{video.width} in {out}: {size} bytes, {rate:.4f} bits per pixel", highlight=False
    )
