"""Every tokenizer meets every generator: trained from a cache, sampled, saved, loaded, gone on with; then ``vidgen fit``."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml

from vidgen import Condition, Latent, config, hub, names
from vidgen.cli import main
from vidgen.routes import fitted, head_of, kind, pair, spec_of

TOKENIZERS, GENERATORS = tiny.distinct("tokenizers"), tiny.distinct("generators")
LABELS = 3


def pairs() -> list[Any]:
    """Every distinct tokenizer with every distinct generator: with those that give their part its name in the fast tier.

    A plug-in, or the part of a reader, is one of these. The others, presets of a part, meet one tokenizer of bits there.
    """
    own = {name for name in GENERATORS if config.load("generator", name)["name"] == name}
    return [
        pytest.param(one, other, id=f"{one}-{other}", marks=() if other in own or one == "lfq" else pytest.mark.slow)
        for one in TOKENIZERS
        for other in GENERATORS
    ]


def recipe(tokenizer_name: str, generator_name: str) -> dict[str, Any]:
    """The tokenizer's, small, as that generator needs it."""
    return fitted(tiny.tokenizer_config(tokenizer_name), config.load("generator", generator_name)["name"])


@cache
def tokenizer_of(tokenizer_name: str, scales: bool) -> Any:
    """Built once for all generators that take the same."""
    built = tiny.stirred(hub.build_tokenizer(recipe(tokenizer_name, "var" if scales else "dit"))).eval()
    built.measure(tiny.videos(built))
    return built


def step(generator: Any, latent: Latent, condition: Condition, seed: int) -> None:
    """One step of training, random numbers and all."""
    torch.manual_seed(seed)
    generator.train().zero_grad()
    generator.loss(latent, condition).total.backward()
    torch.optim.SGD(generator.parameters(), lr=1e-3).step()


@pytest.mark.parametrize(("tokenizer_name", "generator_name"), pairs())
def test_a_pair_trains_samples_decodes_saves_loads_and_goes_on(tokenizer_name: str, generator_name: str, tmp_path: Path) -> None:
    part = config.load("generator", generator_name)["name"]
    tokenizer = tokenizer_of(tokenizer_name, part == "var")
    generator = tiny.generator(generator_name, tokenizer.space, num_classes=LABELS)
    cached = tiny.latent_cache(tokenizer, tmp_path / "cache", wants=generator.wants, count=5)
    generator.prepare(cached.read(range(5))[0])
    before = [weight.clone() for weight in generator.parameters()]
    step(generator, *cached.read([0, 1]), seed=1)
    assert any(not torch.equal(old, new) for old, new in zip(before, generator.parameters(), strict=True))
    assert bool(torch.isfinite(generator.eval().validation_loss(*cached.read([2, 3]))))

    shape = tiny.shape_of(tokenizer)
    kept = {
        "tokenizer": recipe(tokenizer_name, generator_name),
        "generator": tiny.generator_config(generator_name),
        "num_classes": LABELS,
        "class_names": ["a", "b", "c"],
        "shape": shape,
    }
    hub.save(tmp_path / "model", tokenizer=tokenizer, generator=generator, config=kept)
    loaded = hub.load(tmp_path / "model")
    latent = generator.sample(2, shape, tiny.labels(0, 1), guidance_scale=2.0, seed=3)
    video = tokenizer.decode(latent)
    assert video.shape == (2, 3, *shape)
    assert bool(torch.isfinite(video).all())
    again = loaded.generator.sample(2, shape, tiny.labels(0, 1), guidance_scale=2.0, seed=3)
    assert torch.equal(again.z, latent.z)
    if latent.ids is not None:
        assert torch.equal(tokenizer.space.embed(latent.ids, latent.grids), latent.z)

    for one in (generator, loaded.generator):
        step(one, *cached.read([3, 4]), seed=2)
    assert tiny.same_weights(generator, loaded.generator), "what is saved is all that there is to go on with"


@pytest.mark.parametrize("tokenizer_name", tiny.trained())
def test_the_kind_that_the_command_line_tells_is_what_is_built(tokenizer_name: str) -> None:
    built = tiny.tokenizer(tokenizer_name).spec
    assert kind(tiny.tokenizer_config(tokenizer_name)) in (built.kind, None)
    told = spec_of(tiny.tokenizer_config(tokenizer_name))
    parts = ("channels", "levels", "stages", "scales", "clip", "kind")
    assert [getattr(told, part) for part in parts] == [getattr(built, part) for part in parts]


@pytest.mark.parametrize("tokenizer_name", tiny.trained())
def test_the_head_that_is_told_is_the_one_that_is_built(tokenizer_name: str) -> None:
    for generator_name in GENERATORS:
        recipe_of = tiny.generator_config(generator_name)
        tokenizer = tokenizer_of(tokenizer_name, recipe_of["name"] == "var")
        told = head_of(recipe_of, tokenizer.spec)
        built = getattr(tiny.generator(generator_name, tokenizer.space), "head", None)
        assert told.replace("bits", "factored") == ("-" if built is None else type(built).__name__.lower())


