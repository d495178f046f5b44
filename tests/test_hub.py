"""Models saved and loaded: the same to the bit, from wherever they lie, and nothing in a folder can name code to run."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch

import vidgen
from vidgen import UserError, hub, names
from vidgen.routes import fitted

CLASSES = ("bounce", "gravity", "orbit")


def made(tokens: str, name: str | None = None) -> hub.Model:
    """A model whose every weight and buffer is its own, as after training."""
    recipe = tiny.tokenizer_config(tokens)
    recipe = recipe if name is None else fitted(recipe, tiny.generator_config(name)["name"])
    tokenizer = tiny.stirred(hub.build_tokenizer(recipe)).eval()
    tokenizer.measure(tiny.videos(tokenizer))
    generator = None if name is None else tiny.stirred(tiny.generator(name, tokenizer.space, len(CLASSES)), 0.05).eval()
    config = {
        "tokenizer": recipe,
        "generator": None if name is None else tiny.generator_config(name),
        "num_classes": len(CLASSES),
        "class_names": list(CLASSES),
        "shape": list(tiny.shape_of(tokenizer)),
    }
    return hub.Model(tokenizer=tokenizer, generator=generator, config=config)


def save(model: hub.Model, folder: Path) -> Path:
    hub.save(folder, tokenizer=model.tokenizer, generator=model.generator, config=model.config)
    return folder


@pytest.fixture
def model() -> hub.Model:
    return made("lfq", "dit")


@pytest.fixture
def folder(model: hub.Model, tmp_path: Path) -> Path:
    return save(model, tmp_path / "model")


@pytest.mark.parametrize(
    ("tokens", "name"),  # every recipe; what is distinct of all pairs is saved and loaded in test_pairs.py
    [
        *((tokens, "dit") for tokens in tiny.trained()),
        *((tokens, name) for tokens in ("kl", "lfq") for name in names("generators")),
    ],
)
def test_a_loaded_model_encodes_decodes_and_samples_the_same_to_the_bit(tokens: str, name: str, tmp_path: Path) -> None:
    model = made(tokens, name)
    loaded = vidgen.load(save(model, tmp_path / "model"))
    assert tiny.same_weights(loaded.tokenizer, model.tokenizer)
    assert tiny.same_weights(loaded.generator, model.generator)
    assert not any(module.training for part in (loaded.tokenizer, loaded.generator) for module in part.modules())
    video = tiny.video(tiny.shape_of(model.tokenizer))
    latent, again = model.tokenizer.encode(video), loaded.tokenizer.encode(video)
    assert again.tensors().keys() == latent.tensors().keys()
    assert all(torch.equal(value, again.tensors()[field]) for field, value in latent.tensors().items())
    assert torch.equal(loaded.tokenizer.decode(again), model.tokenizer.decode(latent))
    assert torch.equal(loaded.sample(2, label=1, seed=5), model.sample(2, label=1, seed=5))
    assert loaded.class_names == CLASSES


BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("lightning", "pytorch_lightning", "hydra", "omegaconf"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
import torch, vidgen
torch.set_num_threads(1)
model = vidgen.load("model")
expected = torch.load("expected.pt", weights_only=True)
latent = model.tokenizer.encode(expected["video"])
print(torch.equal(model.tokenizer.decode(latent), expected["decoded"]))
print(torch.equal(model.sample(2, label="gravity", seed=5), expected["sample"]))
"""


def test_another_process_without_lightning_and_hydra_gets_the_same(
    model: hub.Model, folder: Path, tmp_path: Path, python: Callable[[str], CompletedProcess[str]]
) -> None:
    video = tiny.video(tiny.shape_of(model.tokenizer))
    decoded = model.tokenizer.decode(model.tokenizer.encode(video))
    expected = {"video": video, "decoded": decoded, "sample": model.sample(2, label="gravity", seed=5)}
    torch.save(expected, tmp_path / "expected.pt")
    done = python(BLOCKED)
    assert done.stdout == "True\nTrue\n", done.stderr


