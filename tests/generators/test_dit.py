"""What is particular to ``dit``: its start, its losses by hand, its paths, noise levels by cell, given cells and guidance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from vidgen import Condition, Latent, UserError
from vidgen.samplers.noise import sample_noise
from vidgen.samplers.paths import FLOW, build_path
from vidgen.samplers.solve import SOLVERS

DDPM = {"path": "linear", "shift": 1.0, "solver": "ddim"}
LEARNED = DDPM | {"prediction": "epsilon", "learned_sigma": True, "solver": "ddpm"}
FORCED = {"noise_levels": "cell"}


def fresh(tokens: str = "kl", **options: Any) -> Any:
    torch.manual_seed(0)
    return tiny.generator("dit", tiny.tokenizer(tokens).space, 3, **options)


def stirred(tokens: str = "kl", scale: float = 0.05, **options: Any) -> Any:
    return tiny.stirred(fresh(tokens, **options), scale).eval()


def noisy(dit: Any, batch: int = 2, cells: tuple[int, int, int] = (3, 4, 2)) -> Tensor:
    return torch.randn(batch, dit.space.h_channels, *cells, generator=torch.Generator().manual_seed(0))


def latent_of(dit: Any, h: Tensor, start: int = 0, **fields: Tensor) -> Latent:
    return replace(dit.space.project(h, start=start), h=h, **fields)


def forwards(dit: Any) -> list[Tensor]:
    """Fills with the noise levels of each pass through the network."""
    seen: list[Tensor] = []
    dit.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    return seen


# Before training ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", ["kl", "lfq"])
@pytest.mark.parametrize("options", [{}, {"attention": "alternate"}, {"attention": "divided"}, LEARNED | {"prediction": "v"}])
def test_what_it_says_is_exactly_zero(tokens: str, options: dict[str, Any]) -> None:
    dit = fresh(tokens, **({"prediction": "v"} | options))
    assert not dit(noisy(dit), torch.tensor([0.3, 0.9]), tiny.labels(0, 1)).any()


def test_its_clean_latent_is_exactly_zero() -> None:
    dit, t = fresh("kl", prediction="x"), torch.tensor([0.3, 0.9])
    x = noisy(dit)
    assert torch.equal(dit.denoise(x, t)[0], x / t.view(2, 1, 1, 1, 1))


@pytest.mark.parametrize("path", ["flow", "cosine"])
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9, 1.0])
def test_each_bit_is_what_it_says_itself(path: str, t: float) -> None:
    """The posterior mean of a bit under N(x_t; a x, s^2) and equal odds, from the two densities."""
    dit = fresh("lfq", prediction="x", path=path, shift=1.0).double()
    x_t = torch.linspace(-1.5, 1.5, dit.space.h_channels * 8, dtype=torch.float64).view(1, -1, 2, 2, 2)
    found = dit(x_t, torch.tensor([t], dtype=torch.float64))
    at = dit.path.at(torch.tensor(t, dtype=torch.float64))
    density = {x: torch.exp(-((x_t - at.signal * x) ** 2) / (2 * at.noise**2)) for x in (-1, 1)}
    torch.testing.assert_close(found, (density[1] - density[-1]) / (density[1] + density[-1]), rtol=1e-6, atol=1e-8)


def test_context_adds_to_the_log_odds() -> None:
    """Two channels that always agree: the context's part for one is what the other says of itself."""
    t = torch.tensor(0.6, dtype=torch.float64)
    a, b = torch.tensor(0.8, dtype=torch.float64), torch.tensor(-0.3, dtype=torch.float64)
    weight = {s: math.exp(-float((a - 0.4 * s) ** 2 + (b - 0.4 * s) ** 2) / (2 * 0.36)) for s in (-1, 1)}
    exact = (weight[1] - weight[-1]) / (weight[1] + weight[-1])
    assert torch.tanh(FLOW.bit_evidence(a, t) + FLOW.bit_evidence(b, t)).item() == pytest.approx(exact)


