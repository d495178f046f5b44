import math

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from vidgen.errors import UserError
from vidgen.metrics.psnr import PSNR, psnr
from vidgen.metrics.region_psnr import RegionPSNR, foreground, region_psnr
from vidgen.metrics.ssim import SSIM, ssim
from vidgen.metrics.statistics import NORMAL_95


def pair(*shape: int, noise: float = 0.1, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    real = torch.rand(*shape, generator=generator) * 2 - 1
    return (real + noise * torch.randn(*shape, generator=generator)).clamp(-1, 1), real


def frames(video: torch.Tensor) -> torch.Tensor:
    """(B, C, T, H, W) in [-1, 1] -> (B * T, C, H, W) in [0, 1], float64: the oracle's layout."""
    return video.double().transpose(1, 2).flatten(0, 1) / 2 + 0.5


def test_psnr_of_a_constant_difference_is_its_closed_form():
    real = torch.zeros(2, 3, 4, 5, 6, dtype=torch.float64)
    for difference in (0.5, 2 / 255, 0.01):
        expected = 20 * math.log10(2 / difference)
        torch.testing.assert_close(psnr(real + difference, real), torch.full((2, 4), expected, dtype=torch.float64))


def test_psnr_is_that_of_unrounded_8_bit_values():
    video, real = pair(2, 3, 4, 9, 7)
    error = ((frames(video) - frames(real)) * 255).square().flatten(1).mean(1)
    torch.testing.assert_close(psnr(video, real).flatten(), 10 * torch.log10(255**2 / error))


def test_psnr_agrees_with_torchmetrics_frame_by_frame():
    video, real = pair(2, 3, 4, 9, 7)
    for ours, a, b in zip(psnr(video, real).flatten(), frames(video), frames(real), strict=True):
        torch.testing.assert_close(ours, peak_signal_noise_ratio(a, b, data_range=1.0).double(), rtol=1e-6, atol=0)


def test_mean_psnr_is_not_the_psnr_of_the_mean_error():
    real = torch.zeros(1, 3, 2, 4, 4)
    video = real.clone()
    video[:, :, 0] += 0.02
    video[:, :, 1] += 0.2
    metric = PSNR()
    metric.update(video, real)
    assert metric.compute().item() == pytest.approx((40 + 20) / 2, abs=1e-4)


def test_equal_frames_count_as_100_db_and_are_counted():
    video, real = pair(1, 3, 4, 8, 8)
    video[:, :, 2] = real[:, :, 2]
    metric = PSNR()
    metric.update(video, real)
    scores = psnr(video, real)
    assert scores[0, 2] == 100
    assert metric.capped == 1
    assert metric.compute().isfinite()
    assert metric.compute() == scores.mean()


@pytest.mark.parametrize("score", [psnr, ssim])
def test_values_outside_the_range_are_clipped(score):
    video, real = pair(1, 3, 2, 12, 12)
    torch.testing.assert_close(score(video * 3, real), score((video * 3).clamp(-1, 1), real), rtol=0, atol=0)


def test_low_precision_input_is_scored_in_float64():
    video, real = pair(1, 3, 2, 12, 12)
    video, real = video.bfloat16(), real.bfloat16()
    assert psnr(video, real).dtype == ssim(video, real).dtype == torch.float64
    torch.testing.assert_close(psnr(video, real), psnr(video.double(), real.double()), rtol=0, atol=0)


def test_region_psnr_sees_only_the_region():
    real = torch.zeros(1, 3, 3, 8, 8)
    video = real + 0.02
    mask = torch.zeros(1, 3, 8, 8, dtype=torch.bool)
    mask[:, 0, 2:4, 2:4] = True
    mask[:, 1] = True
    video[:, :, 0, 2:4, 2:4] = 0.2
    scores = region_psnr(video, real, mask)
    assert scores[0, 0].item() == pytest.approx(20, abs=1e-4)
    assert scores[0, 1].item() == psnr(video, real)[0, 1].item()
    assert scores[0, 2].isnan()  # nothing to see in this frame

    metric = RegionPSNR()
    metric.update(video, real, mask)
    assert metric.frames == 2
    assert metric.compute().item() == pytest.approx((20 + 40) / 2, abs=1e-4)


def test_foreground_is_where_the_picture_leaves_the_ground():
    ground = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1, 1)
    real = ground.expand(1, 3, 2, 6, 6).clone()
    real += 0.9 / 255  # rounding is not an object
    real[0, 1, 1, 2, 3] += 3 / 255  # a single channel is enough
    mask = foreground(real, ground)
    assert mask.shape == (1, 2, 6, 6)
    assert mask.nonzero().tolist() == [[0, 1, 2, 3]]


