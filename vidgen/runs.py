"""Run folders: made, found again, locked while in use, and described."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import yaml

from vidgen.errors import DISK_FULL, UserError, first_line
from vidgen.files import replacing

STATE = "state.json"
"""What makes a folder a run."""

PACKAGES = ("vidgen", "torch", "lightning", "hydra-core", "numpy", "timm", "torchmetrics", "av", "safetensors")


class Run:
    """One run folder, locked for as long as this object lives.

    Attributes:
        path: the folder.
        resumed: True where an unfinished run is gone on with.

    Of several processes that train one run the first has the lock (the others None), and it alone writes.
    """

    def __init__(self, path: Path, lock: IO[str] | None, resumed: bool) -> None:
        self.path, self.resumed = path, resumed
        self._lock = lock

    @property
    def state(self) -> dict[str, Any]:
        """What is remembered across stops: fingerprint, status, seconds spent, what each stage did."""
        return json.loads((self.path / STATE).read_text())

    def first_command(self, command: str) -> str:
        """What was typed when the run began, which makes it anew; to go on with it ``resume=FOLDER`` may have been added."""
        path = self.path / "config.yaml"
        if not (self.resumed and path.is_file()):
            return command
        return str(yaml.safe_load(path.read_text(encoding="utf-8"))["command"])

    def update(self, **changes: Any) -> None:
        """Changes entries of the state, atomically."""
        if self._lock is not None:
            write_json(self.path / STATE, {**self.state, **changes})

    def release(self) -> None:
        """Lets another process have the folder."""
        if self._lock is not None:
            self._lock.close()


def find_run(root: Path, fingerprint: str, resume: str) -> Run | None:
    """The unfinished run to go on with, locked, by ``resume``: ``auto`` is the newest of that fingerprint in ``root`` that no
    other process has, ``never`` none, and a folder that run. None where a new run is due.

    Raises:
        UserError: where the folder named is no run, is finished, holds another recipe, or is in use.
    """
    if resume == "never":
        return None
    if resume != "auto":
        return _named_run(Path(follow(resume)), fingerprint)
    for path in sorted(run_folders(root), key=lambda path: (path / STATE).stat().st_mtime, reverse=True):
        state = json.loads((path / STATE).read_text())
        if state.get("fingerprint") == fingerprint and state["status"] != "finished" and (lock := _lock(path)):
            return _reopened(path, lock)
    return None


def run_folders(root: Path) -> list[Path]:
    """The folders of runs in ``root``, each once: ``latest`` only leads to one of them."""
    return [file.parent for file in root.glob(f"*/{STATE}") if not file.parent.is_symlink()]


def follow(path: str) -> str:
    """The folder that ``path`` leads to now: ``runs/latest`` is another one with every run."""
    given = Path(path)
    real = given.resolve()
    if real == given.absolute():
        return path
    return str(real) if given.is_absolute() else os.path.relpath(real)


def _named_run(path: Path, fingerprint: str) -> Run:
    if not (path / STATE).is_file():
        raise UserError(f"resume={path} is not the folder of a run; give one that 'vidgen fit' made, or resume=auto.")
    state = json.loads((path / STATE).read_text())
    if state["status"] == "finished":
        raise UserError(f"The run {path} is finished; to train on from its weights use init={path}.")
    if state["fingerprint"] != fingerprint:
        raise UserError(
            f"The run {path} has another recipe; repeat its own command (in {path / 'config.yaml'}), or use init={path}."
        )
    lock = _lock(path)
    if lock is None:
        raise UserError(f"The run {path} is in use by another process; wait for it to end, or start a new run with resume=never.")
    return _reopened(path, lock)


def _reopened(path: Path, lock: IO[str]) -> Run:
    _point_latest(path)
    return Run(path, lock, resumed=True)


def new_run(root: Path, title: str, fingerprint: str) -> Run:
    """A new run folder ``<date>-<title>``, or ``<date>-<title>-2`` and so on, which ``latest`` leads to from now on."""
    base = f"{datetime.date.today().isoformat()}-{title}"
    for number in itertools.count(1):
        path = root / (base if number == 1 else f"{base}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
            break
    try:
        lock = _lock(path)
        assert lock is not None
        write_json(path / STATE, {"fingerprint": fingerprint, "status": "running", "seconds": 0.0})
        _point_latest(path)
    except OSError:  # such as a full disk: what did not start leaves nothing behind
        shutil.rmtree(path, ignore_errors=True)
        raise
    return Run(path, lock, resumed=False)


def check_writable(folder: Path, option: str) -> None:
    """Sees that ``folder``, which need not exist yet, can be written to: by writing a little where it is or would be.

    Raises:
        UserError: where it cannot, naming ``option``, which chooses it.
        OSError: where the disk is full.
    """
    place = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        if error.errno in DISK_FULL:
            raise OSError(error.errno, os.strerror(error.errno), str(folder)) from error
        reason = os.strerror(error.errno or 0)
        raise UserError(
            f"{option}={folder} cannot be written to ({reason}: {place}); give {option}=FOLDER, a writable one."
        ) from error


def _lock(path: Path) -> IO[str] | None:
    """An exclusive lock that the system lets go of when the process dies, or None where another holds it."""
    file = (path / ".lock").open("w")
    os.register_at_fork(after_in_child=file.close)  # else a worker that outlives a killed run would keep the folder
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _point_latest(path: Path) -> None:
    fresh = path.with_name(f".latest.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(path.name)
    fresh.replace(path.with_name("latest"))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes JSON, all of it or nothing."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_mapping(path: Path) -> dict[str, Any]:
    """What a JSON or yaml file of a run holds, names and values; nothing where there is no such file.

    Raises:
        UserError: where it cannot be read, or holds anything else.
    """
    if not path.is_file():
        return {}
    parse = json.loads if path.suffix == ".json" else yaml.safe_load
    try:
        value = parse(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}): mend or remove it.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold names and values, and holds {type(value).__name__}: mend or remove it.")
    return value


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
    """The commit of the checkout vidgen runs from; None outside a checkout.

    ``-dirty`` follows where the code or the recipes differ from it; what is written of results does not count.
    """
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False).stdout.strip()

    name = git("describe", "--always", "--abbrev=12")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "vidgen", "configs", "benchmarks/*.py")
    return f"{name}-dirty" if name and changed else name or None


def hardware() -> dict[str, Any]:
    """Processor, cores, the threads that are used, memory, and the GPU where there is one."""
    import torch

    found: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
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