def test_from_a_model_folder_a_run_or_the_hub(
    model: hub.Model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Any]] = []

    def snapshot_download(name: str, *, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(folder)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    monkeypatch.chdir(tmp_path)
    for place in (folder, str(folder), tmp_path, "model", "hf-hub:someone/something"):
        assert tiny.same_weights(vidgen.load(place).tokenizer, model.tokenizer)
    assert asked == [("someone/something", ["*.safetensors", "config.json"])]  # nothing that could be run


def test_a_folder_holds_weights_and_plain_values(folder: Path, model: hub.Model) -> None:
    assert {file.name for file in folder.iterdir()} == {"config.json", "tokenizer.safetensors", "generator.safetensors"}
    config = json.loads((folder / "config.json").read_text())
    assert vidgen.LatentSpec.from_dict(config["spec"]) == model.tokenizer.spec
    assert config["vidgen"] == vidgen.__version__


def test_a_tokenizer_alone(tmp_path: Path) -> None:
    loaded = vidgen.load(save(made("kl"), tmp_path / "model"))
    assert loaded.generator is None
    with pytest.raises(UserError, match=r"has a tokenizer and no generator; train one with 'vidgen fit stage=all'\.$"):
        loaded.sample(1)


def test_saving_again_without_a_generator_forgets_it(model: hub.Model, folder: Path) -> None:
    model.generator, model.config["generator"] = None, None
    assert vidgen.load(save(model, folder)).generator is None


def test_a_save_that_breaks_off_leaves_the_model_that_was_there(
    model: hub.Model, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tensors: dict[str, torch.Tensor], file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hub, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        save(made("lfq", "dit"), folder)
    assert tiny.same_weights(vidgen.load(folder).tokenizer, model.tokenizer)


def test_labels_by_index_by_name_or_one_a_sample() -> None:
    model = made("kl", "dit")
    by_index = model.sample(3, label=2, seed=1)
    assert torch.equal(model.sample(3, label="orbit", seed=1), by_index)
    assert torch.equal(model.sample(3, label=torch.tensor([2, 2, 2]), seed=1), by_index)
    mixed = model.sample(3, label=torch.tensor([0, 2, -1]), seed=1)
    torch.testing.assert_close(mixed[1], by_index[1], rtol=1e-4, atol=1e-4)
    assert not torch.equal(mixed[0], by_index[0])
    torch.testing.assert_close(mixed[2], model.sample(3, seed=1)[2], rtol=1e-4, atol=1e-4)


def test_samples_are_videos_of_the_size_of_training_or_another(model: hub.Model) -> None:
    frames, height, width = tiny.shape_of(model.tokenizer)
    video = model.sample(2, seed=1)
    assert video.shape == (2, 3, frames, height, width)
    assert -1 <= float(video.min()) <= float(video.max()) <= 1
    assert not video.requires_grad
    assert model.sample(1, (1, 2 * height, width)).shape == (1, 3, 1, 2 * height, width)
    torch.testing.assert_close(model.sample(1, seed=1, first=1), video[1:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        ("gravty", "This model knows no label 'gravty'. Did you mean 'gravity'? Its labels: bounce, gravity, orbit."),
        (3, "Labels go from 0 to 2, and 3 is not one of them."),
        (-2, "Labels go from 0 to 2, and -2 is not one of them."),
    ],
)
def test_unknown_labels_are_one_sentence(model: hub.Model, label: Any, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        model.sample(1, label=label)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"label": torch.tensor([0, 1])}, "'label' has values for 2 samples, and there are 4"),
        ({"action": torch.zeros(3, 5, dtype=torch.long)}, "'action' has values for 3 samples, and there are 4"),
        ({"action": [0, 1]}, "There are 2 actions for "),
    ],
)
def test_a_wrong_number_of_values_is_one_sentence(model: hub.Model, told: dict[str, Any], sentence: str) -> None:
    model.config["action_names"] = ["left", "right"]
    with pytest.raises(UserError, match=f"^{sentence}.*: give one for each, or one for all\\.$"):
        model.sample(4, **told)


@pytest.mark.parametrize("label", [0, "bounce"])
def test_a_model_without_labels_says_so(model: hub.Model, label: Any) -> None:
    model.config["class_names"] = []
    with pytest.raises(UserError) as error:
        model.sample(1, label=label)
    assert str(error.value) == f"This model was trained without labels, so label={label} says nothing to it: leave label out."


