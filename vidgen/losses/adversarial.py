"""The adversarial game as pure functions of logits (each a mean), its regularisers, and an adversary that puts them together.

Sources: Goodfellow et al., "Generative Adversarial Nets" (2014), for ``vanilla`` and ``non_saturating``; Lim and Ye, "Geometric
GAN" (2017), for ``hinge``; Esser et al., "Taming Transformers" (2020), equation 7, for the adaptive weight; Tseng et al.,
"Regularizing GANs under Limited Data" (2021), for LeCam; Mescheder et al., "Which Training Methods for GANs do actually
Converge?" (2018), for R1, taken every few steps as in Karras et al., "StyleGAN2" (2020); Wang et al., "pix2pixHD" (2018), for
feature matching.

Deviations: the discriminator's losses are the sum of their two means, where some public code halves it; R1's weight is that of
E|grad|**2 without Mescheder's 1/2, as in MAGVIT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen.errors import UserError
from vidgen.losses.discriminator import Discriminator, Stride
from vidgen.nn.parallel import mean_over_ranks
from vidgen.registry import unknown


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """E[max(0, 1 - real)] + E[max(0, 1 + fake)]."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def logistic(real: Tensor, fake: Tensor) -> Tensor:
    """-E[log D(real)] - E[log(1 - D(fake))] with D the sigmoid of the logits."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


DISCRIMINATOR: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hinge": hinge,
    "non_saturating": logistic,
    "vanilla": logistic,
}
"""The discriminator's loss of (real, fake) logits."""

GENERATOR: dict[str, Callable[[Tensor], Tensor]] = {
    "hinge": lambda fake: -fake.mean(),
    "non_saturating": lambda fake: F.softplus(-fake).mean(),
    "vanilla": lambda fake: -F.softplus(fake).mean(),
}
"""The generator's loss of fake logits: -E[fake], -E[log D(fake)], E[log(1 - D(fake))]."""


def r1(discriminator: Callable[[Tensor], tuple[Tensor, object]], video: Tensor) -> Tensor:
    """E|d sum(logits) / d video|**2 over the clips of ``video``; with a gradient of its own, in float32 throughout."""
    with torch.enable_grad(), torch.autocast(video.device.type, enabled=False):
        video = video.detach().float().requires_grad_()
        (slope,) = torch.autograd.grad(discriminator(video)[0].sum(), video, create_graph=True)
        return slope.square().flatten(1).sum(dim=1).mean()