# Losses by hand -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "prediction"),
    [("flow", "v"), ("flow", "x"), *((path, said) for path in ("linear", "cosine") for said in ("v", "x", "epsilon"))],
)
@pytest.mark.parametrize("min_snr", [0.0, 2.0])
def test_the_loss_of_what_the_network_said(path: str, prediction: str, min_snr: float) -> None:
    """Element by element in plain numbers, of a network whose output is replaced by known numbers."""
    dit = fresh("kl", path=path, prediction=prediction, min_snr=min_snr, shift=1.0, patch=(1, 2, 2)).double()
    x, noise, said = (torch.randn(2, dit.space.h_channels, 1, 2, 2, dtype=torch.float64) for _ in range(3))
    dit.final.register_forward_hook(lambda *_: dit_tokens(said))
    levels = [0.25, 0.75]
    found = dit.loss_at(x, torch.tensor(levels, dtype=torch.float64), noise, None).total
    total = 0.0
    for i, t in enumerate(levels):
        at = build_path(path).at(torch.tensor(t, dtype=torch.float64))
        a, s = float(at.signal), float(at.noise)
        snr = a * a / (s * s)
        for data, e, out in zip(*(part[i].flatten().tolist() for part in (x, noise, said)), strict=True):
            if path == "flow":  # always of the velocity
                v = out if prediction == "v" else (a * data + s * e - out) / t
                error, weight = v - (e - data), s * s
            else:
                truth = {"v": a * e - s * data, "x": data, "epsilon": e}[prediction]
                error, weight = out - truth, {"v": s * s, "x": 1.0, "epsilon": 1 / snr}[prediction]
            total += (weight * min(snr, min_snr) if min_snr else 1.0) * error**2 / x.numel()
    assert float(found) == pytest.approx(total, rel=1e-9)


def dit_tokens(said: Tensor) -> Tensor:
    """(B, D, 1, 2, 2) as the one token of a patch (1, 2, 2), its channels innermost."""
    return said[:, :, 0].permute(0, 2, 3, 1).flatten(1).unsqueeze(1)


def test_bits_that_are_certain_cost_nothing() -> None:
    dit = fresh("lfq", prediction="x", patch=(1, 2, 2))
    x = noisy(dit, cells=(1, 2, 2)).sign()
    dit.final.register_forward_hook(lambda *_: 1e4 * dit_tokens(x))
    assert float(dit.loss_at(x, torch.tensor([0.3, 0.8]), torch.randn_like(x), None).total) < 1e-9


def test_with_learned_variances_the_bound_is_added_and_trains_them_alone() -> None:
    dit = stirred("kl", **LEARNED)
    x = noisy(dit)
    losses = dit.loss_at(x, torch.tensor([0.3, 0.9]), torch.randn_like(x), None)
    assert set(losses.scalars) == {"ddpm", "vlb"}
    assert losses.total.item() == pytest.approx(sum(value.item() for value in losses.scalars.values()), rel=1e-6)
    losses.scalars["vlb"].backward(retain_graph=True)
    grad = dit.final.linear.weight.grad.view(-1, 2, dit.space.h_channels, dit.final.linear.weight.shape[1])
    assert not grad[:, 0].any()
    assert bool(grad[:, 1].any())
    fixed = stirred("kl", **LEARNED | {"learned_sigma": False})
    assert fixed.final.linear.out_features * 2 == dit.final.linear.out_features


