"""The command line: what each command prints, what each mistake says, what is composed, and two tiny runs of the real thing."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

import vidgen
from vidgen import config
from vidgen.cli import COMMANDS, COMPOSED, doctor, help, main
from vidgen.cli.compose import compose
from vidgen.cli.progress import clock
from vidgen.evaluation import rows


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
        ("list tokenizers", 0, "lfq_magvit2"),
        ("fit --help", 0, "tokenizer/quantizer="),
        ("fit --help", 0, "generator/head="),
        ("doctor -h", 0, "Usage: vidgen doctor"),
        ("fti", 2, "Did you mean 'fit'?"),
        ("fit tokenizer=lqf", 2, "Did you mean 'lfq'?"),
        ("fit generator.dept=2", 2, "Did you mean generator.depth?"),
        ("fit generator.depth=two", 2, "a whole number"),
        ("fit stage=generetor", 2, "Did you mean 'generator'?"),
    ],
)
def test_answers_at_once_without_torch(
    command: str, status: int, said: str, python: Callable[[str], CompletedProcess[str]]
) -> None:
    """In under half a second of the processor's time, that of starting Python included; a busy machine may need a second try."""
    for _ in range(3):
        done = python(
            "import sys, time\n"
            "from vidgen.cli import main\n"
            f"status = main({shlex.split(command)})\n"
            "heavy = {'torch', 'lightning', 'numpy', 'matplotlib', 'rich'} & set(sys.modules)\n"
            "print(time.process_time())\n"
            "sys.exit(f'imported {heavy}' if heavy else status)"
        )
        out, _, seconds = done.stdout.removesuffix("\n").rpartition("\n")
        if float(seconds) < 0.5:
            break
    else:
        pytest.fail(f"'vidgen {command}' took {seconds} s")
    assert done.returncode == status, done.stderr
    assert said in (done.stderr if status else out)
    assert not (out if status else done.stderr)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_whole(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    for part in ("Usage: vidgen", "Examples:", "Output: ", help.purpose(command)):
        assert part in text
    assert len(help.COMMANDS[command].examples) == {"doctor": 1, "sample": 4}.get(command, 3)
    assert max(map(len, text.splitlines())) <= 150


@pytest.mark.parametrize("command", COMPOSED)
def test_help_names_every_part_and_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([command, "--help"])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    groups = config.command_groups(command)
    for group in groups:
        assert f"{group}=" + ("[NAME,...]" if group in config.SEVERAL else "") in lines
        for name in config.preset_names(group):
            assert any(line.startswith(name) and config.describe(group, name) in line for line in lines)
    own = [key for key in compose(command, []) if key not in (*groups, "choices", "command")]
    for key in own:
        assert any(line.startswith((f"{key}=", f"{key}.")) for line in lines), key


@pytest.mark.parametrize("example", [example for command in help.COMMANDS.values() for example in command.examples])
def test_examples_can_be_copied(example: str, runs: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    _, command, *words = shlex.split(example)
    if command in COMPOSED:
        compose(command, words)
    elif command not in ("doctor", "data", "compare"):  # whose examples need videos, or runs
        assert main([command, *words]) == 0
        assert capsys.readouterr().out


# Mistakes: one sentence, status 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["fti"], "There is no command 'fti'. Did you mean 'fit'? The commands are fit, eval, sample, encode, decode, "),
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
            "'generator' has no option 'dept'. Did you mean generator.depth? The options are conditioning, name, width",
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
        (["fit", "generator.depth=two"], "'generator.depth' is a whole number ("),
        (["fit", "generator.depth=1.5"], "'generator.depth' is a whole number ("),
        (["fit", "seed=null"], "'seed' is a whole number ("),
        (["fit", "seed=${stage}"], "'seed' is a whole number ("),
        (["fit", "seed=${nowhere}"], "This cannot be composed: Interpolation key 'nowhere' not found"),
        (["fit", "stage=gen"], "'stage' is one of all, tokenizer, generator, and gen is not. Did you mean 'generator'?"),
        (["fit", "reuse=yes"], "'reuse' is one of auto, never, and yes is not."),
        (["fit", "trainer.accelerator=gpu"], "'trainer.accelerator' is one of auto, cpu, cuda, mps, and gpu is not."),
        (
            ["fit", "trainer.precision=fp16"],
            "'trainer.precision' is one of auto, bf16, fp32, and fp16 is not. Did you mean 'bf16'?",
        ),
        (["fit", "tokenizer.training.optimizer=adam"], "'tokenizer.training.optimizer' is one of adamw, muon, and adam is not."),
        (["fit", "logger.name=cvs"], "There is no logger called 'cvs'. Did you mean 'csv'?"),
        (["fit", "generator.training.steps=0"], "'generator.training.steps' is at least 1, and 0 is not."),
        (["fit", "generator.training.ema=1.5"], "'generator.training.ema' is between 0 and 1, and 1.5 is not."),
        (["fit", "generator.training.lr=nan"], "'generator.training.lr' is at least 0, and nan is not."),
        (["fit", "evaluation.clips=0"], "'evaluation.clips' is at least 1, and 0 is not."),
        (["fit", "init=3"], "'init' is a word (null by default), and 3 is not."),
        (["fit", "data=folder", "data.fps=fast"], "'data.fps' is a number (null by default), and fast is not."),
        (["sample", "num=0"], "'num' is at least 1, and 0 is not."),
        (["sample", "shape=32"], "'shape' is a list of whole numbers (null by default), and 32 is not."),
        (["show", "eval", "evaluation.steps=few"], "'evaluation.steps' is a whole number (null by default), and few is not."),
        (["fit", "generator.patch=2"], "'generator.patch' is a list of whole numbers ("),
        (["fit", "--seed=3"], "'--seed=3' is not a flag of this command; options have no dashes: seed=3."),
        (["fit", "lfq"], "'lfq' is not of the form key=value. Did you mean tokenizer=lfq?"),
        (["fit", "seed"], "'seed' is not of the form key=value."),
        (["fit", "~seed"], "'~seed' would take an option away, and every recipe needs all of its own; set it instead."),
        (["fit", "tokenizer@x=kl"], "'tokenizer@x=kl' would put a part elsewhere, and each has its own place; leave out @x."),
        (["fit", "seed=0,1"], "'seed=0,1' has several values: add -m to run each, or quote it if it is one: \"seed='0,1'\"."),
        (["fit", "init=a b (c)"], "'init=a b (c)' cannot be read; if its value is a text, quote it: \"init='a b (c)'\"."),
        (["fit", "hydra.verbose=true"], "'hydra.verbose=true' is for sweeps: add -m, or leave it out."),
        (["fit", "-m", "seed=0,x"], "'seed' is a whole number ("),
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
        (["doctor", "now"], "vidgen doctor takes nothing or --fvd FILE [--long], and got 'now'."),
        (["doctor", "--fvd"], "vidgen doctor --fvd needs the file of I3D's weights: "),
        (["doctor", "--fvd", "a", "b"], "vidgen doctor takes nothing or --fvd FILE [--long], and got 'a'."),
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
    assert composed["tokenizer"]["loss"] == config.load("tokenizer", "lfq")["loss"]


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


# The real thing: two tiny runs by a sweep, and what can be wrong with the commands that train, sample and measure

TINY = [
    *(
        "experiment=smoke",
        "data.frames=5",
        "data.height=16",
        "data.width=16",
        "data.radius=[2,3]",
        "data.families=[bounce,gravity]",
    ),
    *("tokenizer.backbone.widths=[8]", "tokenizer.quantizer.bits=4"),
    *("tokenizer.training.steps=2", "tokenizer.training.batch_size=2"),
    *("generator.width=16", "generator.depth=1", "generator.heads=1", "generator.steps=2"),
    *("generator.training.steps=2", "generator.training.batch_size=2", "generator.training.clips=4"),
    *("evaluation.clips=2", "evaluation.samples=3", "evaluation.shown=2", "trainer.precision=fp32"),
]
OF_THE_TOKENIZER = [word for word in TINY if word.startswith("tokenizer")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the two runs of a sweep; what was printed is in ``said``."""
    folder = tmp_path_factory.mktemp("trained")
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main(["fit", "-m", *TINY, "seed=0,1"]) == 0
    (folder / "out").write_text(out.getvalue(), encoding="utf-8")
    (folder / "err").write_text(err.getvalue(), encoding="utf-8")
    return folder


@pytest.fixture
def no_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever takes more than a moment fails the test."""
    from vidgen.cli import plan

    def work(*_: object) -> None:
        pytest.fail("long work began")

    monkeypatch.setattr(plan, "choose", work)
    monkeypatch.setattr(plan.Plan, "estimate", work)


def mistake(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence that a command answers with, all there is on stderr but for what ``folder`` says of the files it reads."""
    assert main(words) == 2
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if not line.startswith(("Read ", "Left out "))]
    assert len(lines) == 1
    return lines[0].removeprefix("vidgen: ")


def test_a_sweep_trains_every_combination(trained: Path) -> None:
    folders = sorted(path for path in (trained / "runs").iterdir() if (path / "report.html").is_file() and not path.is_symlink())
    assert [yaml.safe_load((path / "config.yaml").read_text())["seed"] for path in folders] == [0, 1]
    assert (trained / "runs/latest").resolve() == folders[1]
    assert (trained / "out").read_text().count("Open the report:") == 2
    said = (trained / "err").read_text().splitlines()
    assert [line[:25] for line in said] == ["vidgen: run 1: vidgen fit", "vidgen: run 2: vidgen fit"]  # and not a warning


def test_a_trained_run_is_sampled_and_measured_again(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained / "runs/latest"
    assert main(["sample", f"run={run}", "num=3", "batch_size=2", "label=gravity", "out=drawn"]) == 0
    assert {path.name for path in Path("drawn").glob("*.mp4")} == {"grid.mp4", "0000.mp4", "0001.mp4", "0002.mp4"}
    again = ["eval", f"run={run}", "out=again", "evaluation.clips=2", "evaluation.samples=2", "evaluation.shown=1"]
    assert main(again) == main(again) == 0
    assert (run / "again/report.html").is_file()
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["label=gravitty"], "This model knows no label 'gravitty'. Did you mean 'gravity'? Its labels: bounce, gravity."),
        (["label=7"], "Labels go from 0 to 1, and 7 is not one of them."),
        (["shape=[5,18,16]"], "The height 18 is not a multiple of the tokenizer's stride 4; the nearest that fits is 16 or 20."),
        (["shape=[5,16]"], "shape=[5, 16] is not [frames,height,width]; leave it out for the size of training."),
        (["run=nowhere"], "There is no model in 'nowhere'"),
        (["run=empty"], "There is no model in 'empty'"),
        (["out=file"], "out=file cannot be written to (Not a directory: file); give out=FOLDER, a writable one."),
    ],
)
def test_mistakes_of_sample(words: list[str], sentence: str, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    Path("file").touch()
    assert mistake(["sample", f"run={trained / 'runs/latest'}", "num=1", "out=drawn", *words], capsys).startswith(sentence)
    assert not Path("drawn").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run=nowhere"], "run=nowhere is not the folder of a run; give one that 'vidgen fit' made, such as runs/latest."),
        (["out=samples"], "out=samples is not a new folder in "),
        (["out=."], "out=. is not a new folder in "),
        (["out=../elsewhere"], "out=../elsewhere is not a new folder in "),
        (["data.path=clips"], "data.path=clips is for runs on videos of a folder, and this one is on worlds: leave it out."),
        (["data=worlds"], "'data' is a group of options and not one value. See: vidgen eval --help"),
        (["out=again", "evaluation.metrics=[frechet]"], "'frechet' is in every report, as motion-FD: leave it out"),
    ],
)
def test_mistakes_of_eval(words: list[str], sentence: str, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained / "runs/latest"
    before = sorted(run.rglob("*"))
    assert mistake(["eval", f"run={run}", *words], capsys).startswith(sentence)
    assert sorted(run.rglob("*")) == before  # nothing is lost


def test_videos_that_have_moved_are_told_where(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The advice that eval gives is one that it takes, and other classes than the run's are noticed."""
    from vidgen.viz import write_mp4

    noise = np.random.default_rng(0)
    for name in [f"{folder}/{file}" for folder in ("moved/bounce", "moved/gravity", "other/a", "other/b") for file in range(3)]:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        write_mp4(Path(f"{name}.mp4"), noise.integers(0, 255, (9, 16, 16, 3), dtype=np.uint8))
    run = Path("run")
    shutil.copytree(trained / "runs/latest", run)
    fitted = yaml.safe_load((run / "config.yaml").read_text())
    frames = fitted["data"]["frames"]
    folder = config.load("data", "folder", {"path": "moved-away", "frames": frames, "height": 16, "width": 16})
    (run / "config.yaml").write_text(yaml.safe_dump(fitted | {"data": folder}))
    again = ["eval", f"run={run}", "evaluation.clips=2", "evaluation.samples=2", "evaluation.shown=1"]
    assert mistake(again, capsys).startswith("There is no folder data.path=moved-away: ")
    assert main([*again, "data.path=moved"]) == 0
    assert yaml.safe_load((run / "eval/config.yaml").read_text())["data"]["path"] == "moved"
    said = mistake([*again, "data.path=other"], capsys)
    assert said == (
        "The data's classes are a, b, and the run's are bounce, gravity; "
        "give data.path=FOLDER, the folder that it was trained on."
    )


@pytest.fixture
def videos() -> None:
    """Folders of videos with which something is wrong: ``one`` holds 20 frames, ``broken`` none, ``texts`` no video."""
    from vidgen.viz import write_mp4

    for name in ("one", "broken", "texts", "empty"):
        Path(name).mkdir()
    write_mp4(Path("one/a.mp4"), np.random.default_rng(0).integers(0, 255, (20, 16, 16, 3), dtype=np.uint8))
    Path("broken/a.mp4").write_bytes(b"no video")
    Path("texts/a.txt").touch()
    Path("file").touch()


@pytest.mark.usefixtures("no_long_work", "videos")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("data.height=34", "The height 34 is not a multiple of the tokenizer's stride 4; the nearest that fits is 32 or 36."),
        ("data=folder data.path=one data.width=30", "The width 30 is not a multiple of the tokenizer's stride 4; the nearest"),
        ("data=folder", "data=folder does not know which folder: give data.path=FOLDER"),
        ("data=folder data.path=nowhere", "There is no folder data.path=nowhere"),
        ("data=folder data.path=emtpy", "There is no folder data.path=emtpy: did you mean data.path=empty?"),
        ("data=folder data.path=empty", "No video lies in "),
        ("data=folder data.path=texts", "No video lies in "),
        ("data=folder data.path=file", "data.path=file is a file and not a folder: give data.path=., where it lies."),
        ("data=folder data.path=broken", "None of the 1 videos in "),
        ("data=folder data.path=one", "{here}/one has too few usable videos, 1 for 3 splits"),
        ("data=folder data.path=one data.frames=21", "No video in {here}/one is long enough: the longest, a.mp4, has 20 frames"),
        ("data.families=[bonce]", "data.families names 'bonce', which there is not. Did you mean 'bounce'?"),
        ("generator.depth=0", "depth=0 makes no transformer: give depth=1 or more."),
        (
            "generator.patch=[2,2]",
            "dit's patch=[2, 2] is not [frames,height,width] of at least 1 each; the nearest is patch=[",
        ),
        ("generator.width=30", "The width 30 does not split into 4 heads of an even size; the nearest that does is 32."),
        (
            "generator.training.clips=0",
            "generator.training.clips=0 caches the latents of an epoch, and this data has 4294967296 ",
        ),
        ("generator.name=lfq", "There is no generator called 'lfq'."),
        ("runs=file", "runs=file cannot be written to (Not a directory: file); give runs=FOLDER, a writable one."),
        ("runs=/proc/runs", "runs=/proc/runs cannot be written to ("),
        ("stage=generator", "stage=generator needs a trained tokenizer: give tokenizer.from=RUN, or use stage=all"),
        ("tokenizer.from=nowhere", "There is no model in 'nowhere'"),
        ("tokenizer.from=empty", "There is no model in 'empty'"),
        ("init=nowhere", "There is no model in 'nowhere'"),
        ("resume=nowhere", "resume=nowhere is not the folder of a run; give one that 'vidgen fit' made, or resume=auto."),
        ("resume=empty", "resume=empty is not the folder of a run"),
        ("logger=wandb", 'logger=wandb needs a package that is not installed: pip install "vidgen[wandb]".'),
        (
            "trainer.accelerator=cuda",
            "accelerator=cuda, but this machine has no such device that torch can use; leave it at auto.",
        ),
        ("trainer.compile=true", "trainer.compile=true needs a C++ compiler: none found"),
    ],
)
def test_mistakes_of_fit(words: str, sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """They come before any long work, and leave no run behind."""
    import importlib.util

    import torch

    if "/proc" in words and not Path("/proc/self").exists():
        pytest.skip("no /proc here, a folder that nobody can write to")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert mistake(["fit", *words.split()], capsys).startswith(sentence.replace("{here}", str(Path.cwd())))
    assert [str(path) for path in Path().glob("runs/*")] in ([], ["runs/cache"])


@pytest.fixture
def unfinished(trained: Path) -> Path:
    """A copy of the first run as if it had been cut short."""
    source = next(path for path in sorted((trained / "runs").glob("*-dit")) if not path.is_symlink())
    copy = Path("runs") / source.name
    shutil.copytree(source, copy)
    state = json.loads((copy / "state.json").read_text())
    (copy / "state.json").write_text(json.dumps(state | {"status": "running"}))
    return copy


@pytest.mark.usefixtures("no_long_work")
def test_a_run_that_cannot_be_gone_on_with(unfinished: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resume = [f"resume={unfinished}"]
    with (unfinished / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert mistake(["fit", *TINY, *resume], capsys) == (
            f"The run {unfinished} is in use by another process; wait for it to end, or start a new run with resume=never."
        )
    assert mistake(["fit", *TINY, "seed=5", *resume], capsys).startswith(f"The run {unfinished} has another recipe; ")
    done = (trained / "runs/latest").resolve()
    assert mistake(["fit", *TINY, f"resume={trained / 'runs/latest'}"], capsys) == (
        f"The run {done} is finished; to train on from its weights use init={done}."
    )


def test_a_worker_that_outlives_its_run_does_not_keep_the_folder(python: Callable[[str], CompletedProcess[str]]) -> None:
    done = python("""
import os, signal
from pathlib import Path
from vidgen.runs import find_run, new_run

run = new_run(Path("runs"), "title", "fingerprint")
ready, started = os.pipe()
worker = os.fork()
if not worker:
    os.write(started, b"!")
    signal.pause()
os.read(ready, 1)
print(find_run(Path("runs"), "fingerprint", "auto"))
run.release()
again = find_run(Path("runs"), "fingerprint", "auto")
os.kill(worker, signal.SIGKILL)
print(again is not None)
""")
    assert done.stdout.split() == ["None", "True"], done.stderr


def test_a_run_goes_on_in_its_own_precision(unfinished: Path, no_long_work: None) -> None:
    """Whatever the probe would say now; and ``latest`` leads to it again."""
    from vidgen.cli.plan import Plan

    state = json.loads((unfinished / "state.json").read_text())
    (unfinished / "state.json").write_text(json.dumps(state | {"precision": "bf16"}))
    plan = Plan(compose("fit", TINY))
    assert plan.resumed is not None
    assert (plan.resumed.path, plan.precision) == (unfinished, "bf16")
    assert Path("runs/latest").resolve() == unfinished.resolve()


class TestGivenModels:
    @pytest.mark.usefixtures("no_long_work")
    def test_that_do_not_fit_are_told(self, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = trained / "runs/latest"
        said = mistake(["fit", *TINY, "tokenizer.quantizer.bits=5", f"init={run}"], capsys)
        assert said == "init: the run's Autoencoder has another shape than this recipe's Autoencoder; give both the same options."
        said = mistake(["fit", f"tokenizer.from={run}", "tokenizer.loss.l1=2"], capsys)
        assert said == (
            f"tokenizer.from={run.resolve()} takes that tokenizer (lfq) as it was trained, and tokenizer.loss.l1=2 would "
            "change it; leave one of the two out."
        )
        assert not Path("runs").exists()

    def test_keep_their_name_and_origin(self, trained: Path) -> None:
        """Else a tokenizer trained on other data, or from other weights, would be taken for one of this data by its recipe."""
        from vidgen.cli.plan import Plan

        run = trained / "runs/latest"
        model = json.loads((run / "model/config.json").read_text())
        words = [word for word in TINY if word not in OF_THE_TOKENIZER] + ["data.seed=3"]
        given = Plan(compose("fit", ["tokenizer=lfq", *words, f"tokenizer.from={run}"]))
        assert given.tokenizer_fingerprint == model["tokenizer_fingerprint"]
        assert given.config["tokenizer"]["quantizer"]["bits"] == 4
        assert given.names == {"tokenizer": "lfq", "generator": "dit"}
        assert given.trained_tokenizer() == str(run.resolve())
        plain, tuned = Plan(compose("fit", TINY)), Plan(compose("fit", [*TINY, f"init={run}"]))
        assert plain.tokenizer_fingerprint != tuned.tokenizer_fingerprint
        assert plain.fingerprint != tuned.fingerprint
        again = Plan(compose("fit", [*TINY, "seed=1"]))
        assert again.tokenizer_fingerprint == model["tokenizer_fingerprint"]

    def test_are_known_by_their_weights(self, trained: Path) -> None:
        """``runs/latest`` means another run every time, and a run may be moved."""
        from vidgen.cli.plan import Plan

        shutil.copytree(trained / "runs/latest/model", "moved")
        first, second = (
            Plan(compose("fit", [*TINY, f"init={path}"])).fingerprint for path in (trained / "runs/latest", Path("moved"))
        )
        assert first == second


def test_a_long_estimate_names_what_is_quicker(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vidgen.cli import fit, plan

    monkeypatch.setattr(plan.loop, "seconds_a_step", lambda *_, **__: 1000.0)
    monkeypatch.setattr(fit.Fit, "_make_tokenizer", lambda self: (_ for _ in ()).throw(vidgen.UserError("enough")))
    words = [word for word in TINY if not word.startswith("experiment")]
    assert main(["fit", *words, "generator=dit_s", "generator.heads=1"]) == 2
    said = capsys.readouterr().out
    assert "estimate   about 2 h 13 min of training (tokenizer 1 h 6 min, generator 1 h 6 min)\n" in said
    assert "That is long: generator=dit is smaller; experiment=smoke runs the whole path in under a minute.\n" in said


def test_ctrl_c_between_two_stages_says_how_to_go_on(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from vidgen.cli import fit

    def stop(self: fit.Fit) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fit.Fit, "_make_tokenizer", stop)
    with pytest.raises(SystemExit, match="130"):
        main(["fit", *TINY])
    said = capsys.readouterr().out
    assert "Stopped; the state is kept. The same command goes on from here:\n  vidgen fit experiment=smoke" in said
    with pytest.raises(SystemExit, match="130"):
        main(["fit", *TINY])
    assert "(going on with it)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3900, "1 h 5 min"),
        (3 * 86400 + 4 * 3600, "3 days 4 h"),
    ],
)
def test_time_is_said_as_people_say_it(seconds: float, said: str) -> None:
    assert clock(seconds) == said


def test_a_step_that_would_take_long_is_estimated_from_one_clip(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vidgen.cli import plan

    tried = []

    def seconds(task: Any, batch: Any, **_: object) -> float:
        count = len(batch["video"] if isinstance(batch, dict) else batch[0])
        tried.append(count)
        return 40.0 * count if task.stage == "tokenizer" else 0.5 * count

    monkeypatch.setattr(plan.loop, "seconds_a_step", seconds)
    assert plan.Plan(compose("fit", TINY)).estimate() == {"tokenizer": 160.0, "generator": 2.0}
    assert tried == [1, 1, 2]


@pytest.mark.slow
def test_compiled_training_does_the_same(trained: Path) -> None:
    if doctor.compiler().state != "ok":
        pytest.skip(f"nothing can be compiled here: {doctor.compiler().detail}")
    from torch._dynamo.utils import counters

    counters.clear()
    assert main(["fit", *TINY, "seed=0", "trainer.compile=true"]) == 0
    assert counters["stats"]["unique_graphs"] >= 2  # a network for each stage
    plain = next(path for path in sorted((trained / "runs").glob("*-dit")) if not path.is_symlink())
    losses = [
        [row.value for row in rows.read(run / "metrics.jsonl") if row.split == "train" and row.name.startswith("loss/")]
        for run in (plain, Path("runs/latest"))
    ]
    assert len(losses[0]) > 2
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """A real one, of a few kilobytes, in a name space of this test's own: at the start nothing is left, later the state is."""
    enter = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*enter, "mount -t tmpfs tmpfs /mnt"], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here, so that none can be filled")
    small = tmp_path / "small"
    small.mkdir()
    fit = shlex.join([sys.executable, "-m", "vidgen", "fit", *TINY, f"runs={small}"])
    environment = os.environ | {"PYTHONPATH": str(Path(vidgen.__file__).parent.parent)}
    for size, left in (("4k", []), ("64k", ["latest", "state.json"])):
        script = f"mount -t tmpfs -o size={size} tmpfs {small} && {{ [ {size} = 64k ] || head -c 4096 /dev/zero >{small}/full; }}"
        done = subprocess.run(
            [*enter, f"{script}; {fit}; code=$?; find {small} -name latest -o -name state.json; exit $code"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert re.fullmatch(
            r"vidgen: The disk is full \(writing .*\); make room and give the same command again\.\n", done.stderr
        )
        assert sorted(Path(line).name for line in done.stdout.splitlines() if line.startswith(str(small))) == left


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


def test_list_tells_of_every_pair(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", "--pairs", "--json"])
    rows = json.loads(capsys.readouterr().out)
    found = {(row["tokenizer"], row["generator"]): row for row in rows}
    assert len(found) == len(rows)
    assert set(found) == {(one, other) for one in vidgen.names("tokenizers") for other in vidgen.names("generators")}
    assert all(list(row) == ["tokenizer", "generator", "layout", "head", "route"] and all(row.values()) for row in rows)
    shown = {"layout": "one grid", "head": "-"}
    assert found["lfq", "dit"].items() >= {**shown, "route": "analog bits, sign at decode"}.items()
    assert found["kl", "dit"].items() >= {**shown, "route": "standardised latents"}.items()
    assert found["pyramid_clip", "var"]["layout"] == "4 scales for each 4 cells of time"
    assert found["fsq", "var"]["route"].endswith("; fit trains the tokenizer with scales")
    assert found["kl", "var"].items() >= {"layout": "4 scales of its own", "head": "flow"}.items()


def test_pairs_that_are_alike_share_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", "--pairs"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["tokenizer", "generator", "layout", "head", "route"]
    assert sum(line.startswith("lfq ") and "dit, dit_b, dit_forcing, dit_l, dit_s, dit_xl" in line for line in lines) == 1


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


def test_doctor_knows_what_vidgen_needs() -> None:
    project = tomllib.loads(Path(__file__).parent.with_name("pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [re.match(r"[\w-]+", requirement)[0] for requirement in project["dependencies"]] == list(doctor.NEEDED)
    extras = project["optional-dependencies"]
    assert {"tensorboard", "wandb"} <= set(extras) & set(doctor.OPTIONAL)
    constraints = Path(__file__).parent.with_name("constraints.txt").read_text(encoding="utf-8").lower()
    for name in (*doctor.NEEDED, "tensorboard", *(re.match(r"[\w-]+", requirement)[0] for requirement in extras["test"])):
        assert f"\n{name.lower()}==" in constraints, f"{name} has no tested version"


def test_doctor_finds_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub/checkpoints" / doctor.WEIGHTS["LPIPS"][0]
    file.parent.mkdir(parents=True)
    file.touch()
    main(["doctor"])
    states = {line[8:34].strip(): line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert (states["weights for LPIPS"], states["weights for FVD"]) == ("ok", "hint")


def test_doctor_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "NEEDED", ("no-such-package",))
    monkeypatch.setattr(doctor, "CODECS", {"decoder of nothing": "no_such_codec"})
    assert main(["doctor"]) == 1
    missing = [line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines() if line.startswith("missing")]
    assert len(missing) == 2
    assert missing[0].endswith("pip install no-such-package")
