"""``gumbel``: the encoder gives logits over K codes; in training one is drawn by a relaxed sample, so all codes get a gradient.

Sources: Jang et al., "Categorical Reparameterization with Gumbel-Softmax" (2016); Ramesh et al., "Zero-Shot Text-to-Image
Generation" (2021), section 2.1 and appendix A, for the temperature's range and the divergence from the uniform prior; Esser et
al., "Taming Transformers" (public code), for the straight-through version and the weight of that divergence.

Where accounts differ, and what this does:

- *What the decoder sees in training.* Jang et al. and DALL-E give it the relaxed sample, a mixture of codes (``relaxed``); the
  taming code gives it one code, with the relaxed sample's gradient (``straight_through``, the default here).
- *What it sees afterwards.* DALL-E takes the most likely code. The taming code goes on adding noise, so that encoding a
  video twice gives different ids. Popular accounts tell of mixtures in use, too; then ids do not tell what the decoder saw.
  Here encoding is deterministic: the most likely code, or, only if ``soft`` is chosen, the mixture.
- *The divergence's weight.* DALL-E's grows to 6.6 beside a sum over pixels; the taming quantizer says 5e-4 while the model
  around it sets 1e-8; many do without, which is ``kl_start=0 kl_end=0``. Here it is averaged over cells and falls from 1e-2 to
  5e-4: with 5e-4 from the beginning small recipes fall to a few codes, with 5e-2 they learn nothing.
- *The logits.* Others map the encoder's channels to K logits by a 1x1 convolution; here K are what the encoder emits. Or
  (``logits=distance``) the encoder emits a vector as wide as a code, and the logits are its negative squared distances to the
  codes: Takida et al., "SQ-VAE" (2022), section 3.2, whose 1 / (2 sigma^2) is ``scale``, fixed here and learned there. The
  bottleneck can then code what is left of a vector, so that it can be one scale of a ``pyramid`` or one stage of ``residual``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen.errors import UserError
from vidgen.latents import Shape
from vidgen.nn.codebook import cells_of, check_table, nearest, rows_of
from vidgen.nn.parallel import own_rows, world_size
from vidgen.protocols import Quantized
from vidgen.registry import unknown

KIND = "ids"
LOGITS = ("encoder", "distance")
MODES = ("straight_through", "relaxed", "soft")
SCHEDULES = ("exponential", "cosine", "linear")


class Gumbel(nn.Module):
    """A categorical bottleneck; h is z, or with logits by distance what the encoder gave, and ids have L = 1.

    In mode ``soft``, z and h are mixtures of codes, in use as in training (there with noise), and ids, the most likely codes, are
    an approximation of them: ``embed(ids)`` is not z. ``project`` gives the nearest code, whatever the mode, so its law holds
    and codes stay as they are, but it moves a soft tokenizer's latents: generators that learn h have their samples rounded to
    single codes, which the decoder has rarely seen.

    Args:
        codes: K, the vocabulary, at least 2; the encoder's channels too, where it gives the logits.
        channels: of a code; the encoder's too, where logits are distances.
        logits: ``encoder``: what the encoder emits; ``distance``: the nearer a code is to what it emits, the likelier.
        scale: what the encoder's outputs, or the negative squared distances, are multiplied by to be logits. To stand out among
            K codes and their noise, one must be about log K ahead; from outputs around 1 that is a long way.
        mode: ``straight_through``, ``relaxed`` or ``soft``; see above and the module.
        temperature_start: of the softmax over the noisy logits, at the start of training.
        temperature_end: and at its end.
        schedule: from one to the other: ``exponential`` (a line in the logarithm), ``cosine`` (half a wave) or ``linear``.
        kl_start: weight of KL(softmax(logits) | uniform) in nats, averaged over cells and clips, at the start of training. Much
            of it at first keeps the encoder from falling to a few codes.
        kl_end: and at its end; a line between them.

    Raises:
        UserError: for a word that is not among these, fewer codes or channels, or a temperature that is not above 0.
    """

    stages = 1
    scales = clip = None
    relaxed = True
    """A training sample has a gradient of its own: what stacks this quantizer passes none straight through it."""

    temperature: Tensor

    def __init__(
        self,
        *,
        codes: int = 1024,
        channels: int = 8,
        logits: str = "encoder",
        scale: float = 1.0,
        mode: str = "straight_through",
        temperature_start: float = 1.0,
        temperature_end: float = 0.0625,
        schedule: str = "exponential",
        kl_start: float = 1e-2,
        kl_end: float = 5e-4,
    ) -> None:
        super().__init__()
        check_table("gumbel", codes, channels)
        if logits not in LOGITS:
            raise unknown("kind of gumbel's logits", logits, LOGITS)
        if mode not in MODES:
            raise unknown("mode of gumbel", mode, MODES)
        if schedule not in SCHEDULES:
            raise unknown("schedule of gumbel's temperature", schedule, SCHEDULES)
        if min(temperature_start, temperature_end) <= 0:
            raise UserError(f"gumbel's temperatures are above 0; got {temperature_start} and {temperature_end}.")
        self.in_channels, self.channels = channels if logits == "distance" else codes, channels
        self.levels, self.logits = (codes,), logits
        self.scale, self.mode, self.schedule = scale, mode, schedule
        self.temperatures, self.kl = (temperature_start, temperature_end), (kl_start, kl_end)
        self.codes = nn.Parameter(torch.randn(codes, channels))
        # A buffer, for the mixtures of a soft tokenizer in use are those of the temperature that its training has reached.
        self.register_buffer("temperature", torch.tensor(float(temperature_start)))
        self.kl_weight = kl_start

    def forward(self, x: Tensor) -> Quantized:
        """(B, in_channels, t, h, w) -> z (B, channels, t, h, w), ids (B, N, 1), the sample's in training."""
        x = x.to(self.codes.dtype)
        with torch.autocast(x.device.type, enabled=False):
            logits = self._logits(rows_of(x))
            shares = self._shares(logits)
            ids = (logits if shares is None else shares).max(dim=1).indices
            if shares is None:
                rows = F.embedding(ids, self.codes)
            elif self.mode == "straight_through":
                mixture = shares @ self.codes.detach()
                rows = F.embedding(ids, self.codes) + (mixture - mixture.detach())  # the code to the bit, a mixture's gradient
            else:
                rows = shares @ self.codes
            z = cells_of(rows, x)
            losses = {"kl": self.kl_weight * kl_from_uniform(logits)} if self.training and self.kl_weight else {}
        h = x if self.logits == "distance" else z
        return Quantized(z=z, h=h.detach(), ids=ids.view(len(x), -1, 1), losses=losses)

    def embed(self, ids: Tensor, grids: tuple[Shape, ...]) -> Tensor:
        """(B, N, 1) of 0 to K - 1 -> their codes (B, channels, t, h, w)."""
        (grid,) = grids
        return F.embedding(ids.squeeze(-1), self.codes.to(ids.device)).unflatten(1, grid).movedim(-1, 1)

    def project(self, h: Tensor) -> Quantized:
        """The nearest codes to ``h`` (B, channels, t, h, w), by Euclidean distance, and their ids."""
        codes = self.codes.to(h.device)
        with torch.autocast(h.device.type, enabled=False):
            ids = nearest(rows_of(h).to(codes.dtype), codes)
            z = cells_of(F.embedding(ids, codes), h).to(h.dtype)
        return Quantized(z=z, h=z, ids=ids.view(len(h), -1, 1))

    def anneal(self, progress: float) -> None:
        """Moves the temperature and the divergence's weight along their schedules; ``progress`` in [0, 1]."""
        start, end = self.temperatures
        if self.schedule == "exponential":
            self.temperature.fill_(start * (end / start) ** progress)
        else:
            share = progress if self.schedule == "linear" else (1 - math.cos(math.pi * progress)) / 2
            self.temperature.fill_(start + (end - start) * share)
        self.kl_weight = self.kl[0] + (self.kl[1] - self.kl[0]) * progress

    def _logits(self, rows: Tensor) -> Tensor:
        """(N, K) from what the encoder emitted (N, in_channels)."""
        if self.logits == "encoder":
            return self.scale * rows
        products = torch.addmm(self.codes.square().sum(dim=1), rows, self.codes.T, alpha=-2)
        return -self.scale * (rows.square().sum(dim=1, keepdim=True) + products)

    def _shares(self, logits: Tensor) -> Tensor | None:
        """How much of each code a cell takes (N, K), a relaxed sample in training; None where it is all of the most likely."""
        if self.training:
            whole = logits.new_empty(world_size() * len(logits), logits.shape[1])
            noise = -own_rows(whole.exponential_()).log()
            return ((logits + noise) / self.temperature).softmax(dim=1)
        return (logits / self.temperature).softmax(dim=1) if self.mode == "soft" else None


def kl_from_uniform(logits: Tensor) -> Tensor:
    """Mean over rows (N, K) of KL(softmax(logits) | uniform), in nats: log K less the entropy."""
    log_p = logits.log_softmax(dim=1)
    return math.log(logits.shape[1]) + (log_p.exp() * log_p).sum(dim=1).mean()