def test_ssim_of_constant_frames_is_its_closed_form():
    a, b, c1 = 0.2, 0.6, (0.01 * 1) ** 2  # brightness in [0, 1]
    real = torch.full((1, 3, 2, 12, 13), a * 2 - 1, dtype=torch.float64)
    video = torch.full_like(real, b * 2 - 1)
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    torch.testing.assert_close(ssim(video, real), torch.full((1, 2), expected, dtype=torch.float64))
    torch.testing.assert_close(ssim(real, real), torch.ones(1, 2, dtype=torch.float64))


def ssim_by_loops(x: torch.Tensor, y: torch.Tensor) -> float:
    """One frame (C, H, W) in [0, 255]: the definition, window by window."""
    line = [math.exp(-((i - 5) ** 2) / (2 * 1.5**2)) for i in range(11)]
    window = torch.tensor([[a * b for a in line] for b in line], dtype=torch.float64)
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    scores = []
    for channel in range(x.shape[0]):
        for top in range(x.shape[1] - 10):
            for left in range(x.shape[2] - 10):
                p, q = (v[channel, top : top + 11, left : left + 11] for v in (x, y))
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                covariance = (window * (p - mp) * (q - mq)).sum()
                scores.append((2 * mp * mq + c1) * (2 * covariance + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return torch.stack(scores).mean().item()


def test_ssim_equals_its_definition_by_loops():
    video, real = pair(1, 3, 2, 13, 15, noise=0.3)
    expected = [ssim_by_loops(a * 255, b * 255) for a, b in zip(frames(video), frames(real), strict=True)]
    assert ssim(video, real).flatten().tolist() == pytest.approx(expected, rel=1e-10)


def test_ssim_agrees_with_torchmetrics_inside_the_frame():
    video, real = pair(2, 3, 2, 24, 20)
    # torchmetrics pads its windows by reflection; away from the border no window sees the padding.
    _, full = structural_similarity_index_measure(
        frames(video), frames(real), data_range=1.0, kernel_size=11, sigma=1.5, return_full_image=True
    )
    torch.testing.assert_close(ssim(video, real).flatten(), full[..., 5:-5, 5:-5].mean(dim=(1, 2, 3)))


def test_ssim_names_the_smallest_frame():
    video, real = pair(1, 3, 2, 10, 32)
    with pytest.raises(UserError, match=r"at least 11x11 pixels and these are 10x32"):
        ssim(video, real)
    video, real = pair(1, 3, 2, SSIM.SMALLEST, SSIM.SMALLEST)
    assert ssim(video, real).shape == (1, 2)


@pytest.mark.parametrize("score", [psnr, ssim])
def test_shapes_that_differ_are_refused(score):
    video, real = pair(1, 3, 2, 12, 12)
    with pytest.raises(ValueError, match="one shape"):
        score(video[:, :, :1], real)  # would broadcast
    with pytest.raises(ValueError, match="one shape"):
        score(video[0], real[0])


@pytest.mark.parametrize("metric_class", [PSNR, SSIM])
def test_batches_and_ranks_do_not_matter(metric_class):
    video, real = pair(7, 3, 3, 12, 14)
    whole = metric_class()
    whole.update(video, real)
    split = metric_class()
    for part in ((0, 1), (1, 5), (5, 7)):
        split.update(video[slice(*part)], real[slice(*part)])
    ranks = [metric_class(), metric_class()]
    ranks[0].update(video[:3], real[:3])
    ranks[1].update(video[3:], real[3:])
    ranks[0].merge_state(ranks[1])
    score = {"PSNR": psnr, "SSIM": ssim}[metric_class.__name__](video, real)
    for metric in (whole, split, ranks[0]):
        assert metric.compute().item() == pytest.approx(score.mean().item(), rel=1e-13)
        assert metric.compute().dtype == torch.float64
        assert metric.interval() == pytest.approx(whole.interval(), rel=1e-9)
    assert whole.higher_is_better


def test_interval_is_the_normal_one_over_clips():
    scores = []
    metric = PSNR()
    for seed in range(6):
        video, real = pair(1, 3, 3, 6, 6, noise=0.02 + 0.03 * seed, seed=seed)
        metric.update(video, real)
        scores.append(psnr(video, real).mean())
    mean = torch.stack(scores)
    half = NORMAL_95 * mean.std().item() / math.sqrt(6)  # equally long clips: the plain standard error of their means
    assert metric.interval() == pytest.approx((mean.mean().item() - half, mean.mean().item() + half))


def test_one_clip_has_no_interval():
    metric = SSIM()
    metric.update(*pair(1, 3, 5, 12, 12))
    assert metric.interval() is None
