"""Count, mean and scatter of features, batch by batch and rank by rank, in memory that does not grow with their number.

Sums of squares lose all digits where the mean is large beside the spread (in float32 the variance of features of mean 100 and
deviation .01 comes out hundreds of times wrong), so what is kept is the scatter about the mean, in float64, and two sets are
merged by the formula of Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance" (1983).
"""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, distributed

from vidgen.errors import UserError, first_line
from vidgen.files import replacing
from vidgen.nn.parallel import world_size

VERSION = 1
"""Of the files: one of another version is refused."""


NORMAL_95 = 1.959963984540054
"""Standard deviations to either side of a normal law's mean within which 95 % of it lies."""


def interval_95(value: float, error: float | None) -> tuple[float, float] | None:
    """A value's 95 % interval by its standard error; None where there is no error."""
    return None if error is None else (value - NORMAL_95 * error, value + NORMAL_95 * error)


class FeatureStats:
    """Statistics of rows of features: neither the batches, nor their order, nor who saw which row makes a difference.

    Attributes:
        n: how many rows.
        mean: (d,) float64; empty before the first row.
        scatter: (d, d) float64, the sum over rows of (row - mean) (row - mean)^T.

    Args:
        device: where the statistics are kept; features are brought there.
    """

    def __init__(self, *, device: torch.device | str = "cpu") -> None:
        self.n = 0
        self.mean = torch.zeros(0, dtype=torch.float64, device=device)
        self.scatter = self.mean.new_zeros(0, 0)

    @property
    def dim(self) -> int:
        """Of the features; 0 before the first row."""
        return len(self.mean)

    def update(self, features: Tensor, valid: Tensor | None = None) -> None:
        """Take in rows (B, d).

        Args:
            features: of any floating dtype.
            valid: (B,) which of them count; all where it is left out. :func:`not_padding` knows it of a sampler's.

        Raises:
            UserError: where they are no rows of finite numbers, or of another dimension than those before.
        """
        features = check_features(features if valid is None else features[valid.to(features.device)])
        if not len(features):
            return
        rows = features.to(self.mean)
        batch = FeatureStats(device=rows.device)
        batch.n, batch.mean = len(rows), rows.mean(dim=0)
        rows = rows - batch.mean
        batch.scatter = rows.T @ rows
        self.merge(batch)

    def merge(self, other: FeatureStats) -> None:
        """Take in what another one saw. Raises UserError where its features are of another dimension."""
        if not other.n:
            return
        if not self.n:
            self.mean, self.scatter = self.mean.new_zeros(other.dim), self.mean.new_zeros(other.dim, other.dim)
        if self.dim != other.dim:
            raise UserError(
                f"Features of {other.dim} numbers cannot join those of {self.dim}: take all of them with one extractor."
            )
        total = self.n + other.n
        delta = other.mean.to(self.mean) - self.mean
        self.scatter += other.scatter.to(self.mean)
        self.scatter.addr_(delta, delta, alpha=self.n * other.n / total)
        self.mean += delta * (other.n / total)
        self.n = total

    def all_reduce(self, dim: int, group: distributed.ProcessGroup | None = None) -> None:
        """Make it the statistics of all processes, on each of them; nothing to do for one alone.

        One sum carries everything: the scatters add up, and counts and means, a row of a table for each process, say how much the
        means' own scatter adds. A process may have seen nothing.

        Args:
            dim: of the features, which a process that has seen nothing does not know by itself: the extractor's ``dim``.
            group: of processes.

        Raises:
            UserError: on every process, where one of them has features of another dimension.
        """
        if world_size() == 1:
            return
        other = self.n > 0 and self.dim != dim
        ranks, rank = distributed.get_world_size(group), distributed.get_rank(group)
        table = self.mean.new_zeros(ranks, dim + 1)
        scatter = self.scatter if self.n and not other else self.mean.new_zeros(dim, dim)
        if other:
            table[rank, 0] = torch.nan  # which tells all processes, so that none waits for one that has stopped
        elif self.n:
            table[rank, 0], table[rank, 1:] = self.n, self.mean
        packed = torch.cat((table.flatten(), scatter.flatten()))
        distributed.all_reduce(packed, group=group)
        table, scatter = packed[: table.numel()].view_as(table), packed[table.numel() :].view(dim, dim)
        counts, means = table[:, :1], table[:, 1:]
        if counts.isnan().any():
            raise UserError(f"Some processes have no features of {dim} numbers but others: take all of them with one extractor.")
        if not counts.any():
            return
        self.n = int(counts.sum())
        self.mean = (counts * means).sum(dim=0) / self.n
        apart = means - self.mean
        self.scatter = scatter + apart.T @ (counts * apart)

    def covariance(self, ddof: int = 1) -> Tensor:
        """(d, d), the scatter over n - ``ddof``. Raises UserError for fewer than two rows, which have none."""
        if self.n < 2:
            raise UserError(f"A covariance needs at least 2 clips and there is {self.n or 'none'}: give more clips.")
        return self.scatter / (self.n - ddof)

    def packed(self) -> Tensor:
        """All of it as one (d + 1, d + 1): the count and the mean before the scatter. :meth:`unpacked` takes it."""
        head = torch.cat((self.mean.new_tensor([self.n]), self.mean))
        return torch.cat((head[None], torch.cat((self.mean[:, None], self.scatter), dim=1)))

    @classmethod
    def unpacked(cls, packed: Tensor) -> FeatureStats:
        """The statistics of which ``packed`` is :meth:`packed`."""
        stats = cls(device=packed.device)
        stats.n, stats.mean, stats.scatter = int(packed[0, 0]), packed[0, 1:].clone(), packed[1:, 1:].clone()
        return stats

    def save(self, path: Path | str, key: str) -> None:
        """Write an npz file; a kill leaves the one that was there.

        Args:
            path: of the file.
            key: says what these statistics are of, such as a hash of the clips and of the extractor's rule: :meth:`load` is asked
                for it.
        """
        mean, scatter = self.mean.cpu().numpy(), self.scatter.cpu().numpy()
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez(file, version=VERSION, key=key, n=self.n, mean=mean, scatter=scatter)

    @classmethod
    def load(cls, path: Path | str, key: str, *, device: torch.device | str = "cpu") -> FeatureStats:
        """Read what :meth:`save` wrote. Nothing in the file can name code to run.

        Raises:
            UserError: where the file is missing, broken, of another version, or of another ``key``.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
            version, kept, n = int(found["version"]), str(found["key"]), int(found["n"])
            mean, scatter = found["mean"], found["scatter"]
        except FileNotFoundError as error:
            raise UserError(f"There are no statistics at {path}: take them of the clips first.") from error
        except (OSError, ValueError, TypeError, KeyError, EOFError, AttributeError, BadZipFile) as error:
            raise UserError(f"{path} does not hold statistics of features ({first_line(error)}): take them anew.") from error
        if version != VERSION:
            raise UserError(f"The statistics at {path} are of version {version} and not {VERSION}: take them anew.")
        if kept != key:
            raise UserError(
                f"The statistics at {path} are of '{kept}' and not of '{key}': take them anew, or name the other file."
            )
        if not mean.dtype == scatter.dtype == np.float64 or scatter.shape != (*mean.shape, *mean.shape):
            raise UserError(f"The mean and the scatter at {path} do not fit each other: take the statistics anew.")
        stats = cls(device=device)
        stats.n, stats.mean, stats.scatter = n, torch.from_numpy(mean).to(device), torch.from_numpy(scatter).to(device)
        return stats


def not_padding(rows: int, *, first: int, total: int, rank: int = 0, ranks: int = 1) -> Tensor:
    """Which rows of a batch are items, and which a sampler's repeats to give all processes equally many: (rows,) of bool.

    torch's ``DistributedSampler`` deals items like cards, so that the k-th item of process r is at place r + k * ranks, whatever
    the order of the data; what lies at ``total`` and beyond is there a second time.

    Args:
        rows: of the batch.
        first: items that this process has seen before the batch.
        total: items in all, over all processes, without repeats.
        rank: of this process.
        ranks: processes.
    """
    return (first + torch.arange(rows)) * ranks + rank < total


def check_features(features: Tensor) -> Tensor:
    """``features`` as they are, if they are rows of finite numbers (N, d).

    Raises:
        UserError: saying what they are.
    """
    if features.ndim != 2 or not features.is_floating_point():
        raise UserError(
            f"Features are rows of floating-point numbers (N, d), one a clip, and not {features.dtype} of shape "
            f"{tuple(features.shape)}: give them in that form, or an extractor that makes them of videos."
        )
    broken = (~features.isfinite().all(dim=1)).nonzero().flatten()
    if len(broken):
        raise UserError(
            f"{len(broken)} of {len(features)} rows of features hold NaN or infinity, the first at row {int(broken[0])}: "
            "look at that clip and at what the extractor makes of it."
        )
    return features
