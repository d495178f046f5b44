"""Names to parts: by file, without importing anything to list them, and from other packages."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

import vidgen
from vidgen import LatentSpec, UserError, config, registry, routes
from vidgen.cli.compose import compose


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_file_that_defines_its_own_class_is_found(kind: str) -> None:
    for name, cls in registry.parts(kind).items():
        found = registry.find(kind, name)
        assert found.__name__ == cls
        assert found.__name__.lower() == name.replace("_", "")
        assert found.__module__ == f"vidgen.{kind}.{name}"


def test_listing_imports_no_part_and_no_torch(python: Callable[[str], CompletedProcess[str]]) -> None:
    done = python(
        "import json, sys, vidgen\n"
        f"names = {{kind: vidgen.names(kind) for kind in {registry.KINDS}}}\n"
        "print(json.dumps([names, sorted(sys.modules)]))"
    )
    names, modules = json.loads(done.stdout)
    assert names == {kind: vidgen.names(kind) for kind in registry.KINDS}
    assert all(names.values())
    assert not {"torch", "numpy", "hydra", "lightning"}.intersection(modules)
    assert not [module for module in modules if module.startswith(tuple(f"vidgen.{kind}" for kind in registry.KINDS))]


def test_helper_files_are_no_parts() -> None:
    """A part is a file with a class of its own name; ``space.py`` and ``data/batches.py`` are no words of the command line."""
    assert "space" in registry.files("tokenizers")
    with pytest.raises(UserError, match="There is no tokenizer called 'space'"):
        registry.find("tokenizers", "space")
    for kind in registry.KINDS:
        parts = {config.load(config.GROUPS[kind], name)["name"] for name in vidgen.names(kind)} - set(registry.plugins(kind))
        assert parts <= set(registry.parts(kind))
        assert parts == set(registry.parts(kind)) or kind == "metrics"  # some are given more than options
        assert all(isinstance(registry.find(kind, part), type) for part in parts)


def test_every_measure_that_is_taken_of_runs_is_listed() -> None:
    """A class that is not called like its file works and is never found."""
    from torchmetrics import Metric

    from vidgen.evaluation import measure

    taken = [cls for cls in vars(measure).values() if isinstance(cls, type) and issubclass(cls, Metric)]
    assert len(taken) >= 4
    for cls in taken:
        assert registry.find("metrics", cls.__module__.rpartition(".")[2]) is cls


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("quantizers", "lqf", "There is no quantizer called 'lqf'. Did you mean 'lfq'? There are: "),
        ("generators", "xxxx", "There is no generator called 'xxxx'. There are: "),
        ("quantiser", "lfq", "There is no kind of part called 'quantiser'. Did you mean 'quantizers'? There are: tokenizers, "),
    ],
)
def test_unknown_names_are_told(kind: str, name: str, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        registry.find(kind, name)
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize("option", ["bit", "latent_in"])
def test_unknown_options_are_told(option: str) -> None:
    with pytest.raises(UserError, match=rf"^'lfq' has no option '{option}'\..*Its options are bits, entropy_weight, "):
        registry.build("quantizers", {"name": "lfq", option: 3})


def test_what_the_caller_gives_is_no_option() -> None:
    with pytest.raises(UserError, match=r"^'causal3d' has no option 'latent_in'\.") as error:
        registry.build("backbones", {"name": "causal3d", "latent_in": 3}, latent_in=1, latent_out=1)
    assert "latent" not in str(error.value).partition("Its options are")[2]


def test_options_are_not_shared_lists() -> None:
    recipe = config.load("data", "worlds")
    data = registry.build("data", recipe)
    recipe["families"].append("nonsense")
    assert "nonsense" not in data.class_names


@pytest.mark.parametrize("name", registry.parts("quantizers"))
def test_a_quantizer_makes_the_kind_that_its_file_says(name: str) -> None:
    """What `vidgen list --pairs` reads without torch, held against the quantizer that is built."""
    quantizer = registry.build("quantizers", config.load("tokenizer/quantizer", name))
    spec = LatentSpec(
        channels=1, stride=(1, 1, 1), causal=True, levels=quantizer.levels, stages=quantizer.stages, scales=quantizer.scales
    )
    assert routes.kind({"quantizer": {"name": name}}) == spec.kind


@pytest.mark.parametrize("name", registry.parts("generators"))
def test_a_generator_says_what_it_does_with_every_kind(name: str) -> None:
    assert set(registry.constant("generators", name, "ROUTES")) == {"continuous", "bits", "ids"}


def test_a_part_without_that_constant_has_none() -> None:
    assert registry.constant("generators", "dit", "NOTHING") is None
    assert registry.constant("generators", "nothing", "ROUTES") is None
    assert routes.route("nothing", "bits") == "bits latents"
    assert routes.kind({}) is None


ACME = """
import torch