def feature_matching(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Mean absolute error of the discriminator's features, averaged over its blocks; no gradient to the real ones."""
    return torch.stack([F.l1_loss(theirs, ours.detach()) for ours, theirs in zip(real, fake, strict=True)]).mean()


def adaptive_weight(loss: Tensor, adversarial: Tensor, weight: Tensor, limit: float = 1e4) -> Tensor:
    """|d loss / d weight| / (|d adversarial / d weight| + 1e-4), at most ``limit`` and without gradient.

    With ``weight`` the decoder's last: the adversary then pulls as hard as the reconstruction does, whatever its logits' scale.
    """
    slopes = (torch.autograd.grad(one, weight, retain_graph=True)[0].detach() for one in (loss, adversarial))
    ours, theirs = (mean_over_ranks(slope.float()).norm() for slope in slopes)
    return (ours / (theirs + 1e-4)).clamp(0, limit)


def last_weight(output: Tensor) -> Tensor:
    """The weight of two axes or more that is nearest to ``output`` in its graph: of a decoder, its last layer's."""
    level, seen = [output.grad_fn], set()
    while level:
        for node in level:
            leaf = getattr(node, "variable", None)
            if leaf is not None and leaf.ndim >= 2:
                return leaf
        seen.update(level)
        level = [after for node in level if node for after, _ in node.next_functions if after and after not in seen]
    raise ValueError("The output depends on no weight.")


class LeCam(nn.Module):
    """E[max(0, real - fake average)**2] + E[max(0, real average - fake)**2], with running averages of the logits' means.

    The averages are in buffers, so that they survive a stop. They start at 0 and are moved before they are used.

    Args:
        decay: of the averages.
    """

    average: Tensor

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("average", torch.zeros(2))

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """Logits of any shape -> the penalty."""
        means = mean_over_ranks(torch.stack([real.detach().mean(), fake.detach().mean()]))
        self.average.lerp_(means, 1 - self.decay)
        return F.relu(real - self.average[1]).square().mean() + F.relu(self.average[0] - fake).square().mean()


class Adversary(nn.Module):
    """A discriminator with all that it is trained by; it belongs to training and not to the tokenizer.

    Args:
        time_kernel: frames that a convolution of the discriminator sees; 1 judges single frames.
        widths: channels of its stages, one more than ``strides``.
        strides: (t, h, w) of each of its blocks.
        weight: of the generator's adversarial loss in the tokenizer's total; 0 for no adversary at all.
        adaptive: multiply it by the ratio of the gradients of reconstruction and adversary at the decoder's last layer.
        start: steps of the tokenizer before the adversary begins to learn and to be heard.
        loss: of the discriminator: ``hinge``, ``non_saturating`` or ``vanilla``.
        generator_loss: of the tokenizer, likewise.
        feature_matching: weight of the distance of the discriminator's features.
        lecam: weight of LeCam's regulariser.
        lecam_decay: of its averages.
        r1: weight of E|grad|**2 at the real videos.
        r1_every: steps from one R1 to the next; it counts as often more.
        lr: learning rate of the discriminator's AdamW, along the tokenizer's schedule.
        betas: of that AdamW.

    Raises:
        UserError: on an unknown loss, a negative weight, or a discriminator that cannot be built.
    """

    def __init__(
        self,
        *,
        time_kernel: int,
        widths: Sequence[int],
        strides: Sequence[Stride],
        weight: float,
        adaptive: bool,
        start: int,
        loss: str,
        generator_loss: str,
        feature_matching: float,
        lecam: float,
        lecam_decay: float,
        r1: float,
        r1_every: int,
        lr: float,
        betas: Sequence[float],
    ) -> None:
        super().__init__()
        for name, known in ((loss, DISCRIMINATOR), (generator_loss, GENERATOR)):
            if name not in known:
                raise unknown("adversarial loss", name, known)
        if min(weight, start, feature_matching, lecam, r1, lr) < 0 or r1_every < 1 or not 0 <= lecam_decay < 1:
            raise UserError(
                "An adversary's weights, start and lr are at least 0, its r1_every at least 1 and its lecam_decay at least 0 and "
                f"below 1; got weight={weight}, feature_matching={feature_matching}, lecam={lecam}, r1={r1}, start={start}, "
                f"lr={lr}, r1_every={r1_every} and lecam_decay={lecam_decay}."
            )
        self.discriminator = Discriminator(widths=widths, strides=strides, time_kernel=time_kernel)
        self.weight, self.adaptive, self.start = weight, adaptive, start
        self.loss, self.generator_loss = loss, generator_loss
        self.feature_matching, self.lecam_weight = feature_matching, lecam
        self.r1, self.r1_every = r1, r1_every
        self.lr, self.betas = lr, (betas[0], betas[1])
        self.lecam = LeCam(lecam_decay) if lecam else None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Adversary | None:
        """What an ``adversary`` block of a recipe asks for; None for ``none`` or weight 0.

        Raises:
            UserError: on an unknown name, and as building one does.
        """
        if config["name"] not in ("none", "patch"):
            raise unknown("adversary", config["name"], ("none", "patch"))
        if config["name"] == "none" or config["weight"] == 0:
            return None
        return cls(**{key: value for key, value in config.items() if key != "name"})

    def begun(self, step: int) -> bool:
        """Whether it takes part in the tokenizer's step ``step``, counted from 0; its own steps do not count."""
        return step >= self.start

    def persuade(self, video: Tensor, reconstruction: Tensor, loss: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What the tokenizer adds to its total: to be taken for real. No gradient reaches the discriminator.

        Args:
            video: the real one.
            reconstruction: of it, with its graph.
            loss: the tokenizer's other losses, which the adaptive weight is measured against.

        Returns:
            the weighted sum, and its parts by name before they are weighted.
        """
        with _frozen(self.discriminator):
            logits, features = self.discriminator(reconstruction)
        scalars = {"adversarial": GENERATOR[self.generator_loss](logits)}
        total = self.weight * scalars["adversarial"]
        if self.adaptive:
            scalars["adaptive_weight"] = adaptive_weight(loss, scalars["adversarial"], last_weight(reconstruction))
            total = total * scalars["adaptive_weight"]
        if self.feature_matching:
            with torch.no_grad():
                _, real = self.discriminator(video)
            scalars["feature_matching"] = feature_matching(real, features)
            total = total + self.feature_matching * scalars["feature_matching"]
        return total, scalars

    def judge(self, video: Tensor, reconstruction: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminator's own total on the same pair, and its parts by name; moves LeCam's averages."""
        real, fake = self.discriminator(video)[0], self.discriminator(reconstruction.detach())[0]
        total = DISCRIMINATOR[self.loss](real, fake)
        scalars = {"discriminator": total, "logits_real": real.mean(), "logits_fake": fake.mean()}
        if self.lecam is not None:
            scalars["lecam"] = self.lecam(real, fake)
            total = total + self.lecam_weight * scalars["lecam"]
        if self.r1 and (step - self.start) % self.r1_every == 0:
            scalars["r1"] = r1(self.discriminator, video)
            total = total + self.r1 * self.r1_every * scalars["r1"]
        return total, scalars


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Graphs made inside have no gradient for the weights of ``module``."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
