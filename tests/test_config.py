"""The recipes in configs/: read the same with and without Hydra, held to the signatures of their parts, and typed."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vidgen import LatentSpec, UserError, config, hub, registry
from vidgen.cli import COMPOSED, mistakes
from vidgen.cli.compose import compose
from vidgen.training import precision
from vidgen.training.optim import build_optimizer, schedule

RECIPES = [(group, name) for group in config.GROUPS.values() for name in config.preset_names(group)]
EVERY_GROUP = sorted({str(path.parent.relative_to(config.config_dir())) for path in config.config_dir().glob("*/**/*.yaml")})


@pytest.mark.parametrize(("group", "name"), RECIPES)
def test_signature_is_the_schema(group: str, name: str) -> None:
    """A recipe's options are its constructor's keywords: no more, no fewer; some are for fit."""
    recipe = config.load(group, name)
    kind = config.KIND_OF[group]
    keywords = set(registry.options(registry.find(kind, recipe["name"])))
    assert set(recipe) - {"name", *hub.FOR_FIT} == keywords - set(registry.GIVEN.get(kind, ()))


MADE_BY_CODE = {"class_accuracy", "codebook_usage", "controllability", "factors", "horizon", "legality", "physics", "region_psnr"}
"""Measures that are given more than options: a classifier, a world, another measure, a mask, actions, ids."""


@pytest.mark.parametrize(("group", "name"), RECIPES)
def test_names_are_files(group: str, name: str) -> None:
    kind = config.KIND_OF[group]
    assert config.load(group, name)["name"] in {*registry.parts(kind), *registry.plugins(kind)}


@pytest.mark.parametrize("kind", config.GROUPS)
def test_every_part_has_a_recipe(kind: str) -> None:
    group = config.GROUPS[kind]
    without = MADE_BY_CODE if kind == "metrics" else set()
    named = {config.load(group, name)["name"] for name in config.preset_names(group)}
    assert named - set(registry.plugins(kind)) == set(registry.parts(kind)) - without


def _with_part(group: str) -> str | None:
    """A generator that has the part, where not all of them have it."""
    part = group.removeprefix("generator/")
    hosts = [name for name in config.preset_names("generator") if part in config.load("generator", name)]
    return hosts[0] if part != group else None


def _command_of(group: str) -> str | None:
    """The first command that takes parts of a group; None for a group that only the library builds from."""
    return next((command for command in COMPOSED if group.partition("/")[0] in config.command_groups(command)), None)


@pytest.mark.parametrize(("group", "name"), [(group, name) for group, name in RECIPES if _command_of(group)])
def test_hydra_composes_the_same(group: str, name: str) -> None:
    has = [f"generator={host}"] if (host := _with_part(group)) else []
    chosen = f"{group}=[{name}]" if group in config.SEVERAL else f"{group}={name}"
    composed: Any = compose(_command_of(group) or "", [*has, chosen])
    for key in group.split("/"):
        composed = composed[key]
    if group in config.SEVERAL:
        assert composed.keys() == {name}
        composed = composed[name]
    if group == "tokenizer":
        composed.pop("from")  # fit's own
    assert composed == config.load(group, name)


@pytest.mark.parametrize("group", EVERY_GROUP)
def test_every_recipe_says_what_it_is(group: str) -> None:
    silent = [name for name in config.preset_names(group) if len(config.describe(group, name)) < 10]
    assert not silent, f"no comment in the first line of {silent} in configs/{group}"


@pytest.mark.parametrize("name", config.preset_names("experiment"))
def test_experiments_compose(name: str) -> None:
    """Which holds their keys and types against the recipes."""
    assert compose("fit", [f"experiment={name}"])["choices"]["experiment"] == name


@pytest.mark.parametrize("command", COMPOSED)
def test_command_groups_are_what_hydra_chooses(command: str) -> None:
    assert config.command_groups(command) == compose(command, [])["choices"]


def test_numbers_are_numbers(tmp_path: Any) -> None:
    """Yaml 1.1 takes 1e-3 for a word."""
    (tmp_path / "x.yaml").write_text("a: 1e-3\nb: 2.5E+4\nc: .5e1\nd: 1\ne: e3\nf: 0.1\n", encoding="utf-8")
    assert config._read(tmp_path / "x.yaml") == {"a": 0.001, "b": 25000.0, "c": 5.0, "d": 1, "e": "e3", "f": 0.1}


def test_what_is_loaded_is_the_caller_s_to_change() -> None:
    before = config.load("data", "worlds")
    config.load("data", "worlds")["families"].append("nonsense")
    assert config.load("data", "worlds") == before


def test_overrides_nest_and_leave_the_recipe_alone() -> None:
    before = config.load("tokenizer", "lfq")
    changed = config.load("tokenizer", "lfq", {"quantizer": {"bits": 12}, "loss": {"l1": 2}})
    assert (changed["quantizer"]["bits"], changed["loss"]["l1"]) == (12, 2.0)
    assert changed["loss"]["mse"] == before["loss"]["mse"]
    assert changed["quantizer"]["temperature"] == before["quantizer"]["temperature"]
    assert config.load("tokenizer", "lfq") == before


@pytest.mark.parametrize(
    "override",
    ["kl", {"name": "kl"}, {"name": "kl", "channels": 3}],
)
def test_a_part_is_swapped_by_its_name(override: Any) -> None:
    quantizer = config.load("tokenizer", "lfq", {"quantizer": override})["quantizer"]
    expected = config.load("tokenizer/quantizer", "kl")
    assert quantizer == expected | (override if isinstance(override, dict) else {})


def test_a_part_that_only_some_generators_have_is_chosen_with_them() -> None:
    """The default generator has no head; what is chosen beside ``generator=var`` is that generator's."""
    composed = compose("fit", ["generator/head=flow", "generator=var", "generator.head.hidden=64"])
    assert composed["generator"]["head"] == config.load("generator/head", "flow") | {"hidden": 64}
    assert composed["choices"]["generator/head"] == "flow"
    with pytest.raises(UserError, match=r"^'fit' has no option 'generator/head'\. generator=ar has it\."):
        compose("fit", ["generator/head=flow"])
    with pytest.raises(UserError, match=r"^There is no generator/head called 'flwo'\. Did you mean 'flow'"):
        compose("fit", ["generator=var", "generator/head=flwo"])


