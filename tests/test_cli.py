"""The command line: what each command prints, what each mistake says, and what is composed. Nothing here trains."""

from __future__ import annotations

import errno
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import vidgen
from vidgen import config
from vidgen.cli import COMMANDS, COMPOSED, doctor, help, main
from vidgen.cli.compose import compose


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The configs with which fit was run; a seed of 13 makes it fail."""
    seen: list[dict[str, Any]] = []

    def run(config: dict[str, Any]) -> None:
        seen.append(config)
        if config["seed"] == 13:
            raise ArithmeticError("a bug")

    monkeypatch.setitem(sys.modules, "vidgen.cli.fit", SimpleNamespace(run=run))
    return seen


# Answers that are due at once


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("", 0, "Usage: vidgen COMMAND"),
        ("--help", 0, "Usage: vidgen COMMAND"),
        ("--version", 0, f"vidgen {vidgen.__version__}"),
        ("list", 0, "causal3d_magvit2"),
        ("list --pairs", 0, "analog bits, sign at decode"),
        ("fit --help", 0, "tokenizer/quantizer="),
        ("doctor -h", 0, "Usage: vidgen doctor"),
        ("show tokenizer=kl", 0, "channels: 8"),
        ("fti", 2, "Did you mean 'fit'?"),
        ("fit tokenizer=lqf", 2, "Did you mean 'lfq'?"),
        ("fit generator.dept=2", 2, "Did you mean generator.depth?"),
        ("fit generator.depth=two", 2, "a whole number"),
    ],
)
def test_answers_without_torch(command: str, status: int, said: str, python: Callable[[str], CompletedProcess[str]]) -> None:
    done = python(
        "import sys\n"
        "from vidgen.cli import main\n"
        f"status = main({shlex.split(command)})\n"
        "heavy = {'torch', 'lightning', 'numpy', 'matplotlib', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    assert done.returncode == status, done.stderr
    assert said in (done.stderr if status else done.stdout)
    assert not (done.stdout if status else done.stderr)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_whole(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    for part in ("Usage: vidgen", "Examples:", "Output: ", help.purpose(command)):
        assert part in text
    assert len(help.COMMANDS[command].examples) == (1 if command == "doctor" else 3)
    assert max(map(len, text.splitlines())) <= 132


@pytest.mark.parametrize("command", COMPOSED)
def test_help_names_every_part_and_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([command, "--help"])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    groups = config.command_groups(command)
    for group in groups:
        assert f"{group}=" in lines
        for name in config.preset_names(group):
            assert any(line.startswith(name) and config.describe(group, name) in line for line in lines)
    own = [key for key in compose(command, []) if key not in (*groups, "choices", "command")]
    for key in own:
        assert any(line.startswith(f"{key}=") for line in lines), key


@pytest.mark.parametrize("example", [example for command in help.COMMANDS.values() for example in command.examples])
def test_examples_can_be_copied(example: str, runs: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    _, command, *words = shlex.split(example)
    if command in COMPOSED:
        compose(command, words)
    elif command != "doctor":
        assert main([command, *words]) == 0
        assert capsys.readouterr().out


# Mistakes: one sentence, status 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["fti"], "There is no command 'fti'. Did you mean 'fit'? The commands are fit, eval, sample, list, show, doctor."),
        (["tokenizer=lfq"], "There is no command 'tokenizer=lfq'. A command comes first: vidgen fit tokenizer=lfq."),
        (["fit", "tokenizer=lqf"], "There is no tokenizer called 'lqf'. Did you mean 'lfq'? There are: "),
        (["fit", "tokenizer/quantizer=lqf"], "There is no tokenizer/quantizer called 'lqf'. Did you mean 'lfq'?"),
        (["fit", "experiment=smok"], "There is no experiment called 'smok'. Did you mean 'smoke'?"),
        (["fit", "tokenizer=null"], "There is no tokenizer called 'null'. There are: "),
        (["fit", "tokenizer=[kl]"], "There is no tokenizer called '['kl']'."),
        (["fit", "tokenzier=lfq"], "'fit' has no option 'tokenzier'. Did you mean tokenizer?"),
        (["fit", "quantizer=kl"], "'fit' has no option 'quantizer'. Did you mean tokenizer/quantizer?"),
        (["fit", "quantiser=kl"], "'fit' has no option 'quantiser'. Did you mean tokenizer/quantizer?"),
        (
            ["fit", "generator.dept=2"],
            "'generator' has no option 'dept'. Did you mean generator.depth? The options are name, width",
        ),
        (["fit", "generator.lr=1"], "'generator' has no option 'lr'. Did you mean generator.training.lr?"),
        (["fit", "lr=1"], "'fit' has no option 'lr'. Did you mean tokenizer.training.lr or generator.training.lr?"),
        (["fit", "bits=1"], "'fit' has no option 'bits'. Did you mean tokenizer.quantizer.bits?"),
        (["fit", "zzzz=1"], "'fit' has no option 'zzzz'. The options are tokenizer, generator, "),
        (["fit", "data.path=x"], "'data' has no option 'path'. data=folder has it."),
        (["fit", "+generator.new=1"], "'generator' has no option 'new'."),
        (["fit", "generator.training={lx: 1}"], "'generator.training' has no option 'lx'. Did you mean 'lr'?"),
        (
            ["fit", "tokenizer.quantizer=kl"],
            "'tokenizer.quantizer' is a group of options and not one value; to choose another part, ",
        ),
        (["fit", "seed.x=1"], "'seed' is one value, so there is no 'seed.x'; set 'seed' whole."),
        (["fit", "generator.patch.0=2"], "'generator.patch' is one value, so there is no 'generator.patch.0'; "),
        (["fit", "generator.depth=two"], "'generator.depth' is a whole number (6 by default), and two is not."),
        (["fit", "generator.depth=1.5"], "'generator.depth' is a whole number (6 by default), and 1.5 is not."),
        (["fit", "seed=null"], "'seed' is a whole number (0 by default), and null is not."),
        (["fit", "seed=${stage}"], "'seed' is a whole number (0 by default), and all is not."),
        (["fit", "seed=${nowhere}"], "This cannot be composed: Interpolation key 'nowhere' not found"),
        (["fit", "generator.patch=2"], "'generator.patch' is a list of whole numbers ([1, 2, 2] by default), and 2 is not."),
        (["fit", "--seed=3"], "'--seed=3' is not a flag of this command; options have no dashes: seed=3."),
        (["fit", "lfq"], "'lfq' is not of the form key=value. Did you mean tokenizer=lfq?"),
        (["fit", "seed"], "'seed' is not of the form key=value."),
        (["fit", "~seed"], "'~seed' would take an option away, and every recipe needs all of its own; set it instead."),
        (["fit", "tokenizer@x=kl"], "'tokenizer@x=kl' would put a part elsewhere, and each has its own place; leave out @x."),
        (["fit", "seed=0,1"], "'seed=0,1' has several values: add -m to run each, or quote it if it is one: \"seed='0,1'\"."),
        (["fit", "init=a b (c)"], "'init=a b (c)' cannot be read; if its value is a text, quote it: \"init='a b (c)'\"."),
        (["fit", "hydra.verbose=true"], "'hydra.verbose=true' is for sweeps: add -m, or leave it out."),
        (["fit", "-m", "seed=0,x"], "'seed' is a whole number (0 by default), and x is not."),
        (["fit", "-m", "tokenizer=lfq,lqf"], "There is no tokenizer called 'lqf'."),
        (["fit", "-m", "tokenizer=lfq,kl", "tokenizer.quantizer.bits=8"], "'tokenizer.quantizer' has no option 'bits'. "),
        (
            ["fit", "-m", "hydra/launcher=none"],
            "This cannot be composed: In 'hydra/config': Could not find 'hydra/launcher/none'",
        ),
        (["sample", "nmu=3"], "'sample' has no option 'nmu'. Did you mean num? The options are run, num, "),
        (["sample", "tokenizer=kl"], "'sample' has no option 'tokenizer'."),
        (["eval", "evaluation=defualt"], "There is no evaluation called 'defualt'. Did you mean 'default'?"),
        (["show", "generator.dept=2"], "'generator' has no option 'dept'. Did you mean generator.depth?"),
        (["list", "quantiser"], "There is no kind called 'quantiser'. Did you mean 'quantizers'? There are: "),
        (["list", "--pair"], "There is no flag called '--pair'. Did you mean '--pairs'? There are: --pairs, --json."),
        (["list", "data", "metrics"], "vidgen list takes one kind, not 2: data, metrics."),
        (["doctor", "now"], "vidgen doctor takes no arguments, and got 'now'."),
    ],
)
def test_mistakes(words: list[str], sentence: str, runs: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"vidgen: {sentence}")
    assert err.count("\n") == 1
    assert "See: vidgen " in err or "hydra/launcher" in err
    assert not out
    assert not runs
    assert not list(Path().iterdir())


def test_debug_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "generator.dept=2", "--debug"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("vidgen: 'generator' has no option 'dept'.")


@pytest.mark.usefixtures("runs")
def test_bugs_keep_their_traceback() -> None:
    with pytest.raises(ArithmeticError, match="a bug"):
        main(["fit", "seed=13"])


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/x"),
            "The disk is full (writing runs/x); make room and give the same",
        ),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "The disk is full; make room and give the same"),
        (KeyboardInterrupt(), "stopped."),
    ],
)
def test_a_full_disk_and_a_stop_are_no_bugs(
    error: BaseException, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(config: dict[str, Any]) -> None:
        raise error

    monkeypatch.setitem(sys.modules, "vidgen.cli.fit", SimpleNamespace(run=run))
    assert main(["fit"]) == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert capsys.readouterr().err.startswith(f"vidgen: {sentence}")


def test_other_errors_of_the_system_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(config: dict[str, Any]) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setitem(sys.modules, "vidgen.cli.fit", SimpleNamespace(run=run))
    with pytest.raises(OSError, match="Input/output error"):
        main(["fit"])


def test_a_reader_that_leaves_early_is_no_bug(python: Callable[[str], CompletedProcess[str]]) -> None:
    """As in: vidgen list | head -1."""
    program = "import os, sys; read, write = os.pipe(); os.close(read); os.dup2(write, 1)\n"
    done = python(program + "from vidgen.cli import main; sys.exit(main(['list']))")
    assert (done.returncode, done.stderr) == (1, "")


# What is composed


def plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and plain(item) for key, item in value.items())
    if type(value) is list:
        return all(map(plain, value))
    return value is None or type(value) in (bool, int, float, str)


@pytest.mark.parametrize("command", COMPOSED)
def test_a_config_is_plain_values(command: str) -> None:
    assert plain(compose(command, []))


def test_fit_is_run_with_the_config(runs: list[dict[str, Any]]) -> None:
    words = ["tokenizer=kl", "tokenizer.quantizer.channels=4", "generator.patch=[1,1,1]", "init='a run, (mine)'", "seed=1e1"]
    assert main(["fit", *words]) == 0
    (seen,) = runs
    assert seen["tokenizer"]["quantizer"]["channels"] == 4
    assert seen["generator"]["patch"] == [1, 1, 1]
    assert seen["init"] == "a run, (mine)"
    assert (type(seen["seed"]), seen["seed"]) == (int, 10)
    expected = {"tokenizer": "kl", "tokenizer/quantizer": "kl", "generator": "dit", "data": "worlds", "experiment": None}
    assert expected.items() <= seen["choices"].items()
    assert shlex.split(seen["command"]) == ["vidgen", "fit", *words]


def test_parts_inside_parts_are_swapped() -> None:
    composed = compose("fit", ["tokenizer=lfq", "tokenizer/backbone=causal3d_magvit2", "tokenizer/quantizer=kl"])
    assert composed["tokenizer"]["backbone"] == config.load("tokenizer/backbone", "causal3d_magvit2")
    assert composed["tokenizer"]["quantizer"] == config.load("tokenizer/quantizer", "kl")
    assert composed["tokenizer"]["l1"] == config.load("tokenizer", "lfq")["l1"]


def test_a_word_on_the_command_line_beats_the_experiment() -> None:
    smoke = compose("fit", ["experiment=smoke"])
    assert smoke["tokenizer"]["training"]["steps"] < compose("fit", [])["tokenizer"]["training"]["steps"]
    words = ["tokenizer.training.steps=7", "experiment=smoke"]
    assert compose("fit", words)["tokenizer"]["training"] == smoke["tokenizer"]["training"] | {"steps": 7}


def test_plus_means_no_more_than_setting() -> None:
    composed = compose("fit", ["+experiment=smoke", "++seed=3"])
    assert (composed["choices"]["experiment"], composed["seed"]) == ("smoke", 3)


def test_an_experiment_is_held_against_the_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in config.config_dir().rglob("*.yaml"):
        copy = tmp_path / "configs" / path.relative_to(config.config_dir())
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (tmp_path / "configs/experiment/smoke.yaml").write_text("# @package _global_\ngenerator:\n  dept: 2\n", encoding="utf-8")
    monkeypatch.setattr("vidgen.cli.compose.config_dir", lambda: tmp_path / "configs")
    with pytest.raises(vidgen.UserError, match=r"'generator' has no option 'dept'\. Did you mean 'depth'\?"):
        compose("fit", ["experiment=smoke"])


# Sweeps


def test_a_sweep_runs_every_combination_in_turn(runs: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "-m", "generator.depth=2,4", "seed=range(0,2)", "tokenizer=kl"]) == 0
    assert [(seen["generator"]["depth"], seen["seed"]) for seen in runs] == [(2, 0), (2, 1), (4, 0), (4, 1)]
    assert shlex.split(runs[1]["command"]) == ["vidgen", "fit", "generator.depth=2", "seed=1", "tokenizer=kl"]
    assert {str(path) for path in Path().rglob("*") if path.is_file()} == {
        str(path) for path in Path("runs/.sweeps").glob("*/multirun.yaml")
    }
    out, err = capsys.readouterr()
    assert not out
    assert [line for line in err.splitlines() if not line.startswith("vidgen: run ")] == []


def test_a_sweep_leaves_logging_alone(runs: list[dict[str, Any]]) -> None:
    import logging

    before = (logging.getLogger().level, list(logging.getLogger().handlers))
    main(["fit", "-m", "seed=0,1"])
    assert (logging.getLogger().level, list(logging.getLogger().handlers)) == before


def test_a_run_that_fails_does_not_stop_the_sweep(runs: list[dict[str, Any]]) -> None:
    with pytest.raises(ArithmeticError, match="a bug"):
        main(["fit", "--multirun", "seed=13,14"])
    assert [seen["seed"] for seen in runs] == [13, 14]


# Listing and showing


def test_list_shows_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", "--json"])
    listed = json.loads(capsys.readouterr().out)
    for kind in config.GROUPS:
        assert sorted(listed[kind]) == vidgen.names(kind)
    assert all(isinstance(sentence, str) for names in listed.values() for sentence in names.values())
    main(["list"])
    text = capsys.readouterr().out
    assert all(f"  {name}" in text for names in listed.values() for name in names)


@pytest.mark.parametrize("word", ["quantizers", "tokenizer/quantizer"])
def test_list_takes_a_kind_or_its_group(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", word, "--json"])
    assert list(json.loads(capsys.readouterr().out)) == ["quantizers"]


def test_list_shows_a_route_for_every_pair(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", "--pairs", "--json"])
    pairs = json.loads(capsys.readouterr().out)
    assert {name: sorted(routes) for name, routes in pairs.items()} == {
        name: vidgen.names("generators") for name in vidgen.names("tokenizers")
    }
    assert pairs["lfq"]["dit"] == "analog bits, sign at decode"
    assert pairs["kl"]["dit"] == "standardised latents"


@pytest.mark.parametrize("words", [[], ["fit", "tokenizer=kl"], ["tokenizer=kl", "seed=3"], ["sample", "num=3"]])
def test_show_is_the_config_in_yaml(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["show", *words])
    text = capsys.readouterr().out
    command, overrides = (words[0], words[1:]) if words and words[0] in COMPOSED else ("fit", words)
    expected = compose(command, overrides)
    del expected["choices"]
    assert text.startswith(f"# {expected.pop('command')}\n")
    assert yaml.load(text, config._Loader) == expected


# Doctor


def test_doctor_looks_at_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "hint"}
    subjects = [line[8:34].strip() for line in lines]
    for subject in ("vidgen", "torch", "lightning", "CPU", "decoder H.264", "decoder AV1", "C++ compiler", "runs folder"):
        assert subject in subjects


def test_doctor_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "NEEDED", ("no-such-package",))
    monkeypatch.setattr(doctor, "CODECS", {"decoder of nothing": "no_such_codec"})
    assert main(["doctor"]) == 1
    missing = [line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines() if line.startswith("missing")]
    assert len(missing) == 2
    assert missing[0].endswith("pip install no-such-package")
