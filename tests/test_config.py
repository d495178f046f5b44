"""The recipes in configs/: read the same with and without Hydra, held to the signatures of their parts, and typed."""

from __future__ import annotations

from typing import Any

import pytest

from vidgen import UserError, config, registry
from vidgen.cli.compose import compose

RECIPES = [(group, name) for group in config.GROUPS.values() for name in config.preset_names(group)]
EVERY_GROUP = sorted({str(path.parent.relative_to(config.config_dir())) for path in config.config_dir().glob("*/**/*.yaml")})


@pytest.mark.parametrize(("group", "name"), RECIPES)
def test_signature_is_the_schema(group: str, name: str) -> None:
    """A recipe's options are its constructor's keywords: no more, no fewer; ``training`` is for fit."""
    recipe = config.load(group, name)
    kind = config.KIND_OF[group]
    keywords = set(registry.options(registry.find(kind, recipe["name"])))
    assert set(recipe) - {"name", "training"} == keywords - set(registry.GIVEN.get(kind, ()))


@pytest.mark.parametrize(("group", "name"), RECIPES)
def test_names_are_files(group: str, name: str) -> None:
    assert config.load(group, name)["name"] in registry.parts(config.KIND_OF[group])


@pytest.mark.parametrize("kind", config.GROUPS)
def test_every_part_has_a_recipe(kind: str) -> None:
    group = config.GROUPS[kind]
    assert {config.load(group, name)["name"] for name in config.preset_names(group)} == set(registry.parts(kind))


@pytest.mark.parametrize(("group", "name"), RECIPES)
def test_hydra_composes_the_same(group: str, name: str) -> None:
    composed: Any = compose("fit", [f"{group}={name}"])
    for key in group.split("/"):
        composed = composed[key]
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


@pytest.mark.parametrize("command", ["fit", "eval", "sample"])
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
    changed = config.load("tokenizer", "lfq", {"quantizer": {"bits": 12}, "l1": 2})
    assert (changed["quantizer"]["bits"], changed["l1"]) == (12, 2.0)
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


def test_a_recipe_that_starts_from_another_can_be_swapped_too(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in config.config_dir().rglob("*.yaml"):
        copy = tmp_path / path.relative_to(config.config_dir())
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (tmp_path / "tokenizer" / "mine.yaml").write_text(
        "# Mine.\ndefaults:\n  - lfq\n  - override quantizer: kl\n  - _self_\nl1: 7.0\n", encoding="utf-8"
    )
    monkeypatch.setattr(config, "config_dir", lambda: tmp_path)
    monkeypatch.setattr("vidgen.cli.compose.config_dir", lambda: tmp_path)
    config.preset_names.cache_clear()
    try:
        mine = config.load("tokenizer", "mine")
        assert (mine["quantizer"]["name"], mine["l1"]) == ("kl", 7.0)
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
        ("tokenizer", "lfq", {"l2": 1.0}, "'tokenizer' has no option 'l2'. Did you mean 'l1'? The options are "),
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
