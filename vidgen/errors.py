"""The one exception for mistakes a user can make, and the search for the word they meant."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of the system's errors that more room would mend."""


class UserError(Exception):
    """A mistake that whoever typed the command can mend.

    The message is one sentence: what is wrong, where, the nearest right thing, how to go on. The command line prints it
    without a traceback and exits with status 2; everything else that is raised is a bug and keeps its traceback.
    """


def first_line(error: BaseException) -> str:
    """The first line of what an error of another library says, or its kind where it says nothing: to be told in a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def nearest(word: str, options: Iterable[str]) -> str | None:
    """The option most like ``word``, or None where nothing is close enough to be worth suggesting."""
    matches = difflib.get_close_matches(word.lower(), list(options), n=1, cutoff=0.5)
    return matches[0] if matches else None


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` with its leading space, or nothing, to be appended to a sentence."""
    match = nearest(word, options)
    return f" Did you mean '{match}'?" if match else ""