@pytest.mark.parametrize("options", [{}, {"times": "uniform"}, DDPM, DDPM | {"times": "uniform"}, FORCED])
def test_training_levels_are_of_their_law(options: dict[str, Any]) -> None:
    """Their logits are normal, or they are even; on DDPM's path steps of the table, and by cell each its own."""
    dit = fresh("kl", **{"time_mean": 0.5, "time_std": 0.8, "shift": 1.0} | options)
    seen = forwards(dit)
    h = torch.zeros(3000, dit.space.h_channels, 3, 1, 1)
    with torch.no_grad():
        dit.loss(latent_of(dit, h), None)
    t = seen[0].double()
    assert t.shape == ((3000, 3) if options == FORCED else (3000,))
    if "path" in options:
        torch.testing.assert_close(t * 1000, (t * 1000).round(), rtol=0, atol=1e-3)
        assert float(t.min()) > 0.0005
    if "times" in options:
        assert float(t.mean()) == pytest.approx(0.5, abs=0.02)
        assert float(t.std()) == pytest.approx(12**-0.5, abs=0.01)
    else:
        logit = (t.clamp(1e-4, 1 - 1e-4) / (1 - t.clamp(1e-4, 1 - 1e-4))).log()
        assert float(logit.mean()) == pytest.approx(0.5, abs=0.06)
        assert float(logit.std()) == pytest.approx(0.8, abs=0.04)
    if options == FORCED:
        assert float(torch.corrcoef(t.T).fill_diagonal_(0).abs().max()) < 0.06


def test_latents_are_drawn_from_their_posterior_anew_in_every_step() -> None:
    """What the network is to predict has the posterior's mean and deviation."""
    dit, seen = fresh("kl"), []
    dit.loss_at = lambda x, *_: seen.append(x) or dit.__class__.loss_at(dit, x, *_)
    assert dit.wants == ("h", "logvar")
    h = torch.full((400, dit.space.h_channels, 1, 2, 2), 0.7)
    with torch.no_grad():
        dit.loss(latent_of(dit, h, logvar=torch.full_like(h, 2 * math.log(0.3))))
        dit.loss(latent_of(dit, h))
    assert float(seen[0].mean()) == pytest.approx(0.7, abs=0.02)
    assert float(seen[0].std()) == pytest.approx(0.3, abs=0.02)
    assert torch.equal(seen[1], h)
    assert fresh("lfq").wants == ("h",)


# Sampling -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("path", ["flow", "linear"])
def test_every_sampler_takes_its_forwards_and_no_more(solver: str, path: str) -> None:
    dit = stirred("kl", path=path, shift=1.0, solver=solver, steps=5, eta=0.5)
    shape, seen = (5, 8, 8), forwards(dit)
    sample = dit.sample(2, shape, tiny.labels(0, 1), guidance_scale=1.0)
    assert len(seen) == (9 if solver == "heun" else 5)
    assert {len(t) for t in seen} == {2}
    assert bool(sample.h.isfinite().all())
    again = dit.double()
    tokenizer = tiny.tokenizer("kl").double()
    again.space = tokenizer.space
    whole = again.sample(3, shape, tiny.labels(0, 1, 2), seed=5)
    parts = [again.sample(1, shape, tiny.labels(0), seed=5), again.sample(2, shape, tiny.labels(1, 2), seed=5, first=1)]
    torch.testing.assert_close(
        torch.cat([part.h for part in parts]), whole.h, rtol=1e-14, atol=1e-11 if path == "linear" else 1e-12
    )


@pytest.mark.parametrize("options", [{"solver": "sde"}, DDPM, LEARNED, DDPM | {"prediction": "x", "solver": "dpm2m"}])
def test_with_the_best_prediction_of_a_gaussian_samples_are_of_it(options: dict[str, Any]) -> None:
    """The whole of sample, prediction and path, with the network's place taken by E[. | x_t]: mean 1, deviation 0.5."""
    dit = fresh("kl", steps=300, **{"prediction": "v", "churn": 1.0, "shift": 1.0} | options)
    path = dit.path

    def best(x: Tensor, t: Tensor, *_: Any) -> Tensor:
        at = path.at(t.view(-1, 1, 1, 1, 1))
        variance = (at.signal * 0.5) ** 2 + at.noise**2
        offset = x - at.signal
        data, noise = 1 + at.signal * 0.25 / variance * offset, at.noise / variance * offset
        out = {"x": data, "epsilon": noise, "v": at.signal_rate * data + at.noise_rate * noise}[dit.prediction]
        return torch.cat([out, -torch.ones_like(out)], dim=1) if dit.learned_sigma else out

    dit.forward = best
    h = dit.sample(64, (9, 16, 16)).h
    assert float(h.mean()) == pytest.approx(1, abs=0.02)
    assert float(h.std()) == pytest.approx(0.5, abs=0.025)


