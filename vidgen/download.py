"""Files from the network: gone on with after a break, checked by their sha256, and there whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from vidgen.errors import UserError

CHUNK = 2**20
TRIES = 3
"""How often a download that breaks off is taken up again before it is told."""

TIMEOUT = 30.0
"""Seconds that a server may be silent."""


def fetched(url: str, path: Path, *, sha256: str | None = None) -> Path:
    """The file ``path``, from ``url`` where it is not there yet.

    What has arrived lies beside it in ``<name>.partial``, from which a download that broke off goes on (HTTP Range), now and when
    the same is asked for later; it gets its name when it is whole and, where ``sha256`` is given, has that hash.

    Args:
        url: where it comes from.
        path: where it goes; its folder is made when absent.
        sha256: of the whole file, in hex.

    Raises:
        UserError: where it cannot be fetched, or is another file, which is then not kept.
    """
    if path.is_file():
        if sha256 is not None:
            check_sha256(path, sha256)
        return path
    partial = path.with_name(f"{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, TRIES + 1):
        try:
            _fetch(url, partial)
            break
        except urllib.error.HTTPError as error:
            raise UserError(
                f"{url} cannot be fetched: the server answers {error.code} ({error.reason}); look at the address, or put the "
                f"file at {path} by other means."
            ) from error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            if attempt == TRIES:
                there = partial.stat().st_size if partial.is_file() else 0
                raise UserError(
                    f"The download of {url} broke off after {there} bytes ({getattr(error, 'reason', error)}); the same command "
                    f"goes on from there. Without a network, put the file at {path} by other means."
                ) from error
    if sha256 is not None and (found := sha256_of(partial)) != sha256.lower():
        partial.unlink()
        raise UserError(f"What {url} gives has the sha256 {found}, and {sha256} was asked for: it was not kept.")
    partial.replace(path)
    return path


def _fetch(url: str, partial: Path) -> None:
    """Fetches what ``partial`` still lacks; a server that knows no ranges gives the whole again."""
    start = partial.stat().st_size if partial.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        if not error.headers.get("Content-Range", "").endswith(f"*/{start}"):  # else nothing was lacking
            partial.unlink()
            _fetch(url, partial)
        return
    with answer, partial.open("ab" if answer.status == 206 else "wb") as file:
        wanted = file.tell() + int(answer.headers["Content-Length"]) if "Content-Length" in answer.headers else None
        while chunk := answer.read(CHUNK):
            file.write(chunk)
        if wanted is not None and file.tell() < wanted:
            raise ConnectionError(f"{wanted - file.tell()} bytes did not come")


def check_sha256(path: Path, sha256: str) -> None:
    """Sees that a file has that hash. Raises UserError where it has another."""
    found = sha256_of(path)
    if found != sha256.lower():
        raise UserError(
            f"'{path}' has the sha256 {found}, and {sha256} was asked for: it is another file, or damaged; remove it."
        )


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
