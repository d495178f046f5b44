"""``vidgen reconstruct``: a video file through a tokenizer and back, with what it costs and what is lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from vidgen import latent_file
from vidgen.cli.progress import Stage
from vidgen.cli.stream import Codec, Pixels, Video, existing_file, new_file, pixels
from vidgen.data.batches import to_video
from vidgen.latents import Latent
from vidgen.metrics.psnr import PSNR
from vidgen.viz import write_frames


def run(config: dict[str, Any]) -> None:
    """Encodes and decodes ``input`` with the tokenizer of ``run`` into ``out``: the frames that encode and decode would give."""
    console = Console(soft_wrap=True)
    existing_file(config, "a video")
    out = new_file(config, "-reconstructed.mp4")
    codec = Codec(config)
    video = Video(config, codec.spec)
    waiting: deque[Pixels] = deque()  # the originals of frames that are on their way
    score, frames, size = PSNR(), 0, 0

    def originals() -> Iterator[Pixels]:
        for frame in video:
            waiting.append(frame)
            yield frame

    def rounded() -> Iterator[Latent]:
        nonlocal size
        for latent in codec.encode(originals(), config["chunk"]):
            kept = latent_file.stored(latent)
            size += len(latent_file.packed(kept))
            yield kept

    with Stage(console, "frames", video.frames, unit="frame") as stage:

        def scored() -> Iterator[Tensor]:
            nonlocal frames
            for back in codec.decode(rounded()):
                real = np.stack([waiting.popleft() for _ in range(back.shape[2])])
                score.update(back.cpu(), to_video(torch.from_numpy(real[None])))
                yield back
                frames += back.shape[2]
                stage.update(frames)

        write_frames(out, pixels(scored()), video.fps)
    rate = 8 * size / (frames * video.height * video.width)
    console.print(
        f"{frames} frames of {video.height}x{video.width} in {out}: PSNR {float(score.compute()):.2f} dB (mean over frames), "
        f"{rate:.4f} bits per pixel",
        highlight=False,
    )