def test_a_recipe_that_starts_from_another_can_be_swapped_too(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in config.config_dir().rglob("*.yaml"):
        copy = tmp_path / path.relative_to(config.config_dir())
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (tmp_path / "tokenizer" / "mine.yaml").write_text(
        "# Mine.\ndefaults:\n  - lfq\n  - override quantizer: kl\n  - _self_\nloss:\n  l1: 7.0\n", encoding="utf-8"
    )
    monkeypatch.setattr(config, "config_dir", lambda: tmp_path)
    monkeypatch.setattr("vidgen.cli.compose.config_dir", lambda: tmp_path)
    config.preset_names.cache_clear()
    try:
        mine = config.load("tokenizer", "mine")
        assert (mine["quantizer"]["name"], mine["loss"]["l1"]) == ("kl", 7.0)
        assert config.load("tokenizer", "mine", {"quantizer": "lfq"})["quantizer"] == config.load("tokenizer/quantizer", "lfq")
        assert compose("fit", ["tokenizer=mine"])["tokenizer"] == mine | {"from": None}
    finally:
        config.preset_names.cache_clear()


@pytest.mark.parametrize(
    ("default", "value", "typed"),
    [
        (3, 4, 4),
        (3, 1e4, 10000),
        (3.0, 4, 4.0),
        (3.0, 0.5, 0.5),
        (True, False, False),
        ("word", "other", "other"),
        (None, "anything", "anything"),
        (None, None, None),
        ([1, 2], [3, 4, 5], [3, 4, 5]),
        ([1.0], (2, 3), [2.0, 3.0]),
        ([[1, 2]], [[3]], [[3]]),
        ([], ["x"], ["x"]),
    ],
)
def test_values_take_the_type_of_the_default(default: Any, value: Any, typed: Any) -> None:
    (found,) = config.checked({"key": default}, {"key": value}).values()
    assert repr(found) == repr(typed)


@pytest.mark.parametrize(
    ("default", "value", "sentence"),
    [
        (3, "x", "'a.key' is a whole number (3 by default), and x is not."),
        (3, 2.5, "'a.key' is a whole number (3 by default), and 2.5 is not."),
        (3, True, "'a.key' is a whole number (3 by default), and true is not."),
        (3, None, "'a.key' is a whole number (3 by default), and null is not."),
        (3, float("inf"), "'a.key' is a whole number (3 by default), and .inf is not."),
        (0.5, "x", "'a.key' is a number (0.5 by default), and x is not."),
        (True, 1, "'a.key' is true or false (true by default), and 1 is not."),
        ("word", 1, "'a.key' is a word (word by default), and 1 is not."),
        ([1, 2], 3, "'a.key' is a list of whole numbers ([1, 2] by default), and 3 is not."),
        ([1, 2], [1, "x"], "'a.key' is a list of whole numbers ([1, 2] by default), and [1, x] is not."),
        ({"b": 1}, 3, "'a.key' is a group of options ({...} by default), and 3 is not."),
        ([1], {"b": 1}, "'a.key' is a list of whole numbers ([1] by default), and {...} is not."),
    ],
)
def test_values_of_another_type_are_told(default: Any, value: Any, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        config.checked({"a": {"key": default}}, {"a": {"key": value}})
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("group", "name", "overrides", "sentence"),
    [
        ("tokenizer", "lfk", {}, "There is no tokenizer called 'lfk'. Did you mean 'lfq'? There are: "),
        (
            "tokenizer",
            "lfq",
            {"quantizer": "lfk"},
            "There is no tokenizer/quantizer called 'lfk'. Did you mean 'lfq'? There are: ",
        ),
        ("tokenizer", "lfq", {"loss": {"l2": 1}}, "'tokenizer.loss' has no option 'l2'. Did you mean 'l1'? The options are "),
        ("tokenizer", "lfq", {"quantizer": {"bit": 3}}, "'tokenizer.quantizer' has no option 'bit'. Did you mean 'bits'? "),
        ("tokenizer", "lfq", {"quantizer": {"name": "kl", "bits": 3}}, "'tokenizer/quantizer' has no option 'bits'."),
        ("tokenizer", "lfq", {"quantizer": None}, "There is no tokenizer/quantizer called 'None'."),
    ],
)
def test_unknown_names_and_options_are_told(group: str, name: str, overrides: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        config.load(group, name, overrides)
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


# Presets at the size of their papers: parameters as published, built where nothing is allocated

PUBLISHED = {"dit_s": 33, "dit_b": 130, "dit_l": 458, "dit_xl": 675}
"""Millions of parameters: Peebles and Xie (2022), table 4, for four latent channels and a thousand classes."""


@pytest.fixture
def image_space() -> Any:
    """A latent space of four channels and no weights, like that of the papers' image autoencoder."""
    return SimpleNamespace(spec=LatentSpec(channels=4, stride=(1, 8, 8), causal=True), h_channels=4)


@pytest.mark.parametrize("name", PUBLISHED)
def test_dit_has_the_published_size(name: str, image_space: Any) -> None:
    with torch.device("meta"):
        generator = hub.build_generator(config.load("generator", name), space=image_space, num_classes=1000)
    assert sum(weight.numel() for weight in generator.parameters()) == pytest.approx(PUBLISHED[name] * 1e6, rel=0.01)


def test_dit_is_trained_as_published() -> None:
    """The sizes differ in nothing but size, and the training is that of the paper."""
    recipes = [config.load("generator", name) for name in PUBLISHED]
    rest = [{key: recipe[key] for key in recipe if key not in ("width", "depth", "heads")} for recipe in recipes]
    assert all(one == rest[0] for one in rest)
    published = {"batch_size": 256, "optimizer": "adamw", "lr": 1e-4, "weight_decay": 0.0, "warmup": 0, "ema": 0.9999}
    training = rest[0]["training"]
    assert published.items() <= training.items()
    first, last = (
        schedule(step, steps=training["steps"], warmup=0, decay=training["decay"]) for step in (0, training["steps"] - 1)
    )
    assert first == last == 1.0
    assert rest[0]["patch"] == [1, 2, 2]


def test_magvit2_is_of_the_published_shape() -> None:
    """Seventeen frames of 128x128 are 5x16x16 tokens of 2^18 codes."""
    with torch.device("meta"):
        tokenizer = hub.build_tokenizer(config.load("tokenizer", "lfq_magvit2"))
    assert tokenizer.spec.grid((17, 128, 128)) == (5, 16, 16)
    assert tokenizer.spec.vocab_size == 2**18
    assert tokenizer.backbone.encoder.head[-1].out_features == 18


def test_every_null_option_has_a_type() -> None:
    """Else any value would be taken for it; but for a label and an action, names or numbers, and buckets, a word or sizes."""

    def nulls(values: Any, where: str = "") -> Iterator[str]:
        for key, value in values.items():
            full = f"{where}.{key}".lstrip(".")
            if isinstance(value, dict):
                yield from nulls(value, full)
            elif value is None and full not in ("choices.experiment", "choices.extractor"):
                yield full

    found = {key for command in COMPOSED for key in nulls(compose(command, []))}
    for group, name in RECIPES:
        where = f"{group}/{name}" if group in config.SEVERAL else group
        found |= set(nulls(config.load(group, name), where.replace("/", ".")))
    assert found - set(config.NULLABLE) == {"label", "action", "data.buckets"}
    assert set(config.NULLABLE) <= found


def test_choices_are_those_of_whoever_takes_them() -> None:
    """The command line knows the words without importing torch; they are held here against those who do."""
    assert mistakes.CHOICES["precision"] == precision.CHOICES
    for optimizer in mistakes.CHOICES["optimizer"]:
        settings = {"lr": 1.0, "muon_lr": 1.0, "weight_decay": 0.0, "betas": (0.9, 0.9)}
        assert optimizer in type(build_optimizer(torch.nn.Linear(2, 2), optimizer=optimizer, **settings)).__name__.lower()
    assert list(mistakes.CHOICES["logger.name"]) == list(config.preset_names("logger"))


def test_a_part_inside_a_part_is_swapped_by_its_name() -> None:
    """The inner quantizer of a stack or a pyramid: its recipe takes the place of the whole, and nothing of the old one stays."""
    inner = config.load("tokenizer/quantizer", "lfq")
    swapped = config.load("tokenizer", "residual", {"quantizer": {"quantizer": {"name": "lfq", "bits": 8}, "stages": 2}})
    assert swapped["quantizer"]["quantizer"] == inner | {"bits": 8}
    assert swapped["quantizer"]["stages"] == 2
    assert config.load("tokenizer", "pyramid", {"quantizer": {"quantizer": "lfq"}})["quantizer"]["quantizer"] == inner
    kept = config.load("tokenizer", "residual", {"quantizer": {"quantizer": {"codes": 64}}})["quantizer"]["quantizer"]
    assert (kept["name"], kept["codes"]) == ("vq", 64)
    with pytest.raises(UserError, match="has no option 'codes'"):
        config.load("tokenizer", "residual", {"quantizer": {"quantizer": {"name": "lfq", "codes": 3}}})
    with pytest.raises(UserError, match="Did you mean 'lfq'"):
        config.load("tokenizer", "residual", {"quantizer": {"quantizer": "lfqq"}})


def test_the_command_line_swaps_inner_parts_as_the_library_does() -> None:
    typed = compose(
        "fit", ["tokenizer=residual", "tokenizer.quantizer.quantizer={name:lfq,bits:8}", "tokenizer.quantizer.stages=2"]
    )
    said = config.load("tokenizer", "residual", {"quantizer": {"quantizer": {"name": "lfq", "bits": 8}, "stages": 2}})
    assert typed["tokenizer"]["quantizer"] == said["quantizer"]
    with pytest.raises(UserError, match=r"write tokenizer\.quantizer\.quantizer=\{name:lfq\}"):
        compose("fit", ["tokenizer=residual", "tokenizer.quantizer.quantizer=lfq"])


# Parts that are taken together


def test_parts_taken_together_are_named_in_a_list() -> None:
    """As on the command line: the list takes those and no others, each with its own recipe."""
    recipes = {name: config.load("generator/conditioning", name) for name in ("label", "action", "frames")}
    base = {"conditioning": {"label": recipes["label"]}}

    def chosen(value: Any) -> Any:
        return config.merge(base, config.checked(base, {"conditioning": value}, "generator"))["conditioning"]

    assert chosen(["label", "frames"]) == {"label": recipes["label"], "frames": recipes["frames"]}
    assert chosen(["action"]) == {"action": recipes["action"]}
    assert chosen([]) == {}
    assert chosen({"action": {"dropout": 0.5}}) == {"label": recipes["label"], "action": recipes["action"] | {"dropout": 0.5}}
    assert chosen({"label": None}) == {}
    assert chosen({"label": {"dropout": 0}})["label"]["dropout"] == 0.0
    with pytest.raises(UserError, match=r"There is no generator/conditioning called 'lable'\. Did you mean 'label'"):
        chosen(["lable"])
    with pytest.raises(UserError, match=r"'generator\.conditioning\.label' has no option 'drop'\. Did you mean 'dropout'"):
        chosen({"label": {"drop": 1}})


@pytest.mark.parametrize("value", ["[label,frames]", "[]", "label", "[frames,text]"], ids=["two", "none", "one word", "others"])
def test_hydra_takes_the_same_parts_together(value: str) -> None:
    """And says in ``choices`` which: by itself it keeps no record of lists."""
    names = value.strip("[]").split(",") if value != "[]" else []
    composed = compose("fit", [f"generator/conditioning={value}"])
    assert composed["choices"]["generator/conditioning"] == names
    assert composed["generator"]["conditioning"] == {name: config.load("generator/conditioning", name) for name in names}
    assert composed["generator"] == config.load("generator", "dit", {"conditioning": names})


def test_an_unknown_part_among_several_is_told() -> None:
    with pytest.raises(UserError, match=r"There is no generator/conditioning called 'frame'\. Did you mean 'frames'"):
        compose("fit", ["generator/conditioning=[label,frame]"])


@pytest.mark.parametrize("command", COMPOSED)
@pytest.mark.parametrize("choices", [{}, {"tokenizer": "kl", "tokenizer/quantizer": "fsq", "generator": "var", "data": "folder"}])
def test_a_command_is_composed_the_same_without_hydra(command: str, choices: dict[str, str]) -> None:
    known = {group: name for group, name in choices.items() if group in config.command_groups(command)}
    composed = compose(command, [f"{group}={name}" for group, name in known.items()])
    assert config.command_recipe(command, known) == {
        key: value for key, value in composed.items() if key not in ("choices", "command")
    }
