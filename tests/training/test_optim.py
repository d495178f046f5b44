"""Which weight is moved by which optimizer and how, the schedule, and the average, each against its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from vidgen import names
from vidgen.backbones import axial, causal3d, vit
from vidgen.nn import trunk
from vidgen.training.optim import build_optimizer, is_inner, schedule, update_average

LR, MUON_LR, DECAY = 1e-3, 0.02, 0.1

BLOCKS = (trunk.Block, causal3d.ResidualBlock, axial.ResidualBlock, vit.Block)
"""What models are stacks of."""


def optimizer_of(model: nn.Module, name: str, **changes: Any) -> torch.optim.Optimizer:
    options: dict[str, Any] = {"lr": LR, "muon_lr": MUON_LR, "weight_decay": DECAY, "betas": (0.9, 0.95)}
    return build_optimizer(model, optimizer=name, **options | changes)


@pytest.fixture(params=[*tiny.trained(), *names("generators")])
def model(request: pytest.FixtureRequest) -> nn.Module:
    """Every recipe, small."""
    if request.param in tiny.trained():
        built = tiny.tokenizer(request.param)
    else:
        built = tiny.generator(request.param, tiny.tokenizer("pyramid_lfq").space, num_classes=2)  # which all of them take
    assert isinstance(built, nn.Module)
    return built


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_weight_of_every_recipe_is_in_exactly_one_group(model: nn.Module, optimizer: str) -> None:
    placed = [id(weight) for group in optimizer_of(model, optimizer).param_groups for weight in group["params"]]
    assert sorted(placed) == sorted(id(weight) for weight in model.parameters() if weight.requires_grad)


def test_muon_moves_inner_matrices_and_nothing_else(model: nn.Module) -> None:
    """By what the optimizer kept after a step: the blocks' matrices; no vector, table, modulation, first or last map."""
    optimizer = optimizer_of(model, "muon")
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    for weight in weights.values():
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    moved = {name for name, weight in weights.items() if "momentum_buffer" in optimizer.state[weight]}
    assert {name for name, weight in weights.items() if "exp_avg" in optimizer.state[weight]} == weights.keys() - moved
    assert all(weights[name].ndim >= 2 and "modulation" not in name for name in moved)
    modules = dict(model.named_modules())
    outer = {name for name in weights if isinstance(modules[name.rpartition(".")[0]], nn.Embedding)}
    outer |= {name for name in weights if name.startswith(("embed.", "time.", "final.")) or ".head." in name or ".stem." in name}
    assert moved.isdisjoint(outer)
    blocks = [module for module in modules.values() if isinstance(module, BLOCKS)]
    matrices = [(name, weight) for block in blocks for name, weight in block.named_parameters() if weight.ndim >= 2]
    inner = {id(weight) for name, weight in matrices if "modulation" not in name}
    assert inner
    assert inner <= {id(weights[name]) for name in moved}


@pytest.mark.parametrize(
    ("name", "shape", "inner"),
    [
        ("trunk.blocks.0.attention.qkv.weight", (9, 3), True),
        ("encoder.layers.1.convs.0.conv.weight", (4, 4, 3, 3), True),
        ("trunk.blocks.0.attention.qkv.bias", (9,), False),
        ("trunk.blocks.0.modulation.weight", (9, 3), False),
        ("embed.weight", (4, 4), False),
        ("final.linear.weight", (4, 4), False),
    ],
)
def test_what_counts_as_inner(name: str, shape: tuple[int, ...], inner: bool) -> None:
    assert is_inner(name, torch.empty(shape)) is inner


