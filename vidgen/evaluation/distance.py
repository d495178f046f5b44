"""How far a run's reconstructions and samples are from unseen clips, in the features of the embedded extractor: motion-FD.

And how near samples are to training clips by the measure of unseen ones, in the same features: what is copied.

It is no FVD, and never called that: the extractor is small, of our own, and trained on the worlds. A distance in its features
compares with others by the same protocol, whose hash every figure carries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidgen.data.batches import eval_batches, to_video
from vidgen.data.folder import Folder
from vidgen.errors import UserError
from vidgen.evaluation.further import set_figures, shown
from vidgen.evaluation.measure import Result
from vidgen.evaluation.protocol import preset
from vidgen.extractors.motion import Motion
from vidgen.latents import Shape
from vidgen.metrics.frechet import frechet
from vidgen.metrics.legality import wilson
from vidgen.metrics.memorisation import CLOSE, memorisation
from vidgen.metrics.statistics import interval_95
from vidgen.protocols import Data

BATCH = 64
SEARCHED = 8
"""Training clips that are searched for copies, for each sample: the first ones, so that copies of later ones are not found."""


class Distances:
    """Features of originals, of reconstructions, of samples and of training clips, and the distances between them.

    Args:
        folder: the run; what was seen of originals and reconstructions is kept there for the samples that come later.
        shape: (T, H, W) of the clips.
        device: of the extractor.
    """

    def __init__(self, folder: Path, shape: Shape, device: torch.device) -> None:
        self.path = folder / "features.npz"
        self.extractor = Motion().to(device)
        self.possible = shape[0] >= self.extractor.min_frames
        size = {"frames": shape[0], "height": shape[1], "width": shape[2]}
        self.protocol = preset("run", {"data": size}).with_extractor(self.extractor.rule)
        self.device = device
        self.seen: dict[str, list[torch.Tensor]] = {}

    def see(self, subject: str, pixels: np.ndarray) -> None:
        """Takes in uint8 clips (B, T, H, W, 3) of ``originals``, ``reconstructions`` or ``samples``; none that are too short."""
        if self.possible:
            for some in torch.from_numpy(pixels).split(BATCH):
                self.seen.setdefault(subject, []).append(self.extractor(to_video(some.to(self.device))).cpu())

    def see_training(self, data: Data, most: int) -> None:
        """Takes in the first training clips as they are, ``most`` at most and :data:`SEARCHED` for each sample seen."""
        plain = data.plain() if isinstance(data, Folder) else data
        count = min(most, SEARCHED * sum(map(len, self.seen.get("samples", ()))))
        for batch in eval_batches(plain, "train", count, BATCH):
            self.see("training", batch["video"].numpy())

    def of_reconstructions(self) -> list[Result]:
        """Their distance from their originals; both are kept for the samples."""
        if not self.possible:
            return []
        originals, again = (torch.cat(self.seen[name]) for name in ("originals", "reconstructions"))
        np.savez(self.path, originals=originals.numpy(), reconstructions=again.numpy())
        return self._results("reconstruction/motion_fd", again, originals)

    def of_samples(self) -> list[Result]:
        """Their distance from unseen clips and from the tokenizer's reconstructions of these, and how many are copies."""
        if not self.possible or not self.path.is_file():
            return []
        originals, again = self._kept()
        samples = torch.cat(self.seen["samples"])
        return [
            *self._results("samples/motion_fd", samples, originals),
            *self._results("samples/motion_fd_reconstructions", samples, again)[:1],
            *self._copies(samples, originals),
        ]

    def by(self, name: str, recipe: Mapping[str, Any]) -> list[Result]:
        """What a further measure of sets says of the samples against unseen clips.

        Raises:
            UserError: where clips are too short for the extractor or too few for the measure.
        """
        if not self.possible or not self.path.is_file():
            raise UserError(f"the embedded extractor needs clips of {self.extractor.min_frames} frames or more.")
        originals, _ = self._kept()
        samples = torch.cat(self.seen["samples"])
        metric = replace(self.protocol.metric, measures={name: recipe})
        rule = f"{replace(self.protocol, metric=metric).label}, {len(originals)} real clips"
        figures, _ = set_figures(name, shown(recipe, samples, originals))
        return [
            Result(
                name=f"samples/{name}" if one.name == name else f"samples/{name}_{one.name}",
                value=one.value,
                n=len(samples),
                interval=one.interval,
                protocol=rule,
            )
            for one in figures
        ]

    def _kept(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The features of originals and of reconstructions."""
        with np.load(self.path, allow_pickle=False) as kept:
            return torch.from_numpy(kept["originals"]), torch.from_numpy(kept["reconstructions"])

    def _copies(self, samples: torch.Tensor, originals: torch.Tensor) -> list[Result]:
        """The share of samples nearer to a training clip than nearly all unseen clips are."""
        if "training" not in self.seen or min(len(samples), len(originals)) < 2:
            return []
        training = torch.cat(self.seen["training"])
        if len(training) < 2:
            return []
        share, n = memorisation(samples, training, originals).close, len(samples)
        rule = (
            f"nearer to one of {len(training)} training clips than {1 - CLOSE:.0%} of {len(originals)} unseen clips are, motion"
        )
        return [Result(name="samples/memorised", value=share, n=n, interval=wilson(round(share * n), n), protocol=rule)]

    def _results(self, name: str, fakes: torch.Tensor, reals: torch.Tensor) -> list[Result]:
        """The distance with its interval, and what it would be of sets without end."""
        if min(len(fakes), len(reals)) < 2:
            return []
        found = frechet(fakes, reals)
        figures = {
            name: (found.value, found.standard_error),
            f"{name}_extrapolated": (found.extrapolated, found.extrapolated_error),
        }
        rule = f"{self.protocol.label}, {len(reals)} real clips"
        return [
            Result(
                name=key,
                value=value,
                n=len(fakes),
                protocol=rule,
                interval=interval_95(value, error),
            )
            for key, (value, error) in figures.items()
            if value is not None
        ]
