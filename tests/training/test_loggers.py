"""Where curves go."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from vidgen import UserError, config
from vidgen.training.loggers import build_logger


def test_csv_has_a_line_for_each_value_and_goes_on_where_it_was(tmp_path: Path) -> None:
    build_logger({"name": "csv"}, tmp_path)("tokenizer", "train", 5, {"loss/total": 0.5, "lr": 1e-3})
    build_logger({"name": "csv"}, tmp_path)("generator", "val", 7, {"loss/validation": 0.25})
    with (tmp_path / "curves.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    assert lines == [
        ["stage", "split", "step", "name", "value"],
        ["tokenizer", "train", "5", "loss/total", "0.5"],
        ["tokenizer", "train", "5", "lr", "0.001"],
        ["generator", "val", "7", "loss/validation", "0.25"],
    ]


def test_every_recipe_names_a_logger_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its package a logger is a sentence that says what to install."""
    for module in ("torch.utils.tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
    for name in config.preset_names("logger"):
        if name != "csv":
            with pytest.raises(UserError) as error:
                build_logger(config.load("logger", name), tmp_path)
            assert str(error.value) == f'logger={name} needs a package that is not installed: pip install "vidgen[{name}]".'


def test_an_unknown_logger_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^There is no logger called 'cvs'. Did you mean 'csv'\? There are csv, "):
        build_logger({"name": "cvs"}, tmp_path)
