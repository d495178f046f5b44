"""Files of weights that vidgen does not bring: found, downloaded, checked, and read without running any code in them."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import torch
from safetensors import SafetensorError
from torch import Tensor

from vidgen.download import check_sha256, fetched
from vidgen.errors import UserError

CHUNK = 2**20
UNREADABLE = (
    *(pickle.UnpicklingError, SafetensorError, zipfile.BadZipFile, EOFError, RuntimeError),
    *(ValueError, KeyError, IndexError, TypeError, AttributeError),
)
"""What readers raise for files that are damaged or of another kind."""


@dataclass(frozen=True)
class Published:
    """A file of weights as its authors offer it.

    Attributes:
        file: its name.
        url: where it is.
        sha256: its hash where they or others published it, else empty.
        blob: its git blob id (``git hash-object FILE``) where it lies in a public repository, else empty.
    """

    file: str
    url: str
    sha256: str = ""
    blob: str = ""

    @property
    def known_by(self) -> str:
        """What can be said of its hash, in a few words."""
        if self.sha256:
            return f"its sha256 is {self.sha256}"
        return f"no sha256 of it is known here{f', but its git blob id: {self.blob}' if self.blob else ''}"


def cache_folder() -> Path:
    """Where torch keeps downloads: ``TORCH_HOME/hub/checkpoints``."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def weights_file(extractor: str, path: str | None, sha256: str | None, published: Published, option: str = "path") -> Path:
    """The file that the option ``option`` of ``extractor`` means: a path, a URL, or with none ``published`` among downloads.

    Raises:
        UserError: where there is none, saying where it comes from and what needs none; or where it has another sha256.
    """
    if path is not None and urlsplit(path).scheme in ("http", "https"):
        return download(path, sha256=sha256)
    found = cache_folder() / published.file if path is None else Path(path).expanduser()
    if not found.is_file():
        said = f"and there is no file '{path}'" if path is not None else "which vidgen does not bring"
        raise UserError(
            f"extractor={extractor} needs the weights {published.file}, {said}: they are at {published.url} "
            f"({published.known_by}); give them as extractor.{option}=FILE, or take extractor=motion, which is not FVD and "
            "needs no file."
        )
    if sha256 is not None:
        check_sha256(found, sha256)
    return found


def blob_of(path: Path) -> str:
    """The id that git gives to a file: the SHA-1 of its length and its bytes."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def download(url: str, *, sha256: str | None = None, folder: Path | None = None) -> Path:
    """The file at ``url``, below the cache folder; what is there already is not fetched again.

    Raises:
        UserError: where it cannot be fetched, or is another file.
    """
    name = Path(unquote(urlsplit(url).path)).name or "weights"
    path = (folder or cache_folder()) / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"
    return fetched(url, path, sha256=sha256)


def load(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name: safetensors, a state dict that torch saved, or the parameters of a TorchScript archive.

    What is one mapping inside another has dots in its names (``model.blocks.0.norm1.weight``); what is no tensor is left out.
    Nothing in the file is run: state dicts are read with ``weights_only``, archives by a reader that knows tensors alone.

    Raises:
        UserError: for a file of another kind, a damaged one, or one that asks for code.
    """
    try:
        return dict(_tensors(_read(path)))
    except UNREADABLE as error:
        # Of torch's own words only the name in the middle: they advise to load without weights_only, which would run the code.
        code = re.search(r"GLOBAL ([\w.]+)", str(error)) or re.search(r"for the code ([\w.]+)", str(error))
        reason = f"it asks for the code {code[1]}, which is not run" if code else "it is damaged, or of another kind"
        raise UserError(
            f"'{path}' cannot be read as weights ({reason}): it should be safetensors, a state dict or a TorchScript archive."
        ) from error


def _read(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.endswith("/constants.pkl") for name in names):
                return _torchscript(archive, names)
        return torch.load(path, map_location="cpu", weights_only=True)
    with path.open("rb") as file:
        head = file.read(9)
    if len(head) == 9 and int.from_bytes(head[:8], "little") < path.stat().st_size and head[8:] == b"{":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _tensors(values: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(values, Inert):
        values = vars(values)
    if isinstance(values, Mapping):
        for name, value in values.items():
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value.detach()
            else:
                yield from _tensors(value, f"{prefix}{name}.")


class Inert:
    """Stands for an object of any class of an archive: it keeps what belongs to it and can do nothing."""


_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def _torchscript(archive: zipfile.ZipFile, names: list[str]) -> Any:
    """The object that an archive of ``torch.jit.save`` holds, its classes replaced by :class:`Inert`."""
    (pickled,) = (name for name in names if name.endswith("/data.pkl"))
    return _Reader(archive, pickled.removesuffix("data.pkl")).load()


class _Reader(pickle.Unpickler):
    """An unpickler to which no name means any code but how a tensor lies in its storage."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}data.pkl")))
        self.archive, self.root = archive, root
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return Inert
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("collections", "OrderedDict"): OrderedDict,
            ("torch.jit._pickle", "restore_type_tag"): _first,
        }
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return _first
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it asks for the code {module}.{name}, which is not run")
        return known[module, name]

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, count = pid
        if key not in self.storages:
            data = bytearray(self.archive.read(f"{self.root}data/{key}"))
            self.storages[key] = torch.frombuffer(data, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)
        return self.storages[key]


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset).clone()


def _first(value: Any, *_: Any) -> Any:
    return value
