"""The results of the runs that these tests collect."""

from __future__ import annotations

from typing import Any

from vidgen.evaluation.rows import Row


def result(name: str, value: float, **others: Any) -> Row:
    return Row(stage="evaluation", split="test", step=40, seconds=90.0, name=name, value=value, **others)


RESULTS = (
    result("reconstruction/psnr", 31.5, n=256, interval=(31.0, 32.0), protocol="mean over frames"),
    result("codebook/usage", 0.75, n=256, protocol="2,560 joint ids"),
    result("samples/law_legal", 0.8, n=256, interval=(0.75, 0.85), protocol="by the judge"),
    result("samples/law_residual", float("nan"), n=0),
)
