"""``flow``: the density of a token of real numbers, as a small rectified flow given the trunk's output.

Source: Li et al., "Autoregressive Image Generation without Vector Quantization" (MAR, 2024), section 3.3 and its released code:
a perceptron of residual blocks with adaLN-Zero, told of noise level and trunk by their sum. MAR-L is ``hidden=1024 depth=3``,
MAR-H ``hidden=1536 depth=12``; noise is drawn four times for every token of a trunk's output, as there.

Deviations: rectified flow by Euler's method (:mod:`vidgen.samplers.flow`) in the place of 1000 DDPM steps, 100 of them sampled;
logit-normal noise levels; the levels of one token are spread evenly over that law's quantiles, which leaves the loss's mean as it
is and lowers its variance; temperature scales the noise that it starts from, there being no other; guidance is of the velocity.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen.errors import UserError
from vidgen.heads.mlp import ModulatedMLP, check_sizes
from vidgen.heads.subids import guided
from vidgen.nn.embeddings import TimestepEmbedding
from vidgen.nn.parallel import own_rows, world_size
from vidgen.nn.trunk import FinalLayer
from vidgen.protocols import LatentSpace
from vidgen.samplers import flow
from vidgen.samplers.discrete import check_truncation, precise
from vidgen.samplers.ode import euler


class Flow(nn.Module):
    """A head: :class:`vidgen.protocols.Head`. Its tokens are values of ``h`` (B, n, D); it has no likelihood.

    Out of training mode the noise of its loss is the same every time, so that validation losses can be compared.

    Args:
        space: the tokenizer's latent space, continuous.
        width: channels of the trunk.
        hidden: channels of the perceptron; 0 takes the trunk's.
        depth: its residual blocks, at least 1.
        repeats: noise levels, each with its noise, for every token of a training step.
        time_mean: mean of the logit of the training noise levels.
        time_std: its standard deviation.
        steps: Euler steps of a sample.

    Raises:
        UserError: for discrete latents, or sizes that make no network, no loss, or no sample.
    """

    likelihood = False

    def __init__(
        self,
        *,
        space: LatentSpace,
        width: int,
        hidden: int = 0,
        depth: int = 3,
        repeats: int = 4,
        time_mean: float = 0.0,
        time_std: float = 1.0,
        steps: int = 25,
    ) -> None:
        super().__init__()
        if space.spec.levels is not None:
            raise UserError(
                f"The flow head predicts real numbers and these latents are ids of a vocabulary of {space.spec.vocab_size}: "
                "use generator/head=categorical, factored or depth, or generator/head=auto."
            )
        check_sizes("flow", hidden, depth)
        if repeats < 1 or steps < 1:
            raise UserError(f"The flow head needs repeats and steps of at least 1, not {repeats} and {steps}.")
        hidden = hidden or width
        self.draws = space.h_channels
        self.repeats, self.time_mean, self.time_std, self.steps = repeats, time_mean, time_std, steps
        self.embed = nn.Linear(self.draws, width)
        self.input = nn.Linear(self.draws, hidden)
        self.condition = nn.Linear(width, hidden)
        self.time = TimestepEmbedding(hidden)
        self.blocks = nn.ModuleList(ModulatedMLP(hidden) for _ in range(depth))
        self.final = FinalLayer(hidden, self.draws)
        for layer in (self.embed, self.input, self.condition):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def velocity(self, h: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """At (..., B, n, D), noise levels (..., B, n) or one, given ``self.condition`` of the trunk (B, n, hidden)."""
        c = self.time(t) + condition
        x, told = self.input(h), F.silu(c)
        for block in self.blocks:
            x = block(x, told)
        return self.final(x, c)

    def loss(self, x: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
        """The velocity's squared error, a mean over channels and ``repeats``: (B, n); ``smoothing`` is of softmaxes only."""
        clips, *tokens = target.shape[:-1]
        size = (self.repeats, world_size() * clips, *tokens)
        stream = None if self.training else torch.Generator().manual_seed(0)
        device = x.device if self.training else None
        u = own_rows(torch.rand(*size, generator=stream, device=device), axis=1).to(x.device).clamp_min(1e-6)
        noise = own_rows(torch.randn(*size, self.draws, generator=stream, device=device), axis=1).to(x.device)
        quantile = (torch.arange(self.repeats, device=x.device).view(-1, 1, 1) + u) / self.repeats
        t = torch.sigmoid(self.time_mean + self.time_std * torch.special.ndtri(quantile))
        return self.loss_at(x, target, t, noise).mean(dim=0)

    def loss_at(self, x: Tensor, target: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The objective (..., B, n) at given noise levels (..., B, n) and noise (..., B, n, D), in float32 at least."""
        target = precise(target)
        predicted = self.velocity(flow.interpolate(target, noise, t.unsqueeze(-1)), t, self.condition(x))
        return (precise(predicted) - flow.velocity(target, noise)).square().mean(dim=-1)

    def sample(
        self,
        x: Tensor,
        scales: Sequence[float | Tensor],
        temperature: float,
        noise: Tensor,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> tuple[Tensor, None]:
        """Values of h (B, n, D) from uniforms (B, n, D), and no log-probability; see :class:`vidgen.protocols.Head`.

        Raises:
            UserError: for ``top_k`` or ``top_p``, which real numbers do not have.
        """
        check_truncation(None, top_k, top_p)
        condition = self.condition(x)

        def field(h: Tensor, t: Tensor) -> Tensor:
            return guided(partial(self.velocity, h.repeat(1 + len(scales), 1, 1), t), condition, scales)

        start = (temperature * torch.special.ndtri(noise)).to(self.embed.weight.dtype)
        return euler(field, start, flow.sampling_times(self.steps, device=x.device)), None
