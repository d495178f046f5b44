"""Which copies of training clips are found: those of the clips that are searched, as the measure's words say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from vidgen.data.worlds import Worlds
from vidgen.evaluation.distance import SEARCHED, Distances
from vidgen.evaluation.rows import measure


def memorised(data: Worlds, folder: Path, first: int, count: int) -> tuple[float, str]:
    """The share of copies that is found where samples are the training clips from ``first`` on, with its rule."""
    distances = Distances(folder, data.shape, torch.device("cpu"))
    unseen = np.stack([data.clip("test", i)["video"] for i in range(20)])
    distances.see("originals", unseen)
    distances.see("reconstructions", unseen)
    distances.of_reconstructions()
    distances.see("samples", np.stack([data.clip("train", first + i)["video"] for i in range(count)]))
    distances.see_training(data, 4096)
    (found,) = (result for result in distances.of_samples() if result.name == "samples/memorised")
    return found.value, str(found.protocol)


def test_copies_are_found_among_the_clips_that_are_searched_and_not_beyond(tmp_path: Path) -> None:
    data, count = Worlds(frames=9), 4
    last = SEARCHED * count
    value, rule = memorised(data, tmp_path, last - count, count)
    assert value == 1
    assert f"one of {last} training clips" in rule
    assert memorised(data, tmp_path, last, count)[0] < 1
    assert "copies of later ones are not found" in measure("samples/memorised").meaning
