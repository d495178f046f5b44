"""``vq``: vector quantization, the nearest of K learned codes.

Sources: van den Oord et al., "Neural Discrete Representation Learning" (2017), equation 3 and appendix A.1 (averages); Yan et
al., "VideoGPT" (2021), for the defaults of the averages and of the commitment, the start from data and the restarts; Yu et al.,
"Vector-quantized Image Modeling with Improved VQGAN" (2021), section 3.2, for codes on the sphere.

Deviations from VideoGPT: the start is k-means over the first batch and not a sample of it; a code is dead below a *share* of
uniform use, not below one token a step, so that it means the same for any batch; a restarted code starts its averages anew
(as in vector-quantize-pytorch), where VideoGPT's goes back to its old ones.

This is our own code and no adapter: whether the codebook has started, its averages and its restarts are in buffers and equal
however many processes share a batch. ``vector-quantize-pytorch`` is what the tests compare it with.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen.errors import UserError
from vidgen.latents import Shape
from vidgen.nn.codebook import cells_of, check_table, kmeans, nearest, pass_through, rows_of, sums_by_code
from vidgen.nn.parallel import gather_rows, sum_over_ranks
from vidgen.protocols import Quantized
from vidgen.registry import unknown

KIND = "ids"
LEARNING = ("ema", "gradient")
SMOOTHING = 1e-5
"""Laplace smoothing of the counts, as in vector-quantize-pytorch; VideoGPT's is 1e-7."""
ROUNDS = 10
"""Of k-means at the start."""


