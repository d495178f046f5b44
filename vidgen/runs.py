"""Run folders: made, found again, locked while in use, and described."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import yaml

from vidgen.errors import UserError

PACKAGES = ("vidgen", "torch", "lightning", "hydra-core", "numpy", "timm", "torchmetrics", "av", "safetensors")


class Run:
    """One run folder, locked for as long as this object lives.

    Attributes:
        path: the folder.
        resumed: True where an unfinished run is gone on with.
    """

    def __init__(self, path: Path, lock: IO[str], resumed: bool) -> None:
        self.path, self.resumed = path, resumed
        self._lock = lock

    @property
    def state(self) -> dict[str, Any]:
        """What is remembered across stops: fingerprint, status, seconds spent, what each stage did."""
        return json.loads((self.path / "state.json").read_text())

    def update(self, **changes: Any) -> None:
        """Changes entries of the state, atomically."""
        write_json(self.path / "state.json", {**self.state, **changes})

    def finish(self) -> None:
        """Marks the run as finished: the same command then starts a new one."""
        self.update(status="finished")
        self.release()

    def release(self) -> None:
        """Lets another process have the folder."""
        self._lock.close()


def open_run(root: Path, title: str, fingerprint: str, resume: str) -> Run:
    """The run to write to, by ``resume``: ``auto`` goes on with an unfinished run of the same fingerprint or makes a new one,
    ``never`` makes a new one, and a folder goes on with that run.

    Raises:
        UserError: where the folder named is no run, is finished, holds another recipe, or is in use.
    """
    if resume not in ("auto", "never"):
        return _reopen_named(Path(resume), fingerprint)
    if resume == "auto":
        for path in sorted(root.glob("*/state.json"), key=lambda file: file.stat().st_mtime, reverse=True):
            state = json.loads(path.read_text())
            if state["fingerprint"] == fingerprint and state["status"] != "finished":
                lock = _lock(path.parent)
                if lock is not None:
                    return Run(path.parent, lock, resumed=True)
    return _create(root, title, fingerprint)


def _reopen_named(path: Path, fingerprint: str) -> Run:
    if not (path / "state.json").is_file():
        raise UserError(f"resume={path} is not the folder of a run; give one that 'vidgen fit' made, or resume=auto.")
    state = json.loads((path / "state.json").read_text())
    if state["status"] == "finished":
        raise UserError(f"The run {path} is finished; to train on from its weights use init={path}.")
    if state["fingerprint"] != fingerprint:
        raise UserError(
            f"The run {path} has another recipe; repeat its own command (in {path / 'config.yaml'}), or use init={path}."
        )
    lock = _lock(path)
    if lock is None:
        raise UserError(f"The run {path} is in use by another process; wait for it to end, or start a new run with resume=never.")
    return Run(path, lock, resumed=True)


def _create(root: Path, title: str, fingerprint: str) -> Run:
    base = f"{datetime.date.today().isoformat()}-{title}"
    number = 1
    while True:
        path = root / (base if number == 1 else f"{base}-{number}")
        try:
            path.mkdir(parents=True)
            break
        except FileExistsError:
            number += 1
    lock = _lock(path)
    assert lock is not None
    write_json(path / "state.json", {"fingerprint": fingerprint, "status": "running", "seconds": 0.0})
    _point_latest(root, path)
    return Run(path, lock, resumed=False)


def _lock(path: Path) -> IO[str] | None:
    """An exclusive lock that the system lets go of when the process dies, or None where another holds it."""
    file = (path / ".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _point_latest(root: Path, path: Path) -> None:
    fresh = root / f".latest.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()
    fresh.symlink_to(path.name)
    fresh.replace(root / "latest")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes JSON beside its place and moves it there."""
    fresh = path.with_name(f".{path.name}.partial")
    fresh.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    fresh.replace(path)


def write_yaml(path: Path, value: Mapping[str, Any]) -> None:
    """Writes yaml in the order of the mapping."""
    path.write_text(yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, width=120), encoding="utf-8")


def environment() -> dict[str, Any]:
    """Versions, commit and hardware."""
    return {"versions": versions(), "commit": commit(), "hardware": hardware()}


def versions() -> dict[str, str]:
    """Of Python and of the packages that matter; absent ones are left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def commit() -> str | None:
    """The commit of the checkout vidgen runs from, with ``-dirty`` where files differ from it; None outside a checkout."""
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    done = subprocess.run(
        ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None


def hardware() -> dict[str, Any]:
    """Processor, cores, memory, and the GPU where there is one."""
    import torch

    found: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(_memory_gib(), 1),
        "system": sys.platform,
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def cpu_name() -> str:
    """The processor's name, as the system tells it."""
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _lines(path: Path) -> Iterator[str]:
    if path.exists():
        yield from path.read_text().splitlines()
