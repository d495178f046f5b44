"""``depth``: the stages of a cell one after another, each given the trunk and the stages before it.

Sources: Lee et al., "Autoregressive Image Generation using Residual Quantization" (2022), section 3.2, whose depth transformer
takes, at stage s, the sum of the embeddings of the stages before it; Defossez et al., "Moshi" (2024), section 3.4, which gives
every stage the trunk's output, and weights of its own.

Deviations: a residual perceptron that all stages share, in the place of a small transformer. Every stage has embeddings of its
own, so the sum of what came before holds all of it, and a stage costs the same however many came before, without a cache. As in
Moshi every stage sees the trunk's output and has its own output layer. Label smoothing in place of RQ-Transformer's soft labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor, nn

from vidgen.heads.mlp import ResidualMLP, check_sizes
from vidgen.heads.subids import discrete_levels, guided, logits_layer, nll, sample_subids, subid_embedding
from vidgen.protocols import LatentSpace


class Depth(nn.Module):
    """A head: :class:`vidgen.protocols.Head`.

    A step is a stage, and its sub-ids, where it has several (residual bits), are independent given the stages before it. Latents
    of a single stage take one step a sub-id instead.

    Args:
        space: the tokenizer's latent space, discrete.
        width: channels of the trunk.
        hidden: channels of the perceptron; 0 takes the trunk's.
        depth: its residual blocks, at least 1.

    Raises:
        UserError: for continuous latents, or sizes that make no network.
    """

    likelihood = True

    def __init__(self, *, space: LatentSpace, width: int, hidden: int = 0, depth: int = 3) -> None:
        super().__init__()
        self.levels = discrete_levels("depth", space.spec)
        check_sizes("depth", hidden, depth)
        hidden = hidden or width
        steps = space.spec.stages if space.spec.stages > 1 else len(self.levels)
        size = len(self.levels) // steps
        self.steps = [self.levels[first : first + size] for first in range(0, len(self.levels), size)]
        self.draws = len(self.levels)
        self.embed = subid_embedding(self.levels, width)
        self.input = nn.Linear(width, hidden)
        self.stage = nn.Parameter(0.02 * torch.randn(steps, hidden))
        self.before = nn.ModuleList(subid_embedding(levels, hidden) for levels in self.steps[:-1])
        self.blocks = nn.ModuleList(ResidualMLP(hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden)
        self.logits = nn.ModuleList(logits_layer(hidden, levels) for levels in self.steps)

    def features(self, x: Tensor) -> Tensor:
        """(..., steps, hidden), sums of trunk, stage and what came before -> what the logits are read from, of the same shape."""
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def split(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """(..., L) -> a piece for each step."""
        return tokens.split([len(levels) for levels in self.steps], dim=-1)

    def loss(self, x: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
        """Minus the log-likelihood of ids (B, n, L) given the trunk's (B, n, width): (B, n), in nats, summed over stages."""
        targets = self.split(target)
        known = (embed(ids) for embed, ids in zip(self.before, targets, strict=False))
        states = torch.stack(list(accumulate(known, initial=self.input(x))), dim=-2)
        features = self.features(states + self.stage).unbind(dim=-2)
        steps = zip(self.logits, features, targets, self.steps, strict=True)
        losses = [nll(logits(feature), ids, levels, smoothing) for logits, feature, ids, levels in steps]
        return torch.stack(losses).sum(dim=0)

    def sample(
        self,
        x: Tensor,
        scales: Sequence[float | Tensor],
        temperature: float,
        noise: Tensor,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Ids (B, n, L) and their log-probabilities (B, n), from uniforms (B, n, L); see :class:`vidgen.protocols.Head`.

        Every stage is guided, tempered and truncated by itself.
        """
        state = self.input(x)
        drawn, log_ps = [], []
        for step, (u, levels) in enumerate(zip(self.split(noise), self.steps, strict=True)):
            logits = guided(partial(self._predict, step), state, scales)
            ids, log_p = sample_subids(logits, u, levels, temperature, top_k, top_p)
            drawn.append(ids)
            log_ps.append(log_p)
            if step < len(self.before):
                state = state + self.before[step](ids).repeat(1 + len(scales), 1, 1)
        return torch.cat(drawn, dim=-1), torch.stack(log_ps).sum(dim=0)

    def _predict(self, step: int, state: Tensor) -> Tensor:
        """The logits of a step, from the sum (..., hidden) of trunk and what came before."""
        logits: Tensor = self.logits[step](self.features(state + self.stage[step]))
        return logits
