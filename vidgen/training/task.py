"""What is trained: a tokenizer or a generator, as Lightning modules that know nothing of folders, files or screens."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from vidgen.data.batches import Order, eval_batches, to_video
from vidgen.latents import Condition, Latent, Losses, joint_ids
from vidgen.protocols import Data
from vidgen.samplers.noise import key
from vidgen.training.cache import LatentCache
from vidgen.training.optim import build_optimizer, schedule, update_average

COLLAPSED = 2.5
"""Codes of a batch, as a perplexity, below which a codebook counts as collapsed."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a part is trained: the ``training`` block of its yaml. Budgets are optimizer steps, never seconds.

    Attributes:
        steps: optimizer steps.
        batch_size: clips a step and process.
        optimizer: ``adamw``, or ``muon`` on inner matrices and AdamW on the rest.
        lr: AdamW's learning rate.
        muon_lr: Muon's.
        weight_decay: on matrices only.
        betas: AdamW's.
        warmup: steps of linear warm-up.
        decay: fraction of the steps, at the end, over which the rate falls to zero along a half cosine.
        clip_norm: largest norm of the gradient.
        ema: decay of the average of weights that is kept as the model.
        clips: for generators, training clips whose latents are cached; 0 takes one epoch of the data.
        images: for tokenizers, the share of the steps that train on single frames; causal backbones only.
    """

    steps: int
    batch_size: int
    optimizer: str
    lr: float
    muon_lr: float
    weight_decay: float
    betas: tuple[float, float]
    warmup: int
    decay: float
    clip_norm: float
    ema: float
    clips: int = 0
    images: float = 0.0


class Task(L.LightningModule):
    """A model, its average of weights (the one that is used afterwards), its optimizer and one reproducible step.

    Randomness is seeded anew in every step from (seed, step, rank), so going on after a stop needs no generator state.
    """

    stage: str
    model: Any
    average: Any

    def __init__(self, model: nn.Module, recipe: Recipe, seed: int) -> None:
        super().__init__()
        self.model = model
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.recipe, self.seed = recipe, seed

    def losses(self, batch: Any) -> Losses:
        """The objective on one batch of the training loader."""
        raise NotImplementedError

    def validate_now(self) -> dict[str, float]:
        """Measures on fixed validation clips with fixed noise, by the average of weights."""
        raise NotImplementedError

    def health(self) -> tuple[dict[str, float], str]:
        """Figures of the last batch that tell whether training is sound, and a sentence where it is not."""
        return {}, ""

    def training_step(self, batch: Any, _: int) -> dict[str, Any]:
        """One reproducible step."""
        torch.manual_seed(key(self.seed, self.stage, self.global_step, self.global_rank))
        losses = self.losses(batch)
        return {"loss": losses.total, "scalars": {name: value.detach() for name, value in losses.scalars.items()}}

    def on_train_start(self) -> None:
        """The average is always in evaluation mode."""
        self.average.eval()

    def optimizer_step(self, *args: Any) -> None:
        """Moves the average after the weights; it follows closely at first."""
        super().optimizer_step(*args)
        decay = min(self.recipe.ema, (1 + self.global_step) / (10 + self.global_step))
        update_average(self.average.parameters(), self.model.parameters(), decay)
        for average, current in zip(self.average.buffers(), self.model.buffers(), strict=True):
            average.copy_(current)

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """By the norm over all weights; not Lightning's own, which refuses fused optimizers in bf16."""
        if self.recipe.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)

    def configure_optimizers(self) -> Any:
        """Optimizer and schedule of the recipe."""
        recipe = self.recipe
        optimizer = build_optimizer(
            self.model,
            optimizer=recipe.optimizer,
            lr=recipe.lr,
            muon_lr=recipe.muon_lr,
            weight_decay=recipe.weight_decay,
            betas=recipe.betas,
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: schedule(step, steps=recipe.steps, warmup=recipe.warmup, decay=recipe.decay)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class TokenizerTask(Task):
    """Trains a tokenizer to reconstruct clips."""

    stage = "tokenizer"

    def __init__(self, model: nn.Module, recipe: Recipe, seed: int, data: Data, val_clips: int = 32) -> None:
        super().__init__(model, recipe, seed)
        self.data, self.val_clips = data, val_clips
        self.last_ids: Tensor | None = None

    def losses(self, batch: dict[str, Tensor]) -> Losses:
        """Reconstruction and the quantizer's losses on a batch of uint8 clips."""
        self.model.anneal(self.global_step / self.recipe.steps)
        _, latent, losses = self.model(to_video(batch["video"]))
        self.last_ids = latent.ids
        return losses

    def health(self) -> tuple[dict[str, float], str]:
        """Perplexity of the last batch's codes; a codebook that has shrunk to one or two of them has collapsed."""
        vocab = self.model.spec.vocab_size
        if self.last_ids is None or vocab is None:
            return {}, ""
        counts = torch.unique(joint_ids(self.last_ids, self.model.spec.levels), return_counts=True)[1].double()
        share = counts / counts.sum()
        perplexity = float((-(share * share.log()).sum()).exp())
        warning = ""
        if perplexity < COLLAPSED and self.global_step > 2 * self.recipe.warmup + 100:
            warning = (
                f"the codebook has collapsed: a batch is coded by about {perplexity:.1f} of {vocab} codes. Try a larger "
                "tokenizer.quantizer.entropy_weight, or a smaller tokenizer.training.lr."
            )
        return {"codebook/batch_perplexity": perplexity}, warning

    @torch.no_grad()
    def validate_now(self) -> dict[str, float]:
        """Mean per-frame PSNR of fixed validation clips."""
        values = []
        for batch in eval_batches(self.data, "val", self.val_clips, self.recipe.batch_size):
            video = to_video(batch["video"].to(self.device))
            again = self.average.decode(self.average.encode(video)).clamp(-1, 1)
            error = ((again - video) / 2).square().mean(dim=(1, 3, 4)).clamp_min(1e-10)
            values.append(-10 * error.log10())
        return {"reconstruction/psnr": torch.cat(values).mean().item()}


class GeneratorTask(Task):
    """Trains a generator on cached latents."""

    stage = "generator"

    def __init__(self, model: nn.Module, recipe: Recipe, seed: int, val: tuple[Latent, Condition] | None) -> None:
        super().__init__(model, recipe, seed)
        self.val = val

    def losses(self, batch: tuple[Latent, Condition]) -> Losses:
        """The generator's own objective."""
        return self.model.loss(*batch)

    @torch.no_grad()
    def validate_now(self) -> dict[str, float]:
        """The objective on fixed latents with fixed noise at fixed noise levels: comparable from step to step and run to run."""
        if self.val is None:
            return {}
        latent, condition = (part.to(self.device) for part in self.val)
        return {"loss/validation": float(self.average.validation_loss(latent, condition))}


class LatentBatches(torch.utils.data.IterableDataset):
    """Training batches of cached latents for steps ``first`` to ``last``; a function of (seed, step) like those of clips."""

    def __init__(
        self, cache: LatentCache, *, batch_size: int, seed: int, first: int, last: int, rank: int = 0, ranks: int = 1
    ) -> None:
        self.cache, self.batch_size, self.seed = cache, batch_size, seed
        self.first, self.last, self.rank, self.ranks = first, last, rank, ranks

    def __iter__(self) -> Iterator[tuple[Latent, Condition]]:
        order = Order(len(self.cache), self.seed)
        for step in range(self.first, self.last):
            begin = (step * self.ranks + self.rank) * self.batch_size
            yield self.cache.read([order(position)[0] for position in range(begin, begin + self.batch_size)])


def recipe_from(config: Mapping[str, Any]) -> Recipe:
    """The ``training`` block of a part's config as a :class:`Recipe`."""
    values = dict(config["training"])
    values["betas"] = tuple(values["betas"])
    return Recipe(**values)
