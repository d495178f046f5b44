"""How alike two videos look to a network for images: LPIPS of their frames.

Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (2018), version 0.1, as
:mod:`vidgen.losses.perceptual` computes it: the mean over the places of every layer, added up over the layers. The net is part
of the convention: ``alex`` (TECO), ``vgg`` (LARP, TokenBench) and ``squeeze`` are not comparable with one another. Where
differences are first enlarged to the size of the frame and then averaged (``spatial=True`` of the authors' package), figures
differ a little.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vidgen.errors import UserError
from vidgen.losses import perceptual
from vidgen.metrics.frames import FrameMean, check_pair, clipped


@torch.no_grad()
def lpips(video: Tensor, reference: Tensor, network: perceptual.LPIPS) -> Tensor:
    """LPIPS of each frame by a ``network`` that has been built: 0 for equal frames.

    Both videos are (B, 3, T, H, W) in [-1, 1]. Returns (B, T) float64.
    """
    check_pair(video, reference)
    ours, theirs = (clipped(one).float() for one in (video, reference))
    clips = [network.frames(ours[i : i + 1], theirs[i : i + 1]) for i in range(len(video))]  # one by one: layers take memory
    return torch.cat(clips).double()


class LPIPS(FrameMean):
    """Mean LPIPS per frame: 0 for equal frames.

    Args:
        net: ``alex``, ``vgg`` or ``squeeze``.
        file: torchvision's weights of that net, which vidgen does not bring, or a folder with the files of several; empty looks
            where torch keeps downloads. The heads are those inside torchmetrics.

    Attributes:
        sha256: of the file.

    Raises:
        UserError: on an unknown net, a missing file or another one, or where torchvision is not installed.
    """

    higher_is_better = False

    def __init__(self, *, net: str = "alex", file: str = "") -> None:
        if file and net in perceptual.NETS and Path(file).expanduser().is_dir():
            file = str(Path(file).expanduser() / perceptual.NETS[net][1])
        try:
            network = perceptual.LPIPS(net=net, file=file, option="lpips=FILE of 'vidgen eval', in Python file=,")
        except UserError as error:
            raise UserError(f"{error} Without it there is no LPIPS; leave lpips_{net} out for the other measures.") from error
        super().__init__(f"LPIPS 0.1, {net}, weights {network.sha256[:8]}, mean over frames")
        self.network, self.sha256 = network, network.sha256

    def scores(self, video: Tensor, real: Tensor) -> Tensor:
        """(B, T); raises UserError for frames that are too small for the net, or not of three channels."""
        return lpips(video, real, self.network)
