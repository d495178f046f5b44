"""The public face: what `import vidgen` gives, and what it does not import."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch

import vidgen

NOTEBOOK = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("lightning", "pytorch_lightning", "hydra", "omegaconf"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())

import vidgen

print("torch" in sys.modules)
import torch
import vidgen.hub
from pathlib import Path

backbone = dict(patch=(4, 4, 4), widths=[8], encoder_depths=[1], decoder_depths=[1])
data = vidgen.dataset("worlds", frames=5, height=16, width=16, radius=[2, 3])
video = torch.from_numpy(data.clip("train", 0)["video"].copy()).permute(3, 0, 1, 2)[None] / 127.5 - 1
tokenizer = vidgen.tokenizer("lfq", backbone=backbone, quantizer={"bits": 6})
latent = tokenizer.encode(video)
print(tuple(tokenizer.decode(latent).shape) == tuple(video.shape))
options = dict(width=32, depth=1, heads=2)
generator = vidgen.generator("dit", space=tokenizer.space, num_classes=3, **options)
generator.loss(latent, vidgen.Condition(label=torch.tensor([1]))).total.backward()
recipes = dict(
    tokenizer=vidgen.config.load("tokenizer", "lfq", dict(backbone=backbone, quantizer={"bits": 6})),
    generator=vidgen.config.load("generator", "dit", options),
)
vidgen.hub.save(
    Path("model"), tokenizer=tokenizer, generator=generator,
    config=dict(**recipes, num_classes=3, class_names=["a", "b", "c"], shape=[5, 16, 16]),
)
print(tuple(vidgen.load("model").sample(2, (5, 16, 16), label="b", seed=0, steps=2).shape))
"""


def test_the_library_needs_neither_lightning_nor_hydra(python: Callable[[str], CompletedProcess[str]]) -> None:
    done = python(NOTEBOOK)
    assert done.stdout.split("\n")[:3] == ["False", "True", "(2, 3, 5, 16, 16)"], done.stderr


def test_importing_vidgen_imports_no_torch_and_takes_no_time(python: Callable[[str], CompletedProcess[str]]) -> None:
    """Under 0.2 s of the processor's time, that of starting Python included; a busy machine may need a second try."""
    program = """
import sys, time, vidgen
print([module for module in ("torch", "numpy", "yaml", "importlib.metadata") if module in sys.modules], time.process_time())
"""
    seconds = []
    for _ in range(3):
        heavy, _, taken = python(program).stdout.rpartition(" ")
        assert heavy == "[]"
        seconds.append(float(taken))
        if seconds[-1] < 0.2:
            break
    assert min(seconds) < 0.2


def test_the_version_is_the_package_s() -> None:
    project = tomllib.loads(Path(__file__).parent.with_name("pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == vidgen.__version__


def test_everything_promised_is_there() -> None:
    assert all(hasattr(vidgen, name) for name in vidgen.__all__)


def test_overrides_reach_the_parts() -> None:
    tokenizer = vidgen.tokenizer("lfq", quantizer={"bits": 12})
    assert tokenizer.spec.vocab_size == 4096
    assert vidgen.tokenizer("lfq", quantizer="kl").spec.kind == "continuous"
    generator = vidgen.generator("dit", space=tokenizer.space, num_classes=3, depth=1, width=32, heads=2)
    assert sum(weight.numel() for weight in generator.parameters()) < 200_000


def test_a_generator_is_built_for_actions_and_captions() -> None:
    told = {"action": {}, "text": {}}
    space = vidgen.tokenizer("lfq").space
    generator = vidgen.generator(
        "dit", space=space, num_actions=5, vocabulary=("a", "ball"), conditioning=told, depth=1, width=32, heads=2
    )
    assert {"action", "text"} <= set(generator.conditioner.parts)
    generator.conditioner.checked(vidgen.Condition(text=["a ball"], action=torch.tensor([[4]])))
    with pytest.raises(vidgen.UserError, match=r"^Actions go from 0 to 4, and 5 is not one of them"):
        generator.conditioner.checked(vidgen.Condition(action=torch.tensor([[5]])))


def test_data_sets_are_built_by_name() -> None:
    assert vidgen.dataset("worlds", frames=9, height=48).shape == (9, 48, 32)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: vidgen.tokenizer("lqf"), "There is no tokenizer called 'lqf'. Did you mean 'lfq'?"),
        (lambda: vidgen.generator("dit", space=None, dept=3), "'generator' has no option 'dept'. Did you mean 'depth'?"),
        (lambda: vidgen.dataset("world"), "There is no data called 'world'. Did you mean 'worlds'?"),
        (lambda: vidgen.dataset("worlds", frames="many"), "'data.frames' is a whole number (17 by default), and many is not."),
        (lambda: vidgen.names("part"), "There is no kind of part called 'part'."),
        (lambda: vidgen.load("nowhere"), "There is no model in 'nowhere'"),
    ],
)
def test_mistakes_are_sentences(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(vidgen.UserError) as error:
        call()
    assert str(error.value).startswith(sentence)


def test_an_untrained_tokenizer_decodes_what_it_encodes() -> None:
    tokenizer = vidgen.tokenizer("kl", backbone={"widths": [8], "encoder_depths": [1], "decoder_depths": [1]})
    video = torch.rand(2, 3, 7, 16, 24) * 2 - 1
    assert tokenizer.decode(tokenizer.encode(video)).shape == video.shape