def test_the_variance_is_that_of_the_guided_branch_which_is_not_guided() -> None:
    """As in DiT: the share of the larger variance is the conditional one at any scale."""
    dit, shape = stirred("kl", **LEARNED), (5, 8, 8)
    guidance = dit.conditioner.guide(tiny.labels(0, 1), 2, scale=3.0)
    network = dit._guided(guidance, dit.path.times(4), 5, dit._shown(None, None), 0)
    x, t = noisy(dit), torch.tensor(0.5)
    v, share = network(x, t)
    plain, unconditional = (dit.denoise(x, torch.full((2,), 0.5), tiny.labels(*labels)) for labels in ((0, 1), (-1, -1)))
    torch.testing.assert_close(share, plain[1])
    assert not torch.allclose(plain[1], unconditional[1])
    torch.testing.assert_close(v, unconditional[0] + 3 * (plain[0] - unconditional[0]), rtol=1e-4, atol=1e-4)
    assert dit.sample(1, shape, tiny.labels(0), guidance_scale=3.0).h.isfinite().all()


def test_guidance_follows_the_steps_also_where_cells_have_levels_of_their_own() -> None:
    """From no guidance to all of it over the rows of the matrix, by the weights that each pass was joined with."""
    for options in ({}, FORCED | {"forcing": "pyramid", "lag": 1.0}):
        dit = stirred("kl", steps=4, guidance_schedule="linear", solver="euler", **options)
        times: list[int] = []
        dit.register_forward_pre_hook(lambda _, given, times=times: times.append(len(given[0])))
        dit.sample(1, (9, 8, 8), tiny.labels(1), guidance_scale=2.0)
        assert times == [1] + [2] * (len(times) - 1)  # the first pass is not guided
        assert len(times) == (4 if not options else 6)


