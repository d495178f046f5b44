"""A convolutional critic of videos or of single frames: logits over a coarse grid, and the features on the way.

Sources: Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks" (2017), for judging patches; Yu et al.,
"MAGVIT" (2022), appendix, for the residual blocks over space and time and their sum over sqrt(2); Yu et al., "Language Model
Beats Diffusion" (2023), section 3.2, for blurred downsampling (Zhang, 2019).

Deviation: every position of the last grid has a logit, where MAGVIT flattens that grid into one logit a clip. So there is no
fixed size: any number of frames is judged, single images too, as where both train one tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from vidgen.errors import UserError

Stride = tuple[int, int, int]
SLOPE = 0.2


def blur_pool(x: Tensor, stride: Stride) -> Tensor:
    """(B, C, T, H, W) blurred by (1, 2, 1) / 4 along each axis of stride 2, its ends repeated, then every second value.

    Axes of stride 1 stay as they are; n values become ceil(n / 2). The filter is two means of neighbours, one after the other.
    """
    edges = [1 if step == 2 else 0 for step in stride]
    wide = F.pad(x, [edge for edge in reversed(edges) for _ in range(2)], mode="replicate")
    return F.avg_pool3d(F.avg_pool3d(wide, stride, stride=1), stride, stride)


class DownBlock(nn.Module):
    """Two convolutions with a blurred downsampling between them, and a shortcut; no norm."""

    def __init__(self, channels: int, out_channels: int, kernel: Stride, stride: Stride) -> None:
        super().__init__()
        self.stride = stride
        self.before = nn.Conv3d(channels, channels, kernel, padding="same")
        self.after = nn.Conv3d(channels, out_channels, kernel, padding="same")
        self.skip = nn.Conv3d(channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = blur_pool(F.leaky_relu(self.before(x), SLOPE), self.stride)
        y = F.leaky_relu(self.after(y), SLOPE)
        return (self.skip(blur_pool(x, self.stride)) + y) * 0.5**0.5


class Discriminator(nn.Module):
    """Judges each patch of a video to be real (above 0) or not.

    Args:
        widths: channels after the first convolution, and after each block; one more than ``strides``.
        strides: (t, h, w) of each block, each 1 or 2.
        time_kernel: frames that a convolution sees: 1 judges every frame by itself, 3 motion too.
        in_channels: channels of the video.

    Raises:
        UserError: where ``widths`` and ``strides`` do not go together.
    """

    def __init__(self, *, widths: Sequence[int], strides: Sequence[Stride], time_kernel: int, in_channels: int = 3) -> None:
        super().__init__()
        if len(widths) != len(strides) + 1 or time_kernel % 2 == 0 or any(step not in (1, 2) for one in strides for step in one):
            raise UserError(
                f"A discriminator has one more of widths than of strides, strides of 1 or 2 and an odd time_kernel; got widths "
                f"{list(widths)}, strides {[list(one) for one in strides]} and time_kernel {time_kernel}."
            )
        kernel = (time_kernel, 3, 3)
        self.stem = nn.Conv3d(in_channels, widths[0], kernel, padding="same")
        self.blocks = nn.ModuleList(
            DownBlock(before, after, kernel, stride) for before, after, stride in zip(widths, widths[1:], strides, strict=False)
        )
        self.head = nn.Sequential(
            nn.Conv3d(widths[-1], widths[-1], kernel, padding="same"), nn.LeakyReLU(SLOPE), nn.Conv3d(widths[-1], 1, 1)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, video: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, C, T, H, W) in [-1, 1] -> logits (B, 1, t, h, w) in float32, and the features after each block."""
        x = F.leaky_relu(self.stem(video), SLOPE)
        features: list[Tensor] = []
        for block in self.blocks:
            x = block(x)
            features.append(x)
        return self.head(x).float(), features