class Layers(nn.Module):
    """One inner matrix of a shape, an outer one and a vector."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(columns, rows, bias=False)])
        self.out = nn.Linear(3, 2)


@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (48, 12), (12, 48), (2, 40), (3, 500)])
@pytest.mark.parametrize("size", [1e-3, 100.0])
def test_muon_s_first_step_is_an_orthogonal_matrix(rows: int, columns: int, size: float) -> None:
    """The nearest one to the gradient, U V^T of its U S V^T, whatever its size; times the rate and sqrt(max(1, rows / columns)).

    Long and thin ones too. Its singular values are near 1 and no nearer: five steps of an iteration in half precision.
    """
    model, rank = Layers(rows, columns), min(rows, columns)
    weight = model.layers[0].weight
    u, v = (torch.linalg.qr(torch.randn(length, rank)).Q for length in (rows, columns))
    before, weight.grad = weight.detach().clone(), size * u @ torch.diag(torch.linspace(0.3, 1, rank)) @ v.T
    optimizer_of(model, "muon", weight_decay=0.0).step()
    step = (before - weight.detach()) / (MUON_LR * math.sqrt(max(1, rows / columns)))
    values = torch.linalg.svdvals(step)
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.3
    assert float(torch.cosine_similarity(step.flatten(), (u @ v.T).flatten(), dim=0)) > 0.98


def test_adamw_s_first_step() -> None:
    """Of length lr along each coordinate against the gradient's sign, after decay on matrices and not on vectors."""
    model = nn.Linear(4, 3)
    before = [weight.detach().clone() for weight in (model.weight, model.bias)]
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    optimizer_of(model, "adamw").step()
    expected = before[0] * (1 - LR * DECAY) - LR * model.weight.grad.sign()
    torch.testing.assert_close(model.weight.detach(), expected, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(model.bias.detach(), before[1] - LR * model.bias.grad.sign(), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_only_matrices_decay_each_at_its_own_rate(optimizer: str) -> None:
    model = Layers(8, 6)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer_of(model, optimizer).step()
    rates = {"layers.0.weight": MUON_LR if optimizer == "muon" else LR, "out.weight": LR, "out.bias": 0.0}
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.detach(), before[name] * (1 - rates[name] * DECAY), rtol=1e-6, atol=0)


def test_frozen_weights_are_left_out() -> None:
    model = Layers(8, 6)
    model.out.weight.requires_grad_(False)
    placed = [weight for group in optimizer_of(model, "muon").param_groups for weight in group["params"]]
    assert len(placed) == 2
    assert not any(weight is model.out.weight for weight in placed)


def factors(**recipe: Any) -> list[float]:
    return [schedule(step, **recipe) for step in range(recipe["steps"] + 1)]


def test_the_schedule_warms_up_linearly_holds_and_falls_along_a_half_cosine() -> None:
    values = factors(steps=100, warmup=10, decay=0.4)
    assert values[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert values[10:61] == [1.0] * 51
    assert values[60:] == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 40)) for step in range(41)])
    assert values[80] == pytest.approx(0.5)
    assert values[100] == 0.0


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
@pytest.mark.parametrize("warmup", [0, 1, 5])
@pytest.mark.parametrize("decay", [0.0, 0.3, 1.0])
def test_the_schedule_is_a_factor_at_any_lengths(steps: int, warmup: int, decay: float) -> None:
    """In [0, 1], never 0 in a step that is taken, rising before the warm-up's end and never after it."""
    values = factors(steps=steps, warmup=warmup, decay=decay)
    assert all(0 < value <= 1 for value in values[:-1])
    rising, falling = values[:warmup], values[warmup:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    if decay == 0:
        assert set(falling[:-1]) <= {1.0}


def averages(decay: float, values: list[Tensor]) -> list[Tensor]:
    average = [torch.zeros_like(values[0]), torch.ones(2, dtype=values[0].dtype)]
    found = []
    for value in values:
        update_average(average, [value, torch.ones(2, dtype=value.dtype)], decay)
        found.append(average[0].clone())
    assert torch.equal(average[1], torch.ones(2, dtype=values[0].dtype))  # what does not change is its own average
    return found


def test_the_average_against_its_closed_form() -> None:
    """a_n = (1 - d) * sum over i of d**(n - i) w_i, from a_0 = 0; and c (1 - d**n) for weights that stay at c."""
    decay, values = 0.9, list(torch.randn(20, 3, dtype=torch.float64))
    for n, average in enumerate(averages(decay, values), start=1):
        expected = sum((1 - decay) * decay ** (n - i) * value for i, value in enumerate(values[:n], start=1))
        torch.testing.assert_close(average, expected)
    constant = [torch.full((3,), 4.0, dtype=torch.float64)] * 20
    torch.testing.assert_close(averages(decay, constant)[-1], 4 * (1 - torch.full((3,), decay, dtype=torch.float64) ** 20))