# Noise levels by cell -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", [(1, 2, 2), (2, 2, 2), (1, 1, 1)])
@pytest.mark.parametrize("attention", ["joint", "divided"])
def test_one_level_is_the_same_as_that_level_everywhere(patch: tuple[int, int, int], attention: str) -> None:
    dit = stirred("kl", patch=patch, attention=attention, **FORCED).double()
    x, t, condition = noisy(dit, cells=(3, 3, 2)).double(), torch.tensor([0.3, 0.8], dtype=torch.float64), tiny.labels(0, 1)
    plain = dit(x, t, condition)
    torch.testing.assert_close(dit(x, t[:, None].expand(2, 3), condition), plain, rtol=0, atol=1e-12)
    torch.testing.assert_close(dit(x, t[:, None, None, None].expand(2, 3, 3, 2), condition), plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("patch", [(1, 2, 2), (3, 2, 2)])
def test_the_network_knows_each_cell_s_level(patch: tuple[int, int, int]) -> None:
    """Also inside a token, where one cell is cleaner than another."""
    dit = stirred("kl", patch=patch, **FORCED)
    x, levels = noisy(dit, 1), torch.tensor([[0.1, 0.5, 0.9], [0.5, 0.1, 0.9], [0.9, 0.5, 0.1]])
    outs = [dit(x, t[None]) for t in levels]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(outs[one], outs[other], rtol=1e-3, atol=1e-5)
    assert (dit.unlike is not None) == (patch[0] > 1)


@pytest.mark.parametrize("forcing", ["pyramid", "autoregressive", "trapezoid"])
def test_the_levels_of_a_sample_are_those_of_its_matrix(forcing: str) -> None:
    dit = stirred("kl", forcing=forcing, lag=2.0, solver="sde", steps=3, **FORCED)
    seen = forwards(dit)
    dit.sample(1, tiny.shape_of(tiny.tokenizer("kl")))
    from vidgen.samplers.forcing import forced_times

    expected = forced_times(forcing, dit.path.times(3), [False] * 3, 2.0)[:-1]  # type: ignore[arg-type]
    torch.testing.assert_close(torch.stack([t[0, :, 0, 0] for t in seen]).double(), expected, rtol=0, atol=1e-6)


def test_an_autoregressive_sample_finishes_early_cells_before_late_ones_begin() -> None:
    """Its first cell is that of a network which sees pure noise after it, whatever becomes of the rest."""
    dit = stirred("kl", forcing="autoregressive", solver="euler", steps=3, **FORCED)
    passes: list[Tensor] = []
    dit.register_forward_pre_hook(lambda _, given: passes.append(given[0]))
    sample, shape = dit.sample(1, tiny.shape_of(tiny.tokenizer("kl"))), (dit.space.h_channels, 3, 4, 2)
    start = sample_noise(1, shape, seed=0, first=0, start=0, device=torch.device("cpu"))
    for x in passes[:3]:
        assert torch.equal(x[:, :, 1:], start[:, :, 1:])
    for x in passes[3:]:
        torch.testing.assert_close(x[:, :, :1], sample.h[:, :, :1])
    assert len(passes) == 9


def test_finished_cells_are_shown_at_the_level_of_stabilisation_and_have_its_noise() -> None:
    dit = stirred("kl", forcing="autoregressive", stabilisation=0.02, solver="euler", steps=2, **FORCED)
    passes: list[tuple[Tensor, Tensor]] = []
    dit.register_forward_pre_hook(lambda _, given: passes.append((given[0], given[1])))
    sample = dit.sample(64, tiny.shape_of(tiny.tokenizer("kl")))
    x, t = passes[-1]
    torch.testing.assert_close(t[0, :, 0, 0], torch.tensor([0.02, 0.02, t[0, 2, 0, 0].item()]))
    added = (x - 0.98 * sample.h)[:, :, :2] / 0.02
    assert float(added.mean()) == pytest.approx(0, abs=0.05)
    assert float(added.std()) == pytest.approx(1, abs=0.05)


# Given cells ----------------------------------------------------------------------------------------------------------------


def given(dit: Any, mask: Tensor, batch: int = 2) -> Condition:
    return Condition(known=latent_of(dit, noisy(dit, batch)), known_mask=mask)


REGIONS = torch.zeros(2, 3, 4, 2, dtype=torch.bool)
REGIONS[0, 1:, :2] = True
REGIONS[1, 0] = True
PREFIX = torch.tensor([[True, False, False], [True, True, False]])


@pytest.mark.parametrize("mask", [PREFIX, REGIONS], ids=["cells", "regions"])
@pytest.mark.parametrize("options", [{}, FORCED, FORCED | {"forcing": "autoregressive"}, LEARNED, DDPM | {"solver": "heun"}])
@pytest.mark.parametrize("tokens", ["kl", "lfq"])
def test_given_cells_come_back_to_the_bit(tokens: str, options: dict[str, Any], mask: Tensor) -> None:
    dit = stirred(tokens, **options)
    known = tiny.latent(tiny.tokenizer(tokens), batch=2)
    sample = dit.sample(2, tiny.shape_of(tiny.tokenizer(tokens)), Condition(known=known, known_mask=mask))
    cells = (mask if mask.ndim == 4 else mask[:, :, None, None].expand(2, 3, 4, 2)).unsqueeze(1)
    for name in ("z", "h"):
        theirs, ours = getattr(known, name), getattr(sample, name)
        assert torch.equal(ours.masked_select(cells), theirs.masked_select(cells))
        assert not torch.equal(ours, theirs)
    if tokens == "lfq":
        flat = cells.flatten(1)
        assert torch.equal(sample.ids[flat], known.ids[flat])
        assert torch.equal(dit.space.embed(sample.ids, sample.grids), sample.z)
    assert bool(sample.z.isfinite().all())


@pytest.mark.parametrize("forcing", ["pyramid", "autoregressive", "trapezoid"])
def test_no_clip_waits_for_another_s_cells(forcing: str) -> None:
    """With forcing a sample is the same beside clips that know more and less, guidance that rises included."""
    dit = stirred("kl", **FORCED | {"forcing": forcing, "guidance_schedule": "linear"}).double()
    known = tiny.latent(tiny.tokenizer("kl"), batch=2)
    known = replace(known, h=known.h.double(), z=known.z.double())
    condition = Condition(known=known, known_mask=PREFIX, label=torch.tensor([0, 1]))
    shape = tiny.shape_of(tiny.tokenizer("kl"))
    both = dit.sample(2, shape, condition, guidance_scale=3.0, seed=1)
    for i in range(2):
        alone = dit.sample(1, shape, condition[i : i + 1], guidance_scale=3.0, seed=1, first=i)
        torch.testing.assert_close(alone.h[0], both.h[i], rtol=0, atol=1e-6)


def frames(**tasks: float) -> dict[str, Any]:
    return {"frames": {"tasks": tasks}}


def test_a_model_of_given_cells_sees_them_clean_and_is_told_so() -> None:
    for options in (FORCED, {"conditioning": frames(prediction=1.0)}):
        dit = stirred("kl", solver="sde", **options)
        condition, passes = given(dit, PREFIX), []
        dit.register_forward_pre_hook(lambda _, args, passes=passes: passes.append((args[0], args[1])))
        dit.sample(2, tiny.shape_of(tiny.tokenizer("kl")), condition)
        for x, t in passes:
            assert not t[PREFIX].any()
            assert bool((t[~PREFIX] > 0).all())
            flags = PREFIX[:, None, :, None, None].expand_as(x)
            assert torch.equal(x[flags], condition.known.h[flags])


def test_a_model_that_has_seen_none_sees_them_as_noisy_as_the_rest() -> None:
    dit = stirred("kl", solver="euler", shift=1.0)
    condition, passes = given(dit, PREFIX), []
    dit.register_forward_pre_hook(lambda _, args: passes.append((args[0], args[1])))
    dit.sample(2, tiny.shape_of(tiny.tokenizer("kl")), condition)
    flags = PREFIX[:, None, :, None, None].expand_as(passes[0][0])
    noises = []
    for x, t in passes:
        level = float(t.flatten()[0])
        assert bool((t == level).all())
        noises.append(((x - (1 - level) * condition.known.h) / level)[flags])
    torch.testing.assert_close(noises[0], noises[-1], rtol=1e-3, atol=1e-3)  # the same noise all along
    assert float(noises[0].std()) == pytest.approx(1, abs=0.25)


def test_training_on_given_cells_shows_them_clean_and_counts_the_others() -> None:
    """The gradient by what the network says is zero at given cells, and the loss is the mean over the others."""
    dit = stirred("kl", conditioning=frames(scatter=1.0), patch=(1, 2, 2))
    x, noise, t = noisy(dit), torch.randn_like(noisy(dit)), torch.tensor([0.4, 0.7])
    mask = torch.tensor([[False, True, False], [False, False, False]])
    condition, seen = Condition(known=latent_of(dit, x), known_mask=mask), []
    dit.register_forward_hook(lambda _, args, out: seen.append((args[0], args[1], out)))
    dit.loss_at(x, t, noise, condition).total.backward()
    (shown, levels, out) = seen[0]
    assert torch.equal(shown[0, :, 1], x[0, :, 1])
    assert float(levels[0, 1].abs().max()) == 0
    torch.testing.assert_close(levels[0, 0], torch.full((4, 2), 0.4))
    with torch.no_grad():
        v = dit.path.velocity_from(dit.prediction, out, shown, levels.unsqueeze(1))
        error = (v - (noise - x)).square()
        counted = (~mask)[:, None, :, None, None].expand_as(error)
        expected = error[counted].mean()
    found = dit.loss_at(x, t, noise, condition).total
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_cells_of_another_window_or_without_h_are_refused() -> None:
    dit, shape = stirred("kl"), tiny.shape_of(tiny.tokenizer("kl"))
    for known, sentence in (
        (latent_of(dit, noisy(dit, cells=(2, 4, 2))), "give a latent of the whole window"),
        (latent_of(dit, noisy(dit), start=4), "give a latent of the whole window"),
        (replace(latent_of(dit, noisy(dit)), h=None), "What is known has no h"),
    ):
        with pytest.raises(UserError, match=sentence):
            dit.sample(2, shape, Condition(known=known))


# Learning -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        LEARNED | {"prediction": "v", "steps": 20},
        DDPM | {"path": "cosine", "prediction": "v", "solver": "dpm2m", "steps": 12, "min_snr": 5.0, "times": "uniform"},
        FORCED | {"prediction": "v", "solver": "euler", "forcing": "autoregressive", "steps": 8},
        FORCED | {"patch": (2, 2, 2), "solver": "euler", "forcing": "pyramid", "lag": 2.0, "steps": 8, "attention": "divided"},
    ],
    ids=["ddpm", "cosine", "autoregressive", "pyramid"],
)
def test_it_learns_two_clips_by_heart(options: dict[str, Any]) -> None:
    """One is 1 and then -1, the other the reverse: every sample is near one of them as a whole, and both are drawn."""
    torch.manual_seed(0)
    space = tiny.tokenizer("kl", quantizer={"name": "kl", "channels": 4}).space
    dit = tiny.generator("dit", space, **options)
    clip = torch.ones(1, 4, 2, 2, 2) * torch.tensor([1.0, -1.0]).view(2, 1, 1)
    latent = latent_of(dit, torch.cat([clip, -clip] * 8))
    optimizer = torch.optim.Adam(dit.parameters(), lr=5e-3)
    for _ in range(250):
        optimizer.zero_grad()
        dit.loss(latent).total.backward()
        optimizer.step()
    drawn = dit.sample(32, (space.spec.frames(2), 2 * space.spec.stride[1], 2 * space.spec.stride[2]), seed=1).h
    distance = torch.stack([(drawn - one).abs().mean(dim=(1, 2, 3, 4)) for one in (clip, -clip)])
    assert float(distance.amin(0).mean()) < 0.5  # of 2 between the clips, and 1 for saying nothing
    assert 4 <= int(distance.argmin(0).sum()) <= 28


