"""``factored``: one softmax a sub-id, independent of one another given the trunk; on binary levels a head of bits.

Sources: Han et al., "Infinity" (2024), whose infinite-vocabulary classifier is d x 2 logits; 1X's GENIE and Open-MAGVIT2, which
split 2**18 ids into 2 x 2**9. Cheap at any vocabulary, but what sub-ids of one cell tell of each other is lost: where codes
of a cell are correlated, ``depth`` or (up to 2**18) ``categorical`` models more. Deviation from Infinity: the loss is the
sum over bits, the token's likelihood, and not their mean; where only the scale matters, optimizers with Adam's normalisation do
not see the difference.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vidgen.heads.subids import discrete_levels, guided, logits_layer, nll, sample_subids, subid_embedding
from vidgen.protocols import LatentSpace


class Factored(nn.Module):
    """A head: :class:`vidgen.protocols.Head`.

    Args:
        space: the tokenizer's latent space, discrete.
        width: channels of the trunk.

    Raises:
        UserError: for continuous latents.
    """

    likelihood = True

    def __init__(self, *, space: LatentSpace, width: int) -> None:
        super().__init__()
        self.levels = discrete_levels("factored", space.spec)
        self.draws = len(self.levels)
        self.embed = subid_embedding(self.levels, width)
        self.logits = logits_layer(width, self.levels)

    def loss(self, x: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
        """Minus the log-likelihood of ids (B, n, L) given the trunk's (B, n, width): (B, n), in nats, summed over sub-ids."""
        return nll(self.logits(x), target, self.levels, smoothing)

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

        Each softmax is truncated by itself.
        """
        return sample_subids(guided(self.logits, x, scales), noise, self.levels, temperature, top_k, top_p)
