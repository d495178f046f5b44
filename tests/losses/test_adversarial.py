"""The adversarial game against closed forms: losses by hand, R1 and the adaptive weight at known slopes, LeCam by steps."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen import UserError, config
from vidgen.losses import adversarial
from vidgen.losses.adversarial import Adversary, LeCam, adaptive_weight, feature_matching, last_weight, r1
from vidgen.losses.discriminator import Discriminator, blur_pool

REAL, FAKE = [2.0, 0.25, -1.0], [-3.0, 0.5, 1.5, 0.0]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


LOGISTIC = -mean([math.log(sigmoid(x)) for x in REAL]) - mean([math.log(1 - sigmoid(x)) for x in FAKE])
BY_HAND = {
    "hinge": (mean([0.0, 0.75, 2.0]) + mean([0.0, 1.5, 2.5, 1.0]), -mean(FAKE)),
    "non_saturating": (LOGISTIC, -mean([math.log(sigmoid(x)) for x in FAKE])),
    "vanilla": (LOGISTIC, mean([math.log(1 - sigmoid(x)) for x in FAKE])),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_losses_by_hand(name: str) -> None:
    real, fake = torch.tensor(REAL, dtype=torch.float64), torch.tensor(FAKE, dtype=torch.float64)
    expected = BY_HAND[name]
    assert float(adversarial.DISCRIMINATOR[name](real, fake)) == pytest.approx(expected[0])
    assert float(adversarial.GENERATOR[name](fake)) == pytest.approx(expected[1])


@pytest.mark.parametrize("name", BY_HAND)
def test_the_two_sides_want_opposite_things(name: str) -> None:
    real, fake = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    up, down = torch.autograd.grad(-adversarial.DISCRIMINATOR[name](real, fake), [real, fake])
    (wanted,) = torch.autograd.grad(-adversarial.GENERATOR[name](fake), fake)
    assert (up > 0).all()
    assert (down < 0).all()
    assert (wanted > 0).all()


class Linear(nn.Module):
    """D(x) = <w, x>: its slope is w at every clip."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(shape))

    def forward(self, video: Tensor) -> tuple[Tensor, list[Tensor]]:
        return (video * self.w).flatten(1).sum(dim=1), []


def test_r1_of_a_linear_discriminator_is_the_square_of_its_weights_and_its_slope_twice_them() -> None:
    critic = Linear((3, 2, 4, 4))
    with torch.no_grad():
        penalty = r1(critic, torch.randn(5, 3, 2, 4, 4))
    assert float(penalty.detach()) == pytest.approx(float(critic.w.detach().square().sum()), rel=1e-5)
    penalty.backward()
    torch.testing.assert_close(critic.w.grad, 2 * critic.w.detach())


def test_r1_of_the_discriminator_against_finite_differences() -> None:
    critic, video = Discriminator(widths=[3, 4], strides=[(2, 2, 2)], time_kernel=3).double(), torch.randn(1, 3, 3, 4, 4)

    def judged(x: Tensor) -> tuple[Tensor, None]:
        return critic(x.double())[0], None

    slope = []
    for place in torch.eye(video.numel(), dtype=torch.float64).view(-1, *video.shape[1:]):
        up, down = (float(judged(video + sign * 0.05 * place)[0].detach().sum()) for sign in (1, -1))
        slope.append((up - down) / 0.1)
    assert float(r1(judged, video).detach()) == pytest.approx(sum(one**2 for one in slope), rel=0.1)


def test_lecam_by_hand_over_several_steps() -> None:
    decay, lecam = 0.8, LeCam(0.8)
    mean_real = mean_fake = 0.0
    for step in range(4):
        real, fake = [1.0 + step, -0.5], [0.3 * step, -2.0, 0.7]
        mean_real = decay * mean_real + (1 - decay) * mean(real)
        mean_fake = decay * mean_fake + (1 - decay) * mean(fake)
        expected = mean([max(0.0, x - mean_fake) ** 2 for x in real]) + mean([max(0.0, mean_real - x) ** 2 for x in fake])
        assert float(lecam(torch.tensor(real), torch.tensor(fake))) == pytest.approx(expected, rel=1e-5)
    assert lecam.state_dict()["average"].tolist() == pytest.approx([mean_real, mean_fake], rel=1e-5)


