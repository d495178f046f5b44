"""``vidgen show``: the config that a command would run with."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from vidgen.cli import COMPOSED
from vidgen.cli.compose import compose
from vidgen.routes import kind, route


def run(words: Sequence[str]) -> None:
    """Prints the config of ``[COMMAND] [key=value ...]`` as yaml; the command is fit unless named.

    Raises:
        UserError: as composing does.
    """
    command, overrides = (words[0], words[1:]) if words and words[0] in COMPOSED else ("fit", words)
    config = compose(command, overrides)
    print(f"# {config.pop('command')}")
    del config["choices"]
    latents = kind(config["tokenizer"]) if "generator" in config else None
    if latents:
        name = config["generator"]["name"]
        print(f"# {name} on {latents} latents: {route(name, latents)}")
    print(yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=130), end="")
