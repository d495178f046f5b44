"""``vidgen decode``: a file of latents as a video that plays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from torch import Tensor

from vidgen.cli.progress import Stage
from vidgen.cli.stream import Codec, existing_file, new_file, pixels
from vidgen.errors import UserError
from vidgen.latent_file import LatentFile
from vidgen.viz import write_frames


def run(config: dict[str, Any]) -> None:
    """Decodes the latents in ``input`` with the tokenizer of ``run``, which must be the one that encoded them, into ``out``."""
    console = Console(soft_wrap=True)
    latents = LatentFile(existing_file(config, "latents that 'vidgen encode' wrote"))
    out = new_file(config, "-decoded.mp4")
    codec = Codec(config)
    if codec.weights != latents.weights:
        raise UserError(
            f"input={config['input']} was encoded by another tokenizer (weights {latents.weights[:8]}) than that of "
            f"run={config['run']} ({codec.weights[:8]}); give run=RUN, the one it was encoded with."
        )
    frames = 0
    with Stage(console, "decoding", latents.shape[0], unit="frame") as stage:

        def counted() -> Iterator[Tensor]:
            nonlocal frames
            for video in codec.decode(latents):
                yield video
                frames += video.shape[2]
                stage.update(frames)

        write_frames(out, pixels(counted()), latents.fps)
    console.print(f"{frames} frames at {latents.fps:.6g} a second in {out}", highlight=False)
