"""Run folders as ``vidgen fit`` leaves them, with only what the benchmarks read."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from figures import RESULTS

from vidgen import config
from vidgen.evaluation.rows import Row, append

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))  # its files are programs, which find one another as neighbours


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a finished run; keyword arguments change what it says."""

    def make(
        name: str = "2026-01-31-lfq-dit",
        *,
        rows: tuple[Row, ...] = RESULTS,
        status: str = "finished",
        command: str = "vidgen fit tokenizer=lfq generator=dit",
        quantizer: str = "lfq",
        **changes: Any,
    ) -> Path:
        run = tmp_path / "runs" / name
        (run / "model").mkdir(parents=True)
        recipe = {
            "command": command,
            "words": "In words.",
            "route": "dit x lfq: bits",
            "tokenizer": config.load("tokenizer", "lfq", {"quantizer": quantizer}) | {"from": None},
            "generator": config.load("generator", "dit"),
            "data": config.load("data", "worlds"),
            "evaluation": config.load("evaluation", "default"),
            "trainer": {"precision": "auto"},
            "choices": {"tokenizer": "lfq", "generator": "dit", "data": "worlds", "tokenizer/quantizer": quantizer},
            "seed": 0,
            "stage": "all",
            "init": None,
            "resume": "auto",
            "runs": "runs",
        }
        (run / "config.yaml").write_text(yaml.safe_dump(config.merge(recipe, changes)))
        environment = {
            "versions": {"python": "3.11.9", "torch": "2.15.0"},
            "commit": "0123456789ab",
            "hardware": {"cpu": "A processor", "cores": 2, "memory_gib": 8.0},
            "precision": "bf16",
            "parameters": {"tokenizer": 2_000_000, "generator": 7_000_000},
            "flops": {"generator/sample_flops": 2e9},
        }
        (run / "environment.json").write_text(json.dumps(environment))
        (run / "state.json").write_text(json.dumps({"status": status, "fingerprint": "f"}))
        (run / "model" / "config.json").write_text(json.dumps({"names": {"tokenizer": "lfq", "generator": "dit"}}))
        curve = Row(stage="tokenizer", split="train", step=10, seconds=1.0, name="loss/total", value=0.5)
        append(run / "metrics.jsonl", [curve, *rows])
        return run

    return make