def test_feature_matching_is_the_mean_over_blocks_and_moves_only_the_fake() -> None:
    real = [torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([[5.0]], requires_grad=True)]
    fake = [torch.tensor([2.0, 4.0], requires_grad=True), torch.tensor([[4.0]], requires_grad=True)]
    found = feature_matching(real, fake)
    assert float(found.detach()) == pytest.approx((1.5 + 1.0) / 2)
    found.backward()
    assert all(x.grad is None for x in real)
    assert fake[1].grad.item() == -0.5


@pytest.mark.parametrize(("ours", "theirs", "expected"), [(3.0, 0.5, 6.0), (0.0, 1.0, 0.0), (5e3, 1e-9, 1e4)])
def test_the_adaptive_weight_is_the_known_ratio_clamped_and_without_gradient(ours: float, theirs: float, expected: float) -> None:
    """Losses linear in the weight, so that the norms of their slopes are the factors."""
    weight = torch.randn(2, 3, requires_grad=True)
    direction = F.normalize(torch.randn(2, 3), dim=(0, 1))
    losses = [(weight * direction * factor).sum() for factor in (ours, theirs)]
    found = adaptive_weight(losses[0], losses[1], weight)
    assert not found.requires_grad
    assert float(found) == pytest.approx(min(expected, 1e4), rel=1e-3, abs=1e-6)
    (losses[0] + losses[1]).backward()  # the graph is still there


@pytest.mark.parametrize("name", tiny.distinct("backbones"))
def test_the_last_weight_is_that_of_the_last_layer_that_ran(name: str) -> None:
    built, ran = tiny.pair("kl", name).train(), []
    for module in built.modules():
        if isinstance(getattr(module, "weight", None), Tensor) and module.weight.ndim >= 2:
            module.register_forward_hook(lambda module, inputs, output: ran.append(module.weight))
    reconstruction, _, _ = built(tiny.video(tiny.shape_of(built)))
    assert last_weight(reconstruction) is ran[-1]


@pytest.mark.parametrize("shape", [(1, 1, 1, 4, 4), (2, 3, 5, 6, 4), (1, 2, 4, 5, 7)], ids=str)
@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 2, 2), (1, 1, 1)], ids=str)
def test_blur_pool_is_a_binomial_filter_then_every_second_value(shape: tuple[int, ...], stride: tuple[int, int, int]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    expected = x
    for axis, step in enumerate(stride, start=2):
        if step == 2:
            ends = expected.shape[axis] - 1
            at = torch.arange(0, ends + 1, 2)
            near = [expected.index_select(axis, (at + offset).clamp(0, ends)) for offset in (-1, 0, 1)]
            expected = (near[0] + 2 * near[1] + near[2]) / 4
    torch.testing.assert_close(blur_pool(x, stride), expected)


@pytest.mark.parametrize("frames", [1, 4, 5])
def test_a_discriminator_takes_any_length(frames: int) -> None:
    critic = Discriminator(widths=[4, 6, 6], strides=[(1, 2, 2), (2, 2, 2)], time_kernel=3)
    logits, features = critic(torch.randn(2, 3, frames, 8, 12))
    assert logits.shape == (2, 1, -(-frames // 2), 2, 3)
    assert [feature.shape[1] for feature in features] == [6, 6]


def test_single_frames_are_judged_by_themselves() -> None:
    critic = Discriminator(widths=[4, 6], strides=[(1, 2, 2)], time_kernel=1)
    video = torch.randn(2, 3, 4, 8, 8)
    alone = torch.cat([critic(video[:, :, t : t + 1])[0] for t in range(4)], dim=2)
    torch.testing.assert_close(critic(video)[0], alone)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"widths": [4, 4, 4]}, "A discriminator has one more of widths than of strides"),
        ({"strides": [[3, 2, 2]]}, "A discriminator has one more of widths than of strides"),
        ({"time_kernel": 2}, "A discriminator has one more of widths than of strides"),
        ({"loss": "hing"}, "There is no adversarial loss called 'hing'. Did you mean 'hinge'?"),
        ({"r1_every": 0}, "An adversary's weights, start and lr are at least 0, its r1_every at least 1"),
        ({"lecam": -1.0}, "An adversary's weights, start and lr are at least 0"),
        ({"name": "patches"}, "There is no adversary called 'patches'. Did you mean 'patch'? There are: none, patch."),
    ],
)
def test_what_cannot_be_built_is_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        Adversary.of(tiny.ADVERSARY | changes)
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize("name", config.preset_names("tokenizer/adversary"))
def test_every_recipe_of_an_adversary_is_its_signature(name: str) -> None:
    recipe = config.load("tokenizer/adversary", name)
    with torch.device("meta"):
        built = Adversary.of(recipe)
    assert (built is None) == (name == "none")
    if built is not None:
        assert set(recipe) - {"name"} == set(inspect.signature(Adversary).parameters)
        assert Adversary.of(recipe | {"weight": 0.0}) is None