class Acme(torch.nn.Module):
    stages = 1
    scales = clip = None

    def __init__(self, *, size: int = 3, signs: bool = True, table: str | None = None) -> None:
        super().__init__()
        self.in_channels = self.channels = size
        self.levels = (2,) * size
"""


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package that adds a working quantizer, a broken one, and one that has the name of ours."""
    (tmp_path / "acme_quantizers.py").write_text(ACME, encoding="utf-8")
    metadata = tmp_path / "acme-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text(
        "[vidgen.quantizers]\nacme = acme_quantizers:Acme\nbroken = acme_missing:Acme\nlfq = acme_quantizers:Acme\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    _forget()
    yield
    sys.modules.pop("acme_quantizers", None)
    _forget()


def _forget() -> None:
    registry.plugins.cache_clear()
    config.preset_names.cache_clear()


@pytest.mark.usefixtures("acme")
class TestPlugins:
    def test_are_listed_without_being_imported(self) -> None:
        assert "acme" in vidgen.names("quantizers")
        assert config.describe("tokenizer/quantizer", "acme") == "From acme."
        assert "acme_quantizers" not in sys.modules

    def test_are_built_by_name(self) -> None:
        tokenizer = vidgen.tokenizer("lfq", quantizer={"name": "acme", "size": 5})
        assert tokenizer.spec.levels == (2,) * 5

    def test_have_their_signature_for_a_recipe(self) -> None:
        assert config.load("tokenizer/quantizer", "acme") == {"name": "acme", "size": 3, "signs": True, "table": None}
        with pytest.raises(UserError, match=r"'tokenizer/quantizer' has no option 'siz'\. Did you mean 'size'"):
            config.load("tokenizer/quantizer", "acme", {"siz": 1})

    def test_can_be_chosen_on_the_command_line(self) -> None:
        composed = compose("fit", ["tokenizer/quantizer=acme", "tokenizer.quantizer.size=7"])
        assert composed["tokenizer"]["quantizer"] == {"name": "acme", "size": 7, "signs": True, "table": None}
        with pytest.raises(UserError, match=r"'tokenizer\.quantizer\.size' is a whole number"):
            compose("fit", ["tokenizer/quantizer=acme", "tokenizer.quantizer.size=x"])

    def test_cannot_change_what_our_names_mean(self) -> None:
        assert registry.find("quantizers", "lfq").__module__ == "vidgen.quantizers.lfq"

    def test_that_are_broken_are_named_and_hide_nothing(self) -> None:
        assert {"acme", "broken", "lfq"} <= set(vidgen.names("quantizers"))
        with pytest.raises(UserError, match="The plug-in 'broken' of acme cannot be imported from 'acme_missing:Acme'"):
            registry.find("quantizers", "broken")


def test_a_generator_of_another_package_is_trained_like_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    class Drift:
        def __init__(self, *, space: object, num_classes: int = 0, speed: float = 1.0) -> None: ...

    known = config.preset_names
    monkeypatch.setattr(config, "preset_names", lambda group: ("drift",) if group == "generator" else known(group))
    monkeypatch.setattr(registry, "find", lambda kind, name: Drift)
    recipe = config.load("generator", "drift")
    assert recipe == {"name": "drift", "speed": 1.0, "training": config._composed("generator", "dit")["training"]}
