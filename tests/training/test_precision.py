"""The precision is what is faster on this machine, unless it is said."""

from __future__ import annotations

import pytest
import torch

from vidgen import UserError
from vidgen.training import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("full", "half", "chosen"),
    [(10.0, 1.0, "bf16"), (1.0, 30.0, "fp32"), (1.0, 1.0, "fp32"), (1.2, 1.0, "fp32"), (1.3, 1.0, "bf16")],
)
def test_auto_takes_what_is_faster_by_a_quarter(monkeypatch: pytest.MonkeyPatch, full: float, half: float, chosen: str) -> None:
    """A tie goes to full precision."""
    monkeypatch.setattr(precision, "_seconds", lambda device: (full, half))
    assert precision.choose("auto", CPU) == chosen


def test_what_is_said_is_taken_without_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(*_: object) -> float:
        raise AssertionError("measured")

    monkeypatch.setattr(precision, "_seconds", measured)
    assert [precision.choose(word, CPU) for word in ("bf16", "fp32")] == ["bf16", "fp32"]


def test_the_probe_measures_this_machine_once() -> None:
    assert precision.choose("auto", CPU) in ("bf16", "fp32")
    seconds = precision._seconds(CPU)
    assert all(0 < value < 1 for value in seconds)
    assert seconds == precision._seconds(CPU)


def test_another_word_is_one_sentence() -> None:
    with pytest.raises(UserError) as error:
        precision.choose("bf61", CPU)
    assert str(error.value) == "trainer.precision='bf61' is unknown. Did you mean 'bf16'? Use auto, bf16, fp32."
