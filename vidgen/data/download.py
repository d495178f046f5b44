"""Files from the network: gone on with after a break, checked by their sha256, and there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from vidgen.errors import UserError

BLOCK = 1 << 20  # bytes


def download(url: str, path: Path, *, sha256: str, timeout: float = 30.0) -> Path:
    """The file ``path``, fetched from ``url`` unless its bytes are there already.

    What has arrived is kept beside it as ``<name>.partial`` when the connection breaks, and the same call goes on from there
    where the server can. A file with another sha256 is never put in place.

    Args:
        url: where it comes from.
        path: where it goes; its folder is made when absent.
        sha256: of the whole file, in hex.
        timeout: seconds of silence after which the connection counts as broken.

    Raises:
        UserError: when the server cannot be reached or breaks off, or what it gives is another file.
    """
    if path.is_file() and _sha256(path) == sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    if not (partial.is_file() and _sha256(partial) == sha256):
        _fetch(url, partial, timeout)
    found = _sha256(partial)
    if found != sha256:
        partial.unlink()
        raise UserError(f"{url} gave another file than the one that was asked for: its sha256 is {found}, and not {sha256}.")
    partial.replace(path)
    return path


def _fetch(url: str, partial: Path, timeout: float) -> None:
    """Adds to ``partial`` what is missing of it, or begins anew where the server does not give parts."""
    have = partial.stat().st_size if partial.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with contextlib.ExitStack() as stack:
            try:
                answer = stack.enter_context(urllib.request.urlopen(request, timeout=timeout))
            except urllib.error.HTTPError as error:
                if error.code != 416:  # no such range: what is there is as long as the file, and not the file
                    raise
                answer, have = stack.enter_context(urllib.request.urlopen(url, timeout=timeout)), 0
            going_on = have > 0 and answer.status == 206
            expected = answer.headers.get("Content-Length")
            out = stack.enter_context(partial.open("ab" if going_on else "wb"))
            shutil.copyfileobj(answer, out, BLOCK)
            got = out.tell() - (have if going_on else 0)
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise UserError(
            f"{url} cannot be fetched ({reason}): look whether there is a network and give the same command again, or put the "
            f"file at {partial.with_suffix('')} by other means."
        ) from error
    if expected is not None and got < int(expected):
        raise UserError(
            f"{url} broke off after {got} of {expected} bytes: give the same command again, and it goes on from there."
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
