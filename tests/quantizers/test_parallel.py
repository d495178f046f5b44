"""Several processes, each with its share of a batch, against one with all: losses, gradients averaged as by DDP, buffers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing import spawn

from vidgen.nn.parallel import gather_rows, mean_over_ranks, sum_over_ranks
from vidgen.registry import build

RANKS, STEPS = 2, 3
SCALES = ((1, 0.34, 0.25), (1, 0.67, 0.5), (1, 1, 1))

CASES: dict[str, dict[str, Any]] = {
    "lfq": {"name": "lfq", "bits": 6, "temperature": 0.5, "diversity": 2.0},
    "lfq, sharp": {"name": "lfq", "bits": 9},
    "bsq": {"name": "bsq", "bits": 6, "temperature": 0.1, "commitment": 0.3},
    "fsq": {"name": "fsq", "levels": (8, 5, 2)},
    "vq": {"name": "vq", "codes": 40, "channels": 4, "restart": 0.3, "decay": 0.8},
    "vq, gradient": {"name": "vq", "codes": 40, "channels": 4, "restart": 0.3, "decay": 0.8, "learning": "gradient"},
    "simvq": {"name": "simvq", "codes": 40, "channels": 4},
    "residual vq": {
        "name": "residual",
        "quantizer": {"name": "vq", "codes": 12, "channels": 3, "restart": 0.3, "decay": 0.8},
        "stages": 2,
        "groups": 2,
    },
    "residual lfq": {"name": "residual", "quantizer": {"name": "lfq", "bits": 5}, "stages": 3, "shrink": 0.5},
    "pyramid vq": {"name": "pyramid", "quantizer": {"name": "vq", "codes": 24, "channels": 4, "restart": 0.3}, "scales": SCALES},
    "pyramid lfq": {"name": "pyramid", "quantizer": {"name": "lfq", "bits": 6}, "scales": SCALES, "learn_gain": True},
}
DRAWN: dict[str, dict[str, Any]] = {
    "kl": {"name": "kl", "channels": 4, "weight": 0.1},
    "kl, fixed": {"name": "kl", "channels": 4, "std": 0.5},
    "gumbel": {"name": "gumbel", "codes": 12, "channels": 4, "kl_start": 0.1},
    "gumbel, relaxed": {"name": "gumbel", "codes": 12, "channels": 4, "mode": "relaxed"},
    "gumbel by distance": {"name": "gumbel", "codes": 12, "channels": 4, "logits": "distance"},
    "residual, dropped": {"name": "residual", "quantizer": {"name": "lfq", "bits": 5}, "stages": 3, "dropout": 0.7},
    "pyramid gumbel": {
        "name": "pyramid",
        "quantizer": {"name": "gumbel", "codes": 12, "channels": 4, "logits": "distance"},
        "scales": SCALES,
    },
}
"""Those that draw noise: from a stream that all processes share, each its clips' part of what one would draw for all."""