def test_a_quantizer_in_a_pyramid_stays_what_it_was() -> None:
    """What the user set stays; what the pyramid does in its place is left to it; others are left alone."""
    lfq = config.load("tokenizer", "lfq", {"quantizer": {"bits": 7, "diversity": 0.5}})
    assert fitted(lfq, "dit") == lfq
    scaled = fitted(lfq, "var")
    assert fitted(scaled, "var") == scaled
    usual = config.load("tokenizer", "pyramid_lfq")["quantizer"]
    inner = lfq["quantizer"] | {"commitment": usual["quantizer"]["commitment"]}
    assert scaled == lfq | {"quantizer": usual | {"quantizer": inner}}
    for name in ("kl", "pyramid", "diffusers"):
        assert fitted(config.load("tokenizer", name), "var") == config.load("tokenizer", name)
    assert fitted(config.load("tokenizer", "gumbel"), "var")["quantizer"]["quantizer"]["logits"] == "distance"
    nested = fitted(config.load("tokenizer", "residual"), "var")["quantizer"]["quantizer"]
    assert nested["stages"] == 4
    assert nested["quantizer"]["commitment"] == 0
    assert (
        pair(spec_of(fitted(lfq, "var")), config.load("generator", "var")).route
        == "bitwise residual pyramid, with self-correction"
    )


# The command line


def flat(new: Mapping[str, Any], old: Mapping[str, Any], where: str) -> Iterator[str]:
    """The words that make one recipe of another."""
    for key, value in new.items():
        if isinstance(value, Mapping):
            yield from flat(value, old[key], f"{where}.{key}")
        elif value != old[key]:
            yield f"{where}.{key}={yaml.safe_dump(value, default_flow_style=True, width=10000).splitlines()[0]}".replace(" ", "")


def words(tokenizer_name: str, generator_name: str, head: str) -> list[str]:
    """A fit of that pair that takes seconds."""
    own, generator = config.load("tokenizer", tokenizer_name), config.load("generator", generator_name)
    shape = tiny.shape_of(tiny.tokenizer(tokenizer_name), (2, 4, 4))
    small = ["steps=2", "batch_size=2", "warmup=1"]
    return [
        f"tokenizer={tokenizer_name}",
        f"generator={generator_name}",
        *([f"generator/head={head}"] if head != "-" and "head" in generator else []),
        *flat(tiny.shrunk(own) | {"training": own["training"]}, own, "tokenizer"),
        *flat(tiny.generator_config(generator_name) | {"training": generator["training"]}, generator, "generator"),
        *(f"{stage}.training.{word}" for stage in ("tokenizer", "generator") for word in small),
        "generator.training.clips=4",
        *(f"data.{axis}={size}" for axis, size in zip(("frames", "height", "width"), shape, strict=True)),
        *("data.radius=[2,3]", "data.families=[bounce,gravity]", "trainer.precision=fp32"),
        *("evaluation.clips=2", "evaluation.samples=2", "evaluation.shown=2"),
    ]


FAST = [
    ("vq", "dit", "-"),
    ("lfq", "maskgit", "factored"),
    ("residual", "ar", "depth"),
    ("fsq", "var", "categorical"),
    ("kl", "var", "flow"),
]
"""Every generator and every head once."""

SLOW = [(one, other, "auto") for one in tiny.trained() for other in names("generators")]


@pytest.mark.parametrize(
    ("tokenizer_name", "generator_name", "head"),
    [*FAST, *(pytest.param(*case, marks=pytest.mark.slow, id="-".join(case)) for case in SLOW)],
)
def test_fit(tokenizer_name: str, generator_name: str, head: str, tmp_path: Path) -> None:
    said = io.StringIO()
    with contextlib.chdir(tmp_path), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        assert main(["fit", *words(tokenizer_name, generator_name, head)]) == 0, said.getvalue()[-3000:]
    model = hub.load(tmp_path / "runs" / "latest")
    shape = tuple(model.config["shape"])
    assert model.sample(1, seed=1).shape == (1, 3, *shape)
    assert (tmp_path / "runs" / "latest" / "report.html").is_file()
    route = model.config["route"]
    assert route in " ".join(said.getvalue().split())
    if head not in ("-", "auto"):
        assert f"{'bits' if head == 'factored' else head} head" in route
    trained_so = f"{tokenizer_name} is trained with" in route
    assert trained_so == (
        fitted(config.load("tokenizer", tokenizer_name), model.config["generator"]["name"])
        != config.load("tokenizer", tokenizer_name)
    )


def test_a_tokenizer_with_scales_is_kept_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The one of a single scale is not taken for it, and given by hand it is refused in one sentence that names what to use."""
    with contextlib.chdir(tmp_path):
        assert main(["fit", *words("lfq", "dit", "-"), "stage=tokenizer"]) == 0
        assert main(["fit", *words("lfq", "var", "auto")]) == 0
        said = capsys.readouterr().out
        assert "taken from" not in said
        single, scaled = sorted((tmp_path / "runs").glob("*-lfq*"), key=lambda path: "var" in path.name)
        fingerprints = [hub.read_config(hub.resolve(run))["tokenizer_fingerprint"] for run in (single, scaled)]
        assert fingerprints[0] != fingerprints[1]
        given = [word for word in words("lfq", "var", "auto") if not word.startswith("tokenizer")]
        assert main(["fit", *given, f"tokenizer.from={single}"]) == 2
        assert "use tokenizer=pyramid_lfq, or let 'vidgen fit generator=var'" in capsys.readouterr().err
        assert main(["fit", *given, f"tokenizer.from={scaled}", "seed=1"]) == 0
