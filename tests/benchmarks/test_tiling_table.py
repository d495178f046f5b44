"""What tiles cost: figures against their definitions on a small tokenizer, and the table that shows them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import part_tables
import pytest
import tiling
import tiny
import torch
from tiling import Seam

from vidgen import hub
from vidgen.tokenizers.tiling import decode_tiled, encode_tiled


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Seam]:
    monkeypatch.setattr(tiling, "TILE", (6, 6))
    monkeypatch.setattr(tiling, "OVERLAPS", ((0, 0), (5, 2)))
    tokenizer = tiny.stirred(hub.build_tokenizer(tiny.pair_config("lfq", "axial"))).eval()
    video = tiny.video((5, 40, 40))
    found = list(tiling.seams("axial", tokenizer, video))
    whole, again = tokenizer.encode(video), tokenizer.decode(tokenizer.encode(video)).clamp(-1, 1)
    for seam in found:
        tiles = {"tile": (6, 6), "overlap": seam.overlap, "halo": seam.halo}
        latent = encode_tiled(tokenizer, video, **tiles)
        assert seam.ids == (latent.ids != whole.ids).any(-1).double().mean()
        off = 127.5 * (decode_tiled(tokenizer, whole, **tiles) - tokenizer.decode(whole)).abs()
        assert (seam.decode_mean, seam.decode_max) == pytest.approx((float(off.mean()), float(off.max())))
        error = (decode_tiled(tokenizer, latent, **tiles).clamp(-1, 1) - video).square().mean() / 4
        assert seam.psnr == pytest.approx(float(-10 * error.log10()))
        assert seam.psnr_whole == pytest.approx(float(-10 * ((again - video).square().mean() / 4).log10()))
    return found


def test_overlap_makes_less_of_a_seam(found: list[Seam]) -> None:
    first, second = found
    assert 0 < second.decode_mean < first.decode_mean
    assert second.ids < first.ids


def test_the_frames_are_larger_than_a_tile_and_have_many_objects() -> None:
    video = tiling.large()
    assert video.shape == (8, 3, 9, 128, 128)
    assert len(torch.unique(video[0, :, 0].flatten(1), dim=1).T) > 8


def test_the_table_shows_the_last_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "RESULTS", tmp_path / "tiling.jsonl")
    assert part_tables.tiles() == "Not run yet: `python benchmarks/tiling.py`."
    seam = Seam(backbone="vit", overlap=4, halo=2, ids=0.5, decode_mean=1.0, decode_max=20.0, psnr=30.125, psnr_whole=31.0)
    about = {"commit": "0123456789ab", "hardware": {"cpu": "A processor", "cores": 2, "gpu": None}, "versions": {"torch": "2.9"}}
    lines = [{**asdict(seam), "psnr": psnr, **about} for psnr in (10.0, 30.125)]
    tiling.RESULTS.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = part_tables.tiles()
    assert "| `vit` | 4 | 2 | 50 | 1 | 20 | 30.12 | 31.00 |" in text
    assert "10.00" not in text
    assert "Measured at `0123456789ab`." in text
