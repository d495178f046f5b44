"""Protocols: what is in their hash and what is not, and that figures of two never meet."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from vidgen import UserError
from vidgen.config import load, preset_names
from vidgen.evaluation.protocol import Protocol, differences, one_protocol, preset

PRESETS = preset_names("protocol")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_protocol_with_a_label_of_its_own(name: str) -> None:
    protocol = preset(name)
    assert protocol.label == f"{name}@{protocol.hash}"
    assert Protocol.from_dict(json.loads(json.dumps(protocol.to_dict()))) == protocol
    assert Protocol.from_dict(json.loads(json.dumps(protocol.to_dict()))).hash == protocol.hash


def test_no_two_presets_have_one_hash() -> None:
    assert len({preset(name).hash for name in PRESETS}) == len(PRESETS)


def test_latte_differs_from_styleganv_by_the_stride_of_real_clips_alone() -> None:
    assert differences(preset("ucf101-uncond-styleganv"), preset("ucf101-latte")) == ["data.stride (1 and 3)"]


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"stride": 2}},
        {"data": {"seed": 1}},
        {"data": {"count": 100}},
        {"data": {"clip": "first"}},
        {"data": {"crop": "squash"}},
        {"metric": {"ddof": 0}},
        {"metric": {"measures": ["frechet"]}},
        {"metric": {"extractor": "i3d-tats"}},
        {"metric": {"chunk": 256}},
    ],
)
def test_whatever_changes_a_figure_changes_the_hash_and_is_named(change: dict) -> None:
    usual, other = preset("worlds"), preset("worlds", change)
    ((group, values),) = change.items()
    (option,) = values
    assert usual.hash != other.hash
    assert other.label == f"worlds+@{other.hash}"
    assert any(line.startswith(f"{group}.{option}") for line in differences(usual, other))
    with pytest.raises(UserError, match=rf"of worlds@{usual.hash} and of worlds\+@{other.hash}, which differ in {group}"):
        one_protocol([usual, usual, other], "The table")


def test_words_for_people_are_not_hashed() -> None:
    usual = preset("worlds")
    assert preset("worlds", {"data": {"reference": "something else"}}).hash == usual.hash
    assert replace(usual, name="another").hash == usual.hash


def test_the_weights_of_the_extractor_are_hashed() -> None:
    usual = preset("worlds")
    one, other = (usual.with_extractor({"name": "i3d", "sha256": digest}) for digest in ("aa", "bb"))
    assert len({usual.hash, one.hash, other.hash}) == 3
    assert differences(one, other) == ["metric.extractor.sha256 (aa and bb)"]
    assert one_protocol([one, usual.with_extractor({"sha256": "aa", "name": "i3d"})], "The table") is one


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"data": {"clip": "randm"}},
            "protocol.data.clip is one of first, center, random, repeated, all, every, whole, and randm is not. Did you mean",
        ),
        ({"data": {"stride": 0}}, "protocol.data.stride=0 makes no clip"),
        ({"data": {"count": -1}}, "protocol.data.count=-1 makes no clip"),
        ({"data": {"fake_count": 0}}, "protocol.data.fake_count=0 makes no clip"),
        ({"data": {"height": 0, "width": 0}}, "protocol.data.height=0 makes no clip"),
        ({"data": {"height": 8, "width": -3}}, "protocol.data.width=-3 makes no clip"),
        ({"data": {"fps": 0.0}}, "protocol.data.fps=0 is no frame rate"),
        ({"data": {"fps": float("inf")}}, "protocol.data.fps=inf is no frame rate"),
        (
            {"data": {"split": "tset"}},
            "protocol.data.split is one of all, train, val, test, and tset is not. Did you mean 'test'?",
        ),
        ({"data": {"context": -1}}, "protocol.data.context=-1 of protocol.data.frames=17 leaves no frame that was generated"),
        ({"data": {"context": 17}}, "give a whole number from 0 to 16"),
        ({"data": {"context": 1, "clip": "whole"}}, "protocol.data.context needs clips of one length"),
        ({"metric": {"measures": []}}, "protocol.metric.measures names none"),
        ({"metric": {"chunk": 0}}, "protocol.metric.chunk=0 has no covariance"),
        ({"metric": {"ddof": 2}}, "protocol.metric.ddof=2 is no divisor"),
        ({"metric": {"measures": ["frechett"]}}, "Did you mean 'frechet'?"),
        ({"data": {"strid": 1}}, "Did you mean 'stride'?"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(change: dict, sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        preset("worlds", change)
    assert sentence in str(raised.value)


def test_what_goes_on_until_there_are_enough_needs_to_know_how_many() -> None:
    with pytest.raises(UserError, match=r"protocol.data.clip=repeated goes on until there are enough: give protocol.data.count"):
        preset("clips", {"data": {"clip": "repeated"}})


UCF = {"height": 128, "width": 128, "crop": "center", "stride": 1, "fake_stride": 1}
PUBLISHED = {
    # split, frames, clip, N real, N fake, divisor N - ddof, resize of the extractor, its rounding, and what else is particular
    "ucf101-uncond-styleganv": ("all", 16, "random", 2048, 2048, 0, "torch", "round", {"height": 256, "width": 256, "stride": 1}),
    "ucf101-latte": ("all", 16, "random", 2048, 2048, 0, "torch", "round", {"height": 256, "stride": 3, "fake_stride": 1}),
    "ucf101-class-128": ("train", 16, "random", 2048, 2048, 1, "torch", "truncate", UCF),
    "ucf101-class-128-magvit": ("train", 16, "repeated", 10000, 10000, 1, "tf1", "none", UCF),
    "ucf101-larp": ("train", 16, "all", 10000, 10000, 0, "torch", "none", UCF),
    "ucf101-rfvd": ("test", 17, "random", 3783, 3783, 1, "torch", "truncate", {**UCF, "height": 256, "width": 256}),
    "k600-prediction": ("val", 16, "random", 50000, 50000, 1, "tf1", "none", {"height": 64, "context": 5}),
    "bair-prediction": ("test", 16, "first", 256, 25600, 1, "tf1", "none", {"height": 64, "context": 1}),
    "bair-prediction-debiased": ("test", 16, "every", 256 * 15, 25600, 1, "tf1", "none", {"height": 64, "context": 1}),
    "prediction-256": ("test", 30, "first", 256, 256, 0, "torch", "round", {"height": 64, "context": 10}),
    "sky-styleganv": ("train", 16, "random", 2048, 2048, 0, "torch", "round", {"height": 256}),
    "teco-dmlab": ("test", 300, "first", None, None, 1, "torch", "none", {"height": 64, "context": 36}),
    "tokenbench": ("all", 300, "whole", None, None, 1, "crop", "none", {"height": None, "fps": None}),
    "vidtok-mcl-jcv": ("all", 17, "first", None, None, None, None, None, {"height": 256, "width": 256, "fps": 30.0}),
}
PAIRED = {
    "teco-dmlab": ["psnr", "ssim", "lpips_alex", "frechet"],
    "tokenbench": ["psnr_video", "ssim_uniform", "lpips_vgg", "frechet"],
    "vidtok-mcl-jcv": ["psnr", "ssim", "lpips_vgg"],
    "ucf101-class-128": ["frechet", "kvd"],
    "ucf101-rfvd": ["psnr", "ssim", "frechet"],
    "prediction-256": ["psnr", "ssim", "frechet"],
}
"""Of the others the Frechet distance alone."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_protocol_is_what_was_published(name: str) -> None:
    split, frames, clip, count, fake_count, ddof, resize, quantise, more = PUBLISHED[name]
    found = preset(name)
    data, metric = found.data, found.metric
    assert (data.split, data.frames, data.clip, data.count, data.fake_count) == (split, frames, clip, count, fake_count)
    assert {option: getattr(data, option) for option in more} == more
    assert list(metric.measures) == PAIRED.get(name, ["frechet"])
    assert metric.chunk == (256 if name == "teco-dmlab" else None)
    if ddof is not None:
        extractor = load("extractor", str(metric.extractor))
        assert (metric.ddof, extractor["resize"], extractor["quantise"]) == (ddof, resize, quantise)
        assert extractor["name"] == "i3d"
        eps = {"torch": {"truncate": 1e-5}}.get(resize, {}).get(quantise, 1e-3)  # of TATS' conversion, which cuts off
        assert extractor["bn_eps"] == eps


def test_every_published_protocol_is_held_to_its_source() -> None:
    assert set(PRESETS) == {*PUBLISHED, "clips", "reconstruction", "run", "worlds"}
