"""The other sides of the benchmark of training compute what the trunk does."""

from __future__ import annotations

import pytest
import torch
import training

torch.set_num_threads(1)
SIZE = training.Size(32, 2, 2, 3, (2, 2, 2))


@pytest.mark.parametrize("name", training.OTHERS)
def test_the_other_side_is_the_same_function_with_the_same_gradients(name: str) -> None:
    kind = training.OTHERS[name]
    if name == "timm":
        pytest.importorskip("timm")
    model = training.ours(SIZE)
    other = training.theirs(kind, SIZE, model)
    tokens, c, rope = training.given(SIZE, torch.device("cpu"))
    found = []
    for side in (model, other):
        given, told = tokens.clone().requires_grad_(), c.clone().requires_grad_()
        y = side(given, told, rope)
        y.square().sum().backward()
        found.append((y, given.grad, told.grad, side.embed.weight.grad))
        assert all(weight.grad is not None and weight.grad.any() for weight in side.parameters())
    if kind.exact:
        training.check(model, other, SIZE)
        torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)


def test_two_functions_are_not_compared() -> None:
    model = training.ours(SIZE)
    with pytest.raises(AssertionError, match="not one function"):
        training.check(model, training.theirs(training.OTHERS["MultiheadAttention"], SIZE, model), SIZE)


def test_a_row_says_what_was_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "PAIRS", 2)
    row = training.speed("torch.nn", SIZE, "fp32", torch.device("cpu"), "a subject")
    assert (row.subject, row.measure, row.against, row.wanted) == (
        "a subject",
        training.STEP,
        "the same of torch.nn",
        "no slower",
    )
    assert row.settings == "width 32, 2 blocks, 2 heads, 3 clips of 2x2x2"
    assert row.ratio and row.ours > 0


def test_every_row_is_told_apart() -> None:
    keys = [(case.subject, case.measure) for case in training.cases()]
    assert len(set(keys)) == len(keys) >= 2 * len(training.OTHERS)
