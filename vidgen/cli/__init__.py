"""The command line: ``vidgen COMMAND [key=value ...]``.

Help, listings and mistakes are answered without importing torch, and only what is needed is imported at all.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from vidgen import __version__
from vidgen.cli import help
from vidgen.cli.mistakes import look
from vidgen.errors import DISK_FULL, UserError, did_you_mean
from vidgen.memory import keep_freed_memory

COMPOSED = ("fit", "eval", "sample", "encode", "decode", "reconstruct")
"""Commands with a yaml in ``configs/`` and a ``run(config)``; the others have a ``run(words)`` that may return a status."""

COMMANDS = (*COMPOSED, "compare", "data", "list", "show", "doctor")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 2 after a mistake, told in one sentence on stderr."""
    keep_freed_memory()
    words = [*(sys.argv[1:] if arguments is None else arguments)]  # not list(): vidgen.cli.list, once imported, hides it here
    debug = "--debug" in words
    try:
        status = _dispatch([word for word in words if word != "--debug"])
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("vidgen: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        if debug:
            traceback.print_exc()
        print(f"vidgen: {sentence}", file=sys.stderr)
        return 2


def _sentence(error: Exception) -> str | None:
    """What to tell of a mistake; None for everything else, which is a bug and keeps its traceback."""
    if isinstance(error, UserError):
        return str(error)
    # Not every library that writes files keeps the error's number.
    if getattr(error, "errno", None) in DISK_FULL or os.strerror(errno.ENOSPC) in str(error):
        where = getattr(error, "filename", None)
        return f"The disk is full{f' (writing {where})' if where else ''}; make room and give the same command again."
    return None


def _dispatch(words: Sequence[str]) -> int:
    command, rest = (words[0], words[1:]) if words else ("--help", [])
    if command in ("-h", "--help"):
        print(help.overview())
    elif command == "--version":
        print(f"vidgen {__version__}")
    elif command not in COMMANDS:
        hint = f" A command comes first: vidgen fit {command}." if "=" in command else did_you_mean(command, COMMANDS)
        raise UserError(f"There is no command '{command}'.{hint} The commands are {', '.join(COMMANDS)}. See: vidgen --help")
    elif "-h" in rest or "--help" in rest:
        print(help.of(command))
    elif command in COMPOSED:
        _compose_and_run(command, rest)
    else:
        return int(importlib.import_module(f"vidgen.cli.{command}").run(rest) or 0)
    return 0


def _compose_and_run(command: str, words: Sequence[str]) -> None:
    look(command, words)  # before Hydra, whose import takes longer than an answer should
    from vidgen.cli.compose import compose, sweep

    def run(config: dict[str, Any]) -> None:
        importlib.import_module(f"vidgen.cli.{command}").run(config)

    overrides = [word for word in words if word not in ("-m", "--multirun")]
    if len(overrides) < len(words):
        sweep(command, overrides, run)
    else:
        run(compose(command, overrides))
