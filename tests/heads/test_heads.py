"""What heads refuse, and how the right one is found."""

from __future__ import annotations

from typing import Any

import pytest
from head_spaces import WIDTH, space

from vidgen import UserError, registry
from vidgen.heads import build_head
from vidgen.routes import head_for

SPECS: dict[str, tuple[tuple[int, ...] | None, int, str]] = {
    "kl": (None, 1, "flow"),
    "vq": ((1024,), 1, "categorical"),
    "fsq": ((8, 8, 8, 5, 5), 1, "categorical"),
    "lfq of 14 bits": ((2,) * 14, 1, "categorical"),
    "lfq of 15 bits": ((2,) * 15, 1, "factored"),
    "lfq of 18 bits": ((2,) * 18, 1, "factored"),
    "fsq of many": ((8, 8, 8, 5, 5, 5), 1, "factored"),
    "residual": ((1024,) * 4, 4, "depth"),
    "residual of few": ((8,) * 4, 4, "categorical"),
    "residual bits": ((2,) * 24, 4, "depth"),
}


@pytest.mark.parametrize("name", SPECS)
def test_auto_takes_the_head_that_the_latents_ask_for(name: str) -> None:
    levels, stages, wanted = SPECS[name]
    own = space(levels, stages)
    assert head_for(own.spec) == wanted
    head = build_head({"name": "auto"}, space=own, width=WIDTH)
    assert type(head) is registry.find("heads", wanted)
    same = build_head({"name": wanted}, space=own, width=WIDTH)
    assert {key: value.shape for key, value in head.state_dict().items()} == {
        key: value.shape for key, value in same.state_dict().items()
    }


REFUSED = [
    (
        {"name": "categorical"},
        None,
        "The categorical head predicts ids and these latents are continuous: use generator/head=flow, or ",
    ),
    (
        {"name": "factored"},
        None,
        "The factored head predicts ids and these latents are continuous: use generator/head=flow, or generator/head=auto.",
    ),
    (
        {"name": "depth"},
        None,
        "The depth head predicts ids and these latents are continuous: use generator/head=flow, or generator/head=auto.",
    ),
    ({"name": "categorical"}, (2,) * 19, "The categorical head has a logit for each joint id, at most 262144 of them, and "),
    ({"name": "flow"}, (1024,), "The flow head predicts real numbers and these latents are ids of a vocabulary of 1024: use "),
    ({"name": "flow"}, (2,) * 10, "The flow head predicts real numbers and these latents are ids of a vocabulary of 1024: use "),
    ({"name": "flow", "depth": 0}, None, "The flow head needs depth of at least 1 and hidden of at least 0"),
    ({"name": "depth", "hidden": -1}, (4, 4), "The depth head needs depth of at least 1 and hidden of at least 0"),
    ({"name": "flow", "repeats": 0}, None, "The flow head needs repeats and steps of at least 1, not 0 and 25."),
    ({"name": "flow", "steps": 0}, None, "The flow head needs repeats and steps of at least 1, not 4 and 0."),
    ({"name": "flwo"}, None, "There is no head called 'flwo'. Did you mean 'flow'? There are: "),
    ({"name": "flow", "step": 3}, None, "'flow' has no option 'step'. Did you mean 'steps'? Its options are hidden, depth, "),
    ({"name": "auto", "steps": 3}, None, "'auto' has no option 'steps'."),
]


@pytest.mark.parametrize(("options", "levels", "sentence"), REFUSED)
def test_what_cannot_be_is_refused_in_one_sentence(options: dict[str, Any], levels: Any, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        build_head(options, space=space(levels), width=WIDTH)
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


def test_a_refusal_names_the_head_for_the_spec() -> None:
    with pytest.raises(UserError, match="this vocabulary has 524288: use generator/head=factored, or generator/head=auto"):
        build_head({"name": "categorical"}, space=space((2,) * 19), width=WIDTH)
    with pytest.raises(UserError, match="use generator/head=depth, or generator/head=auto"):
        build_head({"name": "categorical"}, space=space((1024,) * 2, 2), width=WIDTH)