class VQ(nn.Module):
    """A table of codes; each cell takes the nearest. h is what the encoder gave, z the code, and ids have L = 1.

    The first training batch starts the codes: k-means over the cells of all processes. What it cannot fill, having fewer cells
    than codes, is filled from the batches that follow, as dead codes are.

    Args:
        codes: K, the vocabulary, at least 2.
        channels: of the encoder's output and of a code.
        learning: ``ema``, codes are running means of the vectors that chose them, or ``gradient``, they follow the loss
            mean((z - sg x)^2).
        decay: of the running counts, and means; 0 keeps the last batch's alone.
        commitment: weight of mean((x - sg z)^2), the term that moves the encoder (beta; never on the codes' term).
        restart: a code is dead, and restarts as a vector of the batch, when its running count is below this share of the mean
            count; in [0, 1), 0 for never.
        normalise: vectors and codes on the unit sphere, so that the nearest code is that of the largest cosine; z is the code of
            length 1, h stays as the encoder gave it.
        rotation: gradients to the encoder by the rotation trick, not straight through.

    Raises:
        UserError: for values outside of those ranges.
    """

    stages = 1
    scales = clip = None

    codes: Tensor
    started: Tensor
    updates: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(
        self,
        *,
        codes: int = 1024,
        channels: int = 8,
        learning: str = "ema",
        decay: float = 0.99,
        commitment: float = 0.25,
        restart: float = 0.1,
        normalise: bool = False,
        rotation: bool = False,
    ) -> None:
        super().__init__()
        check_table("vq", codes, channels)
        if learning not in LEARNING:
            raise unknown("way of learning vq's codes", learning, LEARNING)
        if not (0 <= decay < 1 and 0 <= restart < 1):
            raise UserError(f"vq's decay and restart are shares of at least 0 and below 1; got {decay} and {restart}.")
        self.in_channels = self.channels = channels
        self.levels = (codes,)
        self.learning, self.decay, self.commitment, self.restart = learning, decay, commitment, restart
        self.normalise, self.rotation = normalise, rotation
        table = self._on_sphere(torch.randn(codes, channels))
        if learning == "gradient":
            self.codes = nn.Parameter(table)
        else:
            self.register_buffer("codes", table)
            self.register_buffer("sums", table.clone())
        self.register_buffer("counts", torch.ones(codes))
        self.register_buffer("started", torch.tensor(False))
        self.register_buffer("updates", torch.tensor(0))

    def forward(self, x: Tensor) -> Quantized:
        """(B, channels, t, h, w) -> the nearest codes with a gradient to ``x``, ids (B, N, 1); in training the codes learn."""
        x = x.to(self.codes.dtype)
        with torch.autocast(x.device.type, enabled=False):
            rows = self._on_sphere(rows_of(x))
            if self.training and not self.started:
                self._start(rows.detach())
            ids = nearest(rows.detach(), self._on_sphere(self.codes.detach()))
            codes = self._look_up(ids)
            losses = {}
            if self.training:
                losses["commitment"] = self.commitment * F.mse_loss(rows, codes.detach())
                if self.learning == "gradient":
                    losses["codebook"] = F.mse_loss(codes, rows.detach())
                self._update(rows.detach(), ids)
            z = cells_of(pass_through(rows, codes, rotation=self.rotation), x)
        return Quantized(z=z, h=x.detach(), ids=ids.view(len(x), -1, 1), losses=losses)

    def embed(self, ids: Tensor, grids: tuple[Shape, ...]) -> Tensor:
        """(B, N, 1) of 0 to K - 1 -> their codes (B, channels, t, h, w)."""
        (grid,) = grids
        return self._look_up(ids.squeeze(-1)).unflatten(1, grid).movedim(-1, 1)

    def project(self, h: Tensor) -> Quantized:
        """The nearest codes and their ids."""
        with torch.autocast(h.device.type, enabled=False):
            rows = self._on_sphere(rows_of(h).to(self.codes.dtype))
            ids = nearest(rows, self._on_sphere(self.codes.to(h.device)))
            z = cells_of(self._look_up(ids), h).to(h.dtype)
        return Quantized(z=z, h=z, ids=ids.view(len(h), -1, 1))

    def bounded(self, x: Tensor) -> Tensor:
        """``x`` in the space of the codes: on the unit sphere, where those are."""
        return cells_of(self._on_sphere(rows_of(x)), x) if self.normalise else x

    def anneal(self, progress: float) -> None:
        """vq has no schedule."""

    def _look_up(self, ids: Tensor) -> Tensor:
        """The one way from ids to codes, so that both give the same bits."""
        return self._on_sphere(F.embedding(ids, self.codes.to(ids.device)))

    def _on_sphere(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1) if self.normalise else vectors

    @torch.no_grad()
    def _start(self, rows: Tensor) -> None:
        """K-means over the rows of all processes; the codes that are left over have no count, so they are dead."""
        centres, counts = kmeans(gather_rows(rows), len(self.codes), rounds=ROUNDS, unit=self.normalise, generator=self._random())
        num = len(centres)
        # All computed the same, but perhaps not to the last bit: the first process's it is.
        self.codes[:num], self.counts[:num] = gather_rows(centres)[:num], gather_rows(counts)[:num]
        self.counts[num:] = 0
        if self.learning == "ema":
            self.sums.copy_(self.codes * self.counts.unsqueeze(1))
        self.started.fill_(True)

    @torch.no_grad()
    def _update(self, rows: Tensor, ids: Tensor) -> None:
        """Running counts, and means where those are the codes, over all processes; then the restarts."""
        counts, sums = sums_by_code(rows, ids, len(self.codes))
        self.counts.lerp_(sum_over_ranks(counts), 1 - self.decay)
        if self.learning == "ema":
            self.sums.lerp_(sum_over_ranks(sums), 1 - self.decay)
            total = self.counts.sum()
            smoothed = (self.counts + SMOOTHING) / (total + SMOOTHING * len(self.codes)) * total
            self.codes.copy_(self._on_sphere(self.sums / smoothed.unsqueeze(1)))
        if self.restart:
            self._restart(rows)
        self.updates += 1

    def _restart(self, rows: Tensor) -> None:
        """Dead codes become vectors of the batch, of any process, with the count of a code that is just not dead.

        So one that nothing chooses is dead again after the next batch: while the encoder moves fast, vectors that are older than
        a few steps are no use to it.
        """
        least = self.restart * self.counts.mean()
        dead = (self.counts < least).nonzero().squeeze(1)
        if len(dead) == 0:
            return
        rows, random = gather_rows(rows), self._random()
        if len(dead) > len(rows):  # the others' turn comes with the next batch
            dead = dead[torch.randperm(len(dead), generator=random)[: len(rows)].to(dead.device)]
        fresh = rows[torch.randperm(len(rows), generator=random)[: len(dead)].to(rows.device)]
        self.codes[dead], self.counts[dead] = fresh, least
        if self.learning == "ema":
            self.sums[dead] = fresh * least

    def _random(self) -> torch.Generator:
        """The same in every process, other than the global stream, and the same again after a resume."""
        return torch.Generator().manual_seed(int(self.updates))