# Options --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cells", [(1, 3, 2), (3, 2, 1)])
def test_a_grid_that_the_patch_does_not_divide_is_filled_and_cut(cells: tuple[int, int, int]) -> None:
    tokenizer = tiny.tokenizer("kl")
    dit = stirred("kl", patch=(2, 2, 2))
    latent = tiny.latent(tokenizer, cells=cells)
    assert dit(latent.h, torch.rand(len(latent))).shape == latent.h.shape
    assert dit.sample(1, tiny.shape_of(tokenizer, cells), start=3).grids[-1][1:] == cells[1:]


def test_what_a_token_is_told_is_the_mean_over_its_cells() -> None:
    """Of a conditioner that tells cells apart, with a last token that is not full."""
    dit = stirred("kl", patch=(2, 2, 2))
    said = torch.arange(5.0).view(1, 5, 1).expand(2, 5, 32)
    told = dit._by_token(said, (3, 2, 1))
    assert told[0, :, 0].tolist() == [0.5, 0.5, 2.5, 2.5, 4.0, 4.0]


@pytest.mark.parametrize(
    ("patch", "nearest"),
    [
        ((2, 2), "[1, 2, 2]"),
        ((2,), "[1, 1, 2]"),
        ((1, 0, 2), "[1, 1, 2]"),
        ((1, 2, -2), "[1, 2, 1]"),
        ((1, 1, 2, 4), "[1, 2, 4]"),
    ],
)
def test_a_patch_that_makes_no_tokens_is_refused(patch: tuple[int, ...], nearest: str) -> None:
    with pytest.raises(UserError) as error:
        fresh("kl", patch=patch)
    assert str(error.value) == (
        f"dit's patch={list(patch)} is not [frames,height,width] of at least 1 each; the nearest is patch={nearest}."
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"solver": "eular"}, r"dit knows no solver 'eular'\. Did you mean 'euler'\?"),
        ({"prediction": "V"}, r"dit knows no prediction 'V'\. Did you mean 'v'\?"),
        ({"path": "cosin"}, r"dit knows no path 'cosin'\. Did you mean 'cosine'\?"),
        ({"forcing": "pyramids"}, r"dit knows no forcing 'pyramids'\. Did you mean 'pyramid'\?"),
        ({"attention": "joined"}, "knows no attention 'joined'"),
        ({"prediction": "epsilon"}, "use prediction=v or x"),
        ({"learned_sigma": True}, "use learned_sigma=false, or path=linear"),
        ({"path": "linear", "shift": 2.0}, "use shift=1 with path=linear"),
        ({"forcing": "pyramid"}, "forcing=pyramid needs a model of noise_levels=cell"),
        ({"stabilisation": 0.1}, "needs a model of noise_levels=cell"),
        ({"stabilisation": 1.0, "noise_levels": "cell"}, "from 0 to below 1"),
        ({"steps": 0}, "^steps=0 makes no sample: give steps=1 or more"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        fresh("kl", **options)


@pytest.mark.parametrize(("name", "millions"), [("dit_xl", 675.1), ("dit_xl_ddpm", 675.1), ("latte", 673.7)])
def test_recipes_of_the_papers_size_have_it(name: str, millions: float) -> None:
    """DiT's table 4; Latte-XL/2 is of UCF-101's 101 classes. Without memory for their weights."""
    from types import SimpleNamespace

    from vidgen import LatentSpec, config, hub

    space: Any = SimpleNamespace(spec=LatentSpec(channels=4, stride=(1, 8, 8), causal=True), h_channels=4)
    with torch.device("meta"):
        built = hub.build_generator(config.load("generator", name), space=space, num_classes=101 if name == "latte" else 1000)
    assert sum(weight.numel() for weight in built.parameters()) / 1e6 == pytest.approx(millions, rel=0.002)


def test_the_published_diffusion_is_that_of_the_paper() -> None:
    from vidgen import config

    ddpm, plain = config.load("generator", "dit_xl_ddpm"), config.load("generator", "dit_xl")
    published = {"path": "linear", "prediction": "epsilon", "learned_sigma": True, "times": "uniform", "solver": "ddpm"}
    assert published.items() <= ddpm.items()
    assert ddpm["steps"] == 250
    assert {key for key in ddpm if ddpm[key] != plain[key]} == set(published)


@pytest.mark.slow
def test_compiled_it_gives_the_same() -> None:
    for options in ({}, LEARNED, FORCED | {"attention": "divided"}):
        dit = stirred("kl", **options)
        compiled: Callable[..., Tensor] = torch.compile(dit)
        x, t, condition = noisy(dit), torch.tensor([0.2, 0.8]), tiny.labels(0, -1)
        torch.testing.assert_close(compiled(x, t, condition), dit(x, t, condition), rtol=1e-4, atol=1e-4)
