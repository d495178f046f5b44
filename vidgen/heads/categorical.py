"""``categorical``: one softmax over the joint id of a cell, which holds every distribution of its sub-ids.

Sources: MaskGIT, VideoGPT and VAR, whose heads it is. Deviations: the embedding is not tied to the output (MaskGIT ties them).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from vidgen.errors import UserError
from vidgen.heads.subids import discrete_levels, guided, logits_layer, nll
from vidgen.latents import joint_ids, split_ids
from vidgen.protocols import LatentSpace
from vidgen.samplers.discrete import sample_logits

LARGEST = 2**18


class Categorical(nn.Module):
    """A head: :class:`vidgen.protocols.Head`.

    Args:
        space: the tokenizer's latent space: discrete, of at most 2**18 joint ids.
        width: channels of the trunk.

    Raises:
        UserError: for continuous latents, or a larger vocabulary.
    """

    draws = 1
    likelihood = True

    def __init__(self, *, space: LatentSpace, width: int) -> None:
        super().__init__()
        self.levels = discrete_levels("categorical", space.spec)
        self.vocabulary = prod(self.levels)
        if self.vocabulary > LARGEST:
            raise UserError(
                f"The categorical head has a logit for each joint id, at most {LARGEST} of them, and this vocabulary has "
                f"{self.vocabulary}: use generator/head={'depth' if space.spec.stages > 1 else 'factored'}, or "
                "generator/head=auto."
            )
        self.table = nn.Embedding(self.vocabulary, width)
        nn.init.normal_(self.table.weight, std=0.02)
        self.logits = logits_layer(width, (self.vocabulary,))

    def embed(self, tokens: Tensor) -> Tensor:
        """Ids (B, n, L) -> (B, n, width)."""
        return self.table(joint_ids(tokens, self.levels))

    def loss(self, x: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
        """Minus the log-likelihood of ids (B, n, L) given the trunk's (B, n, width): (B, n), in nats."""
        return nll(self.logits(x), joint_ids(target, self.levels).unsqueeze(-1), (self.vocabulary,), smoothing)

    def sample(
        self,
        x: Tensor,
        scales: Sequence[float | Tensor],
        temperature: float,
        noise: Tensor,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Ids (B, n, L) and their log-probabilities (B, n), from uniforms (B, n, 1); see :class:`vidgen.protocols.Head`."""
        logits = guided(self.logits, x, scales)
        joint, log_p = sample_logits(logits, noise[..., 0], temperature, top_k, top_p)
        return split_ids(joint, self.levels), log_p