class Model(nn.Module):
    """A quantizer behind something that learns, so that there is a gradient to average."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.quantizer = build("quantizers", options)
        self.gain = nn.Parameter(torch.linspace(0.5, 1.5, self.quantizer.in_channels).view(-1, 1, 1, 1))


def train(case: str, rank: int, ranks: int) -> list[dict[str, Tensor]]:
    """Some steps on this process's share: what came of each."""
    torch.manual_seed(0)
    model = Model((CASES | DRAWN)[case])
    torch.manual_seed(100 if case in DRAWN else 100 + rank)  # the others take nothing from it
    results = []
    for step in range(STEPS):
        rng = torch.Generator().manual_seed(step)
        x = torch.randn(4, model.quantizer.in_channels, 1, 3, 4, generator=rng).chunk(ranks)[rank]
        into = torch.randn(4, model.quantizer.channels, 1, 3, 4, generator=rng).chunk(ranks)[rank]
        code = model.quantizer(model.gain * x)
        model.zero_grad()
        ((code.z * into).mean() + sum(code.losses.values())).backward()
        result = {f"loss {name}": value.detach().clone() for name, value in code.losses.items()}
        result |= {f"gradient {name}": weight.grad.clone() for name, weight in model.named_parameters()}
        result |= {f"buffer {name}": value.clone() for name, value in model.named_buffers()}
        results.append(result | {"z": code.z.detach(), **({} if code.ids is None else {"ids": code.ids})})
    return results


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    results: dict[str, Any] = {case: train(case, rank, RANKS) for case in CASES | DRAWN}
    x = torch.arange(3.0 * (rank + 1)).view(-1, 3)[-1:].requires_grad_()  # 0 1 2 in the first process, 3 4 5 in the second
    mean = mean_over_ranks(x)
    (mean * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
    results["parts"] = [mean.detach(), x.grad, sum_over_ranks(x), gather_rows(x), x.detach()]
    torch.save(results, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process has to tell; one start for all tests, for a start takes seconds."""
    folder = tmp_path_factory.mktemp("ranks")
    spawn(work, (str(folder),), nprocs=RANKS)
    return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(RANKS)]


@pytest.mark.parametrize("case", CASES | DRAWN)
def test_several_processes_train_as_one_with_the_whole_batch(case: str, several: list[dict[str, Any]]) -> None:
    whole = train(case, 0, 1)
    assert len(whole) == STEPS
    for step, expected in enumerate(whole):
        parts = [results[case][step] for results in several]
        assert ("ids" in expected) == (not case.startswith("kl"))
        if "ids" in expected:
            assert torch.equal(torch.cat([part.pop("ids") for part in parts]), expected.pop("ids"))
        torch.testing.assert_close(torch.cat([part.pop("z") for part in parts]), expected.pop("z"), rtol=1e-4, atol=1e-5)
        for name, value in expected.items():
            if name.startswith("buffer"):
                assert torch.equal(parts[0][name], parts[1][name]), name
            average = torch.stack([part[name].double() for part in parts]).mean(dim=0)
            torch.testing.assert_close(average, value.double(), rtol=1e-4, atol=1e-6)


def test_the_entropy_of_the_codebook_is_the_whole_batch_s(several: list[dict[str, Any]]) -> None:
    """Not a process's own, whose entropy is smaller, nor its share of a sum (others divide without having added)."""
    from vidgen.nn.entropy import code_entropies

    x = torch.linspace(0.5, 1.5, 6).view(-1, 1, 1, 1) * torch.randn(4, 6, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    logits = x.movedim(1, -1).reshape(-1, 6) * 8
    (token, codebook), halves = code_entropies(logits), [code_entropies(half)[1] for half in logits.chunk(2)]
    expected = 0.1 * (token - 2 * codebook)
    mean = sum(results["lfq"][0]["loss entropy"] for results in several) / RANKS
    torch.testing.assert_close(mean, expected)
    alone = 0.1 * (token - 2 * sum(halves) / RANKS)
    assert abs(float(alone - expected)) > 0.01  # so this would be seen


def test_means_sums_and_rows_are_those_of_all(several: list[dict[str, Any]]) -> None:
    """And the mean's slope is as for one process whose loss all share: DDP's average of the gradients divides by N again."""
    own = [results["parts"][-1] for results in several]
    rows = torch.tensor([[0.0, 1, 2], [3, 4, 5]])
    assert torch.equal(torch.cat(own), rows)
    for results in several:
        mean, slope, total, gathered, _ = results["parts"]
        assert torch.equal(mean, rows.mean(dim=0, keepdim=True))
        assert torch.equal(slope, torch.tensor([[1.0, 10, 100]]))
        assert torch.equal(total, rows.sum(dim=0, keepdim=True))
        assert torch.equal(gathered, rows)


def test_one_process_needs_no_group() -> None:
    x = torch.randn(2, 3)
    assert torch.equal(mean_over_ranks(x), x)
    assert torch.equal(sum_over_ranks(x), x)
    assert torch.equal(gather_rows(x), x)
