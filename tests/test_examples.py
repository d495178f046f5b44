"""The package in ``examples/``, installed by itself: found by name, held to the contracts, trained, saved, loaded, and missed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from vidgen import UserError, config, hub, registry
from vidgen.cli.compose import compose
from vidgen.evaluation.rows import read
from vidgen.routes import fitted

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "examples" / "vidgen-extra"
README = (PACKAGE / "README.md").read_text(encoding="utf-8")
COMMANDS = [line for line in README.splitlines() if line.startswith("vidgen ")]

STEPS = [
    *("tokenizer.training.steps=3", "tokenizer.training.batch_size=2", "generator.training.steps=3"),
    *("generator.training.clips=8", "generator.training.batch_size=4", "evaluation.clips=2", "evaluation.samples=3"),
    *("evaluation.shown=1", "trainer.precision=fp32"),
]


def python(*words: str, target: Path | None, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that has vidgen, and what is installed in ``target``."""
    places = [str(place) for place in (ROOT, target) if place]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as pip installs it, offline, from a copy: building leaves files beside the source."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(PACKAGE, folder / "source", ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    options = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    done = python("-m", "pip", "install", *options, "--target", "site", "./source", target=None, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def run(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README's smoke run leaves, in fewer steps."""
    folder = tmp_path_factory.mktemp("run")
    (command,) = [command for command in COMMANDS if "experiment=smoke" in command]
    done = python("-m", *shlex.split(command), *STEPS, target=target, cwd=folder)
    assert done.returncode == 0, done.stderr[-5000:]
    return folder / "runs" / "latest"


def _forget() -> None:
    registry.plugins.cache_clear()
    config.preset_names.cache_clear()


@pytest.fixture
def plugged(target: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package installed for this process, and then no more."""
    monkeypatch.syspath_prepend(target)
    _forget()
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "vidgen_extra"]:
        del sys.modules[name]
    _forget()


def test_its_parts_are_listed(target: Path, tmp_path: Path) -> None:
    listed = json.loads(python("-m", "vidgen", "list", "--json", target=target, cwd=tmp_path).stdout)
    assert listed["quantizers"]["e8"] == listed["metrics"]["gmsd"] == "From vidgen-extra."


def test_its_own_tests_and_ours_of_the_contract_pass(target: Path) -> None:
    chosen = (str(PACKAGE / "tests"), "tests/tokenizers/test_tokenizers.py", "-k", "vidgen-extra or e8")
    done = python("-m", "pytest", "-n", "0", *chosen, "-p", "no:cacheprovider", target=target, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-5000:]
    own = sum(path.read_text(encoding="utf-8").count("\ndef test_") for path in (PACKAGE / "tests").glob("*.py"))
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= own + 20, done.stdout[-2000:]


@pytest.mark.usefixtures("plugged")
@pytest.mark.parametrize("name", ["dit", "maskgit", "var", "ar"])
def test_every_generator_takes_it(name: str) -> None:
    recipe = tiny.shrunk(fitted(config.load("tokenizer", "lfq", {"quantizer": {"name": "e8", "groups": 2}}), name))
    tokenizer = tiny.stirred(hub.build_tokenizer(recipe)).eval()
    generator = tiny.stirred(tiny.generator(name, tokenizer.space, num_classes=2))
    latent = tiny.latent(tokenizer)
    generator.prepare(latent)
    generator.loss(latent, tiny.labels(0, 1, 0, 1)).total.backward()
    sample = generator.eval().sample(2, tiny.shape_of(tokenizer), tiny.labels(0, 1), seed=1)
    assert sample.ids.shape[2] == 2
    assert 2 < int(sample.ids.max()) < 240


def test_a_run_trains_and_reports_the_measure(run: Path) -> None:
    results = {row.name: row for row in read(run / "metrics.jsonl") if row.stage == "evaluation"}
    assert 0 < results["reconstruction/gmsd"].value < 1
    assert (
        results["reconstruction/gmsd"].protocol == "BT.601 luma of full range at half of the size, constant 170, mean over frames"
    )
    assert 0 < results["codebook/usage"].value <= 1
    page = (run / "report.html").read_text(encoding="utf-8")
    assert re.search(r"Gmsd\s*<span class=\"arrow\" title=\"lower is better\">", page)


@pytest.mark.usefixtures("plugged")
def test_what_was_trained_is_loaded_by_name(run: Path) -> None:
    model = hub.load(run / "model")
    about: dict[str, Any] = json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))
    assert about["tokenizer"]["quantizer"] == {"name": "e8", "groups": 1}
    assert type(model.tokenizer.quantizer).__module__ == "vidgen_extra.e8"
    video = model.sample(2, seed=3)
    latent = model.tokenizer.encode(video)
    assert latent.ids is not None
    assert torch.equal(model.tokenizer.space.embed(latent.ids, latent.grids), latent.z)
    assert torch.equal(hub.load(run / "model").sample(2, seed=3), video)


def test_without_the_package_a_sentence_says_what_is_missing(run: Path) -> None:
    with pytest.raises(UserError, match=r"^There is no quantizer called 'e8'\..* There are: bsq, fsq, "):
        hub.load(run / "model")
    with pytest.raises(UserError, match="e8"):
        compose("fit", ["tokenizer/quantizer=e8"])


@pytest.mark.usefixtures("plugged")
@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("vidgen fit ")])
def test_the_commands_that_it_shows_compose(command: str) -> None:
    composed = compose("fit", shlex.split(command)[2:])
    assert composed["tokenizer"]["quantizer"]["name"] == "e8"


def test_its_readme_names_what_there_is() -> None:
    listed = re.findall(r"`((?:vidgen_extra|tests)/[\w.]*|pyproject\.toml)`", README)
    assert len(listed) >= 4
    assert all((PACKAGE / name).exists() for name in listed)
    groups = set(re.search(r"are `vidgen\.` with (.*?);", README, re.DOTALL)[1].replace("\n", " ").replace("`", "").split())
    assert {word.strip(",") for word in groups} - {"or"} == set(registry.KINDS)