@pytest.mark.parametrize("name", tiny.trained())
def test_every_tokenizer_that_is_trained_can_be_given_an_adversary_and_a_perceptual_loss(name: str) -> None:
    recipe = config.load("tokenizer", name)
    assert recipe["adversary"]["name"] in ("none", "patch")
    assert recipe["perceptual"]["name"] in ("none", "gradients", "lpips")


def test_the_generator_s_part_leaves_the_discriminator_alone_and_the_other_way_round() -> None:
    critic = Adversary.of(tiny.ADVERSARY)
    layer = nn.Conv3d(3, 3, 3, padding=1)
    video = torch.randn(2, 3, 3, 8, 8)
    reconstruction = layer(video)
    total, scalars = critic.persuade(video, reconstruction, (reconstruction - video).square().mean())
    weights = (tiny.ADVERSARY["weight"] * scalars["adaptive_weight"], tiny.ADVERSARY["feature_matching"])
    expected = weights[0] * scalars["adversarial"] + weights[1] * scalars["feature_matching"]
    torch.testing.assert_close(total, expected)
    total.backward()
    assert all(weight.grad is None and weight.requires_grad for weight in critic.parameters())
    before = layer.weight.grad.clone()
    own, parts = critic.judge(video, reconstruction, 0)
    torch.testing.assert_close(own, parts["discriminator"] + 0.1 * parts["lecam"] + 2 * parts["r1"])
    own.backward()
    assert torch.equal(layer.weight.grad, before)
    assert all(weight.grad is not None for weight in critic.parameters())
    assert "r1" not in critic.judge(video, reconstruction, 1)[1]


def test_a_discriminator_learns_to_tell_what_can_be_told_apart() -> None:
    """Smooth videos from noise of the same mean and size, in a few steps."""
    torch.manual_seed(0)
    critic = Adversary.of(tiny.ADVERSARY | {"r1": 0.0})
    optimizer = torch.optim.AdamW(critic.parameters(), lr=1e-2)
    found = []
    for step in range(25):
        smooth, noise = tiny.video((3, 8, 8), batch=4, seed=step), torch.randn(4, 3, 3, 8, 8) * 0.5
        own, parts = critic.judge(smooth, noise, step)
        optimizer.zero_grad()
        own.backward()
        optimizer.step()
        found.append(float(parts["discriminator"].detach()))
    assert found[0] == pytest.approx(2, abs=0.5)
    assert mean(found[-5:]) < 0.5 * found[0]
    assert parts["logits_real"] > parts["logits_fake"]