EVIL = ("evil", "evil.LFQ", "os.system", "builtins.eval", "../../evil", "vidgen.quantizers.lfq", "__init__", "autoencoder:evil")


@pytest.mark.parametrize("part", ["tokenizer", "tokenizer.quantizer", "tokenizer.backbone", "generator"])
@pytest.mark.parametrize("name", EVIL)
def test_a_tampered_config_cannot_name_code(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, name: str
) -> None:
    """A module of that name lies ready to be imported, and is not."""
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath('ran').touch()\nclass LFQ: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^There is no [a-z]+ called '{name}'"):
        vidgen.load(tampered(folder, part, name=name))
    assert not (tmp_path / "ran").exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize("part", ["tokenizer", "tokenizer.quantizer", "tokenizer.backbone", "generator"])
@pytest.mark.parametrize("key", ["_target_", "__class__", "_partial_", "self"])
def test_a_tampered_config_cannot_add_options(folder: Path, part: str, key: str) -> None:
    with pytest.raises(UserError, match=f"has no option '{key}'"):
        vidgen.load(tampered(folder, part, **{key: "os.system"}))


def tampered(folder: Path, part: str, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    here = config
    for step in part.split("."):
        here = here[step]
    here.update(changes)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def other_kind(folder: Path) -> None:
    (folder / "config.json").write_text('{"architectures": ["SomethingElse"], "format": 1}')


def other_weights(folder: Path) -> None:
    hub.save_file({"a": torch.zeros(2)}, folder / "generator.safetensors")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "config.json").unlink(), "There is no model in '{}': neither it nor its 'model' folder has a "),
        (lambda folder: (folder / "config.json").write_text("{"), "'{}/config.json' is not JSON: "),
        (lambda folder: (folder / "config.json").write_text("[]"), "'{}' holds no model of vidgen's"),
        (other_kind, "'{}' holds no model of vidgen's"),
        (lambda folder: (folder / "tokenizer.safetensors").unlink(), "The weights in '{}/tokenizer.safetensors' do not fit"),
        (lambda folder: (folder / "tokenizer.safetensors").write_bytes(b"x" * 99), "The weights in '{}/tokenizer.safetensors' "),
        (other_weights, "The weights in '{}/generator.safetensors' do not fit their config: "),
    ],
)
def test_a_foreign_or_damaged_folder_is_one_sentence(folder: Path, damage: Callable[[Path], Any], sentence: str) -> None:
    damage(folder)
    with pytest.raises(UserError) as error:
        vidgen.load(folder)
    assert str(error.value).startswith(sentence.format(folder))
    assert "\n" not in str(error.value)


def test_another_format_is_one_sentence(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"format": 99}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as error:
        vidgen.load(folder)
    assert str(error.value) == f"'{folder}' has model format 99, and this version of vidgen reads format {hub.FORMAT}."


def test_a_folder_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"^There is no model in 'nowhere': .* as 'vidgen fit' writes\.$"):
        vidgen.load("nowhere")


def test_the_hash_of_weights_tells_every_weight_and_name() -> None:
    tokenizer = tiny.tokenizer("kl")
    same, changed, buffer = (copy.deepcopy(tokenizer) for _ in range(3))
    next(changed.parameters()).data.view(-1)[-1] += 1e-6
    buffer.standardise.std[0] = 2.0
    assert hub.weights_hash(same) == hub.weights_hash(tokenizer)
    assert len({hub.weights_hash(part) for part in (tokenizer, changed, buffer, torch.nn.Identity())}) == 4
    assert len({hub.weights_hash(torch.nn.ParameterDict({name: torch.zeros(2)})) for name in "ab"}) == 2


def test_a_fingerprint_is_of_values_and_not_of_their_order() -> None:
    assert hub.fingerprint({"a": 1, "b": (1, 2)}, 3) == hub.fingerprint({"b": [1, 2], "a": 1}, 3)
    different = [({"a": 1}, 3), ({"a": 2}, 3), ({"a": 1}, "3"), ({"a": 1.5}, 3), ({"a": 1, "b": None}, 3), ({"a": [1]}, 3)]
    assert len({hub.fingerprint(*parts) for parts in different}) == len(different)
