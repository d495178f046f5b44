"""What is trained: a tokenizer or a generator, as Lightning modules that know nothing of folders, files or screens."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from vidgen.data.batches import BatchOrder, eval_batches, for_each, to_video
from vidgen.errors import UserError
from vidgen.latents import Condition, Latent, Losses
from vidgen.losses.adversarial import Adversary
from vidgen.losses.perceptual import Distance, build_perceptual
from vidgen.nn.parallel import mean_over_ranks
from vidgen.protocols import Data
from vidgen.samplers.noise import key
from vidgen.training.cache import LatentCache, training_cells
from vidgen.training.guards import UsageWindow, collapse
from vidgen.training.optim import build_optimizer, clip_gradients, schedule, update_average


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a part is trained: the ``training`` block of its yaml. Budgets are optimizer steps, never seconds.

    Attributes:
        steps: optimizer steps.
        batch_size: clips a step, of which each of several processes has an equal share.
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
        images: the share of the steps that train on single frames, generators on cell 0 alone; causal tokenizers only.
        windows: for generators, the share of the other steps that train on a part of the clips that begins after cell 0, as the
            windows of a rollout do (:func:`vidgen.training.cache.training_cells`).
        accumulate: for generators, equal parts that a batch goes through in, one after another, so that it needs less memory; the
            gradient is that of the whole batch.
        no_decay: words; a matrix whose name has one of them does not decay.
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
    windows: float = 0.0
    accumulate: int = 1
    no_decay: tuple[str, ...] = ()


class Task(L.LightningModule, ABC):
    """A model, its average of weights (the one that is used afterwards), its optimizer and one reproducible step.

    Randomness is seeded anew in every step from (seed, step), so going on after a stop needs no generator state. It is the same
    in all processes: each takes its rows of what is drawn for the clips of all (:mod:`vidgen.nn.parallel`).
    """

    stage: str
    model: Any
    average: Any

    def __init__(self, model: nn.Module, recipe: Recipe, seed: int) -> None:
        super().__init__()
        if recipe.batch_size % recipe.accumulate:
            raise UserError(
                f"'{self.stage}.training.accumulate' is {recipe.accumulate}, and does not divide batch_size={recipe.batch_size}."
            )
        self.model = model
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.recipe, self.seed = recipe, seed
        self.last_total = torch.zeros(())
        self.on_gradient: Callable[[Tensor], object] = lambda norm: None  # told the norm of each gradient before it is used

    @abstractmethod
    def losses(self, batch: Any) -> Losses:
        """The objective on one batch of the training loader."""

    @abstractmethod
    def validate_now(self) -> dict[str, float]:
        """Measures on fixed validation clips with fixed noise, by the average of weights."""

    def health(self) -> tuple[dict[str, float], str]:
        """Figures of the last batches that tell whether training is sound, and a sentence where it is not."""
        return {}, ""

    def training_step(self, batch: Any, _: int) -> dict[str, Any]:
        """One reproducible step."""
        losses = self.step_losses(batch, self.global_step)
        self.last_total = mean_over_ranks(losses.total.detach())
        return {"loss": losses.total, "scalars": {name: value.detach() for name, value in losses.scalars.items()}}

    def step_losses(self, batch: Any, step: int) -> Losses:
        """The objective on the batch of ``step``, with that step's randomness; of its parts only the last keeps its graph."""
        torch.manual_seed(key(self.seed, self.stage, step, 0))
        count = self.recipe.accumulate
        if count == 1:
            return self.losses(batch)
        weights = list(self.model.parameters())  # while nothing of them is gathered, where they are cut over processes
        parts: list[tuple[Losses, Tensor]] = []
        for place, part in enumerate(_parts(batch, count), start=1):
            losses = self.losses(part)
            weight = torch.ones((), device=self.device) if losses.count is None else losses.count
            if place < count:
                with torch.autocast(self.device.type, enabled=False):
                    (losses.total * weight).backward()
                losses = Losses(total=losses.total.detach(), scalars=losses.scalars)
            parts.append((losses, weight))
        # A part counts by what it is the mean of, and the whole's is known with the last part: till then gradients are sums.
        whole = torch.stack([weight for _, weight in parts]).sum().clamp_min(1)
        for one in weights:
            if one.grad is not None:
                one.grad.div_(whole)
        shares = torch.stack([weight for _, weight in parts]) / whole
        total = (torch.stack([losses.total for losses, _ in parts]) * shares).sum()
        scalars = {
            name: (torch.stack([losses.scalars[name].detach() for losses, _ in parts]) * shares).sum()
            for name in parts[-1][0].scalars
        }
        return Losses(total=total, scalars=scalars)

    def optimizer_zero_grad(self, *args: Any) -> None:
        """Not between the step and its last backward pass, where the gradients of a batch's other parts are: after the step."""

    def compile_model(self) -> None:
        """Compiles the network that is trained."""
        self.model.compile()

    def on_train_start(self) -> None:
        """The average is always in evaluation mode."""
        self.average.eval()

    def optimizer_step(self, *args: Any) -> None:
        """Moves the average after the weights; it follows closely at first."""
        super().optimizer_step(*args)
        self.model.zero_grad()
        decay = min(self.recipe.ema, (1 + self.global_step) / (10 + self.global_step))
        update_average(self.average.parameters(), self.model.parameters(), decay)
        for average, current in zip(self.average.buffers(), self.model.buffers(), strict=True):
            average.copy_(current)

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """By the norm over all weights; not Lightning's own, which refuses fused optimizers in bf16."""
        self.on_gradient(clip_gradients(list(self.model.parameters()), self.recipe.clip_norm))

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
            no_decay=recipe.no_decay,
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: schedule(step, steps=recipe.steps, warmup=recipe.warmup, decay=recipe.decay)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class TokenizerTask(Task):
    """Trains a tokenizer to reconstruct clips, against an adversary where it is given one.

    The discriminator learns in the tokenizer's own steps: both are judged on the same reconstruction, and its step follows the
    tokenizer's. Its optimizer is not the trainer's, so that a step remains a step of the tokenizer; all of its state is in the
    checkpoint, and none in the model that is saved.

    Args:
        model: the tokenizer.
        recipe: how it is trained.
        seed: of everything random.
        data: the clips of validation.
        val_clips: how many of them.
        perceptual: a distance between videos and its weight.
        adversary: the discriminator and its losses.

    Raises:
        UserError: where single frames are to be trained on by a backbone that is not causal, or batches in parts.
    """

    stage = "tokenizer"

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        seed: int,
        data: Data,
        val_clips: int = 32,
        *,
        perceptual: tuple[Distance, float] | None = None,
        adversary: Adversary | None = None,
    ) -> None:
        super().__init__(model, recipe, seed)
        self.data, self.val_clips = data, val_clips
        self.perceptual, self.adversary = perceptual, adversary
        self.adversary_optimizer: torch.optim.Optimizer | None = None
        self._resumed: dict[str, Any] | None = None
        levels = self.model.spec.levels
        self.usage = UsageWindow(levels) if levels else None
        if recipe.accumulate > 1:  # codebooks move, count and weigh their codes by all of a batch at once
            raise UserError(
                f"tokenizer.training.accumulate={recipe.accumulate}, and a tokenizer learns from each batch as a whole: leave it "
                "out, and for less memory lower tokenizer.training.batch_size."
            )
        if not 0 <= recipe.images <= 1:
            raise UserError(f"'tokenizer.training.images' is between 0 and 1, and {recipe.images:g} is not.")
        if recipe.images and not self.model.spec.causal:
            raise UserError(
                f"tokenizer.training.images={recipe.images:g} needs a causal backbone, to which an image is a short video; "
                "choose another backbone, or set it to 0."
            )

    def losses(self, batch: dict[str, Tensor]) -> Losses:
        """Reconstruction and the quantizer's losses on a batch of uint8 clips, and what perception and the adversary add."""
        step = self.global_step
        self.model.anneal(step / self.recipe.steps)
        video = self._images(to_video(batch["video"]), step)
        reconstruction, latent, losses = self.model(video)
        if self.usage is not None:
            self.usage.count(latent.ids, step)
        if self.perceptual is not None:
            distance, weight = self.perceptual
            scalars = {"perceptual": distance(reconstruction, video)}
            losses = Losses(total=losses.total + weight * scalars["perceptual"], scalars={**losses.scalars, **scalars})
        if self.adversary is not None and self.adversary.begun(step):
            own, scalars = self.adversary.persuade(video, reconstruction, losses.total)
            losses = Losses(total=losses.total + own, scalars={**losses.scalars, **scalars, **self._judge(video, reconstruction)})
        return losses

    def _images(self, video: Tensor, step: int) -> Tensor:
        """The clips, or in a share of the steps single frames of them: as many as a clip has cells, so that tokens are as many.

        Which steps is a function of (seed, step), the same for all processes; which frames, of the step's randomness.
        """
        if key(self.seed, "images", step) / 2**63 >= self.recipe.images:
            return video
        frames = torch.randperm(video.shape[2])[: self.model.spec.cells(video.shape[2])].to(video.device)
        return video[:, :, frames].transpose(1, 2).flatten(0, 1).unsqueeze(2)

    def _judge(self, video: Tensor, reconstruction: Tensor) -> dict[str, Tensor]:
        """The discriminator's gradient, which waits until the tokenizer has made its step, and its losses by name."""
        assert self.adversary is not None
        total, scalars = self.adversary.judge(video, reconstruction, self.global_step)
        with torch.autocast(video.device.type, enabled=False):
            total.backward()
        return scalars

    def optimizer_step(self, *args: Any) -> None:
        """The tokenizer's step, then the discriminator's."""
        super().optimizer_step(*args)
        if self.adversary is None or not self.adversary.begun(self.global_step):
            return
        assert self.adversary_optimizer is not None
        recipe, weights = self.recipe, list(self.adversary.parameters())
        for weight in weights:
            weight.grad = None if weight.grad is None else mean_over_ranks(weight.grad)
        self.on_gradient(clip_gradients(weights, recipe.clip_norm))
        factor = schedule(self.global_step, steps=recipe.steps, warmup=recipe.warmup, decay=recipe.decay)
        self.adversary_optimizer.param_groups[0]["lr"] = self.adversary.lr * factor
        self.adversary_optimizer.step()
        self.adversary_optimizer.zero_grad()

    def on_train_start(self) -> None:
        """The discriminator's optimizer goes on where it was, on the device where its weights now are."""
        super().on_train_start()
        if self.adversary is None:
            return
        self.adversary_optimizer = torch.optim.AdamW(
            self.adversary.parameters(), lr=self.adversary.lr, betas=self.adversary.betas, weight_decay=0.0, fused=True
        )
        if self._resumed is not None:
            self.adversary_optimizer.load_state_dict(self._resumed)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Beside the weights, which are this module's own."""
        if self.adversary_optimizer is not None:
            checkpoint["adversary_optimizer"] = self.adversary_optimizer.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Kept until the optimizer is made."""
        self._resumed = checkpoint.get("adversary_optimizer")

    def compile_model(self) -> None:
        """Compiles the network that is trained.

        Raises:
            UserError: where an adaptive weight has to look inside of it.
        """
        if self.adversary is not None and self.adversary.adaptive:
            raise UserError(
                "tokenizer.adversary.adaptive=true looks at the decoder's last layer, which a compiled network hides; set it to "
                "false, or trainer.compile=false."
            )
        super().compile_model()

    def health(self) -> tuple[dict[str, float], str]:
        """How much of the codebook the last batches used; a codebook that has shrunk to one or two codes has collapsed."""
        if self.usage is None:
            return {}, ""
        figures = self.usage.figures()
        started = self.global_step > 2 * self.recipe.warmup + 100
        warning = collapse(figures, self.usage.levels, self.model.quantizer) if started else ""
        return {f"codebook/{name}": figures[name] for name in ("usage", "perplexity", "dead_codes")}, warning

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
        if recipe.images and not self.model.space.spec.causal:
            raise UserError(
                f"generator.training.images={recipe.images:g} needs a causal tokenizer, to which an image is cell 0 of a video; "
                "choose another backbone, or set it to 0."
            )

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
    """Training batches of cached latents for steps ``first`` to ``last``; a function of (seed, step) like those of clips.

    Args:
        cache: the latents; of data with buckets one for each, and every batch is of one of them.
        batch_size: clips a step and process, one number for all buckets or one for each.
        seed: of their order, and of which cells of them a step trains on.
        first: step.
        last: step, exclusive.
        windows: as in :class:`Recipe`, and so ``images``.
        images: likewise.
        rank: of this process.
        ranks: how many there are.
        parts: as in :class:`vidgen.data.batches.BatchOrder`.
    """

    def __init__(
        self,
        cache: LatentCache | Sequence[LatentCache],
        *,
        batch_size: int | Sequence[int],
        seed: int,
        first: int,
        last: int,
        windows: float = 0.0,
        images: float = 0.0,
        rank: int = 0,
        ranks: int = 1,
        parts: int = 1,
    ) -> None:
        self.caches, self.seed = [cache] if isinstance(cache, LatentCache) else list(cache), seed
        self.batch_sizes = for_each(batch_size, self.caches)
        self.first, self.last, self.rank, self.ranks, self.parts = first, last, rank, ranks, parts
        self.windows, self.images = windows, images

    def __iter__(self) -> Iterator[tuple[Latent, Condition]]:
        order = BatchOrder([len(cache) for cache in self.caches], self.batch_sizes, self.seed, self.ranks, self.parts)
        for step in range(self.first, self.last):
            bucket, places = order(step, self.rank)
            cache = self.caches[bucket]
            latent, told = cache.read([item for item, _ in places])
            spec, cells = cache.spec, cache.spec.cells(cache.num_frames)
            part = training_cells(spec, cells, self.seed, step, windows=self.windows, images=self.images)
            if part != (0, cells):
                latent = latent.cells(*part)
                told = told.window(slice(spec.frames(part[0]), spec.frames(part[1])))
            yield latent, told


def _parts(batch: tuple[Any, ...], count: int) -> Iterator[tuple[Any, ...]]:
    """``count`` equal parts of a batch, of what can be cut along its first axis."""
    size = len(batch[0]) // count
    for begin in range(0, size * count, size):
        yield tuple(value[begin : begin + size] for value in batch)


def recipe_from(config: Mapping[str, Any]) -> Recipe:
    """The ``training`` block of a part's config as a :class:`Recipe`."""
    values = dict(config["training"])
    values |= {name: tuple(values[name]) for name in ("betas", "no_decay") if name in values}
    return Recipe(**values)


def tokenizer_task(model: nn.Module, config: Mapping[str, Any], seed: int, data: Data) -> TokenizerTask:
    """The training of ``model`` as its recipe ``config`` says: ``training``, ``perceptual`` and ``adversary``.

    Raises:
        UserError: where one of them cannot be built.
    """
    perceptual, adversary = config.get("perceptual", {"name": "none"}), config.get("adversary", {"name": "none"})
    distance = build_perceptual(perceptual)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, "adversary"))
        critic = Adversary.of(adversary)
    return TokenizerTask(
        model,
        recipe_from(config),
        seed,
        data,
        perceptual=None if distance is None else (distance, perceptual["weight"]),
        adversary=critic,
    )
