"""``vidgen doctor``: what is here, what is missing, and what to do about it; with ``--fvd``, whether weights are FVD's."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from vidgen import __version__
from vidgen.errors import UserError
from vidgen.runs import check_writable, cpu_name


class Finding(NamedTuple):
    """One thing looked at.

    ``state`` is ok, missing (vidgen needs it), hint (something more would work with it) or wrong (not what was published).
    """

    state: str
    subject: str
    detail: str


NEEDED = (
    *("torch", "lightning", "hydra-core", "timm", "torchmetrics", "av", "pillow"),
    *("safetensors", "huggingface_hub", "rich", "jinja2", "numpy", "pyyaml"),
)

OPTIONAL = {
    "tensorboard": "for logger=tensorboard",
    "wandb": "for logger=wandb",
    "diffusers": "for tokenizer=diffusers",
    "vector-quantize-pytorch": "for the tests, which compare with it",
}

CODECS = {"decoder H.264": "h264", "decoder H.265": "hevc", "decoder AV1": "libdav1d", "encoder H.264": "libx264"}

LOW_DISK_GB = 5

WEIGHTS = {
    "FVD": ("i3d_torchscript.pt", "extractor=i3d-styleganv needs it, extractor=motion needs none"),
    "LPIPS": ("alexnet-owt-7be5be79.pth", "torchvision's AlexNet, which LPIPS needs"),
}
"""Files that vidgen does not bring, looked for where torch keeps downloads."""


def run(words: Sequence[str]) -> int:
    """Prints a line for each finding; returns 1 where something that vidgen needs is missing or wrong, else 0.

    ``--fvd FILE`` looks at a file of I3D's weights instead, and ``--fvd FILE --long`` for some ten minutes more.

    Raises:
        UserError: on any other argument, and for a file without these weights.
    """
    bad = False
    for finding in _asked(words):
        bad |= finding.state in ("missing", "wrong")
        print(f"{finding.state:<8}{finding.subject:<26}{finding.detail}", flush=True)
    return int(bad)


def _asked(words: Sequence[str]) -> Iterator[Finding]:
    if not words:
        return examine()
    rest = [word for word in words if word != "--long"]
    if rest[:1] != ["--fvd"] or len(rest) > 2:
        odd = next((word for word in words if word not in ("--fvd", "--long")), words[0])
        raise UserError(f"vidgen doctor takes nothing or --fvd FILE [--long], and got '{odd}'. See: vidgen doctor --help")
    if len(rest) < 2:
        raise UserError(
            "vidgen doctor --fvd needs the file of I3D's weights: vidgen doctor --fvd FILE. See: vidgen doctor --help"
        )
    return examine_fvd(rest[1], long=len(rest) < len(words))


def examine() -> Iterator[Finding]:
    """Everything looked at, in turn."""
    yield Finding("ok", "vidgen", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    yield from _packages()
    yield from _devices()
    yield from _video()
    yield compiler()
    yield _disk()
    yield from _weights()


def examine_fvd(file: str, *, long: bool = False) -> Iterator[Finding]:
    """Whether I3D with the weights in ``file`` gives the distances that others published, and at last what that means.

    Raises:
        UserError: where the file is not there or has other weights.
    """
    from vidgen.download import sha256_of
    from vidgen.extractors import golden
    from vidgen.extractors.i3d import I3D, PUBLISHED
    from vidgen.extractors.weights import blob_of, weights_file

    path = weights_file("i3d", file, None, PUBLISHED["styleganv"])
    network = I3D(path=str(path)).network
    yield Finding("ok", "weights", f"{path}, sha256 {sha256_of(path)}")
    known = {published.blob: published.file for published in PUBLISHED.values()}.get(blob_of(path))
    state, said = ("ok", f"byte for byte the public {known}") if known else ("hint", "none of the public copies that are known")
    yield Finding(state, "file", said)
    right: list[bool] = []
    for frames, published in golden.CONSTANT.items():
        yield _held(f"black, white, {frames} frames", golden.constant(network, frames), published, right)
    if long:
        from vidgen.metrics.frechet import frechet_from_features

        distance = float(frechet_from_features(golden.noise(network, 1), golden.noise(network, 2)))
        yield _held("noise, 128 clips", distance, golden.NOISE, right)
    if all(right):
        yield Finding("ok", "passed", "this is the network of the published FVD; resizing and quantisation are the extractor's")
    else:
        yield Finding("wrong", "failed", "distances with these weights are not FVD and compare with no published one")


def _held(subject: str, found: float, published: float, right: list[bool]) -> Finding:
    """One value against the published one; whether they agree is added to ``right``."""
    from vidgen.extractors.golden import TOLERANCE, agrees

    right.append(agrees(found, published))
    detail = f"{found:.4f}, published {published:.4f} ({found / published - 1:+.2%}, allowed {TOLERANCE:.1%})"
    return Finding("ok" if right[-1] else "wrong", subject, detail)


def _packages() -> Iterator[Finding]:
    for name in (*NEEDED, *OPTIONAL):
        try:
            yield Finding("ok", name, version(name))
        except PackageNotFoundError:
            state = "hint" if name in OPTIONAL else "missing"
            yield Finding(state, name, f"{OPTIONAL.get(name, 'needed')}: pip install {name}")


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except ImportError as error:
        yield Finding("missing", "devices", f"torch cannot be imported: {error}")
        return
    from vidgen.training import precision

    cpu = torch.device("cpu")
    yield Finding("ok", "CPU", f"{cpu_name()}, {_cores()} cores; trains in {precision.choose('auto', cpu)}")
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        yield Finding("ok", f"GPU {index}", f"{device.name}, {device.total_memory / 2**30:.0f} GiB")
    if not torch.cuda.is_available():
        built = f"this torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "this torch is built without CUDA"
        yield Finding("hint", "GPU", f"none found ({built}); small recipes train on the CPU in minutes")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _video() -> Iterator[Finding]:
    try:
        import av
    except ImportError as error:
        yield Finding("missing", "video", f"av (PyAV) cannot be imported: {error}")
        return
    for what, name in CODECS.items():
        try:
            found = av.Codec(name, "w" if what.startswith("encoder") else "r")
            yield Finding("ok", what, found.long_name)
        except ValueError:
            yield Finding("missing", what, "this build of PyAV lacks it: pip install --force-reinstall --only-binary :all: av")


def compiler() -> Finding:
    """Whether torch.compile can build code for the CPU."""
    found = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    if found is None:
        return Finding("hint", "C++ compiler", "none found, so torch.compile cannot be used on the CPU: install g++ or clang++")
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        minor = f"{sys.version_info.major}.{sys.version_info.minor}"
        return Finding("hint", "C++ compiler", f"{found}, but torch.compile also needs Python's headers (python{minor}-dev)")
    return Finding("ok", "C++ compiler", found)


def _disk() -> Finding:
    """Whether runs can be written here."""
    folder = Path("runs")
    try:
        check_writable(folder, "runs")
    except (UserError, OSError) as error:
        return Finding("missing", "runs folder", str(error))
    free = shutil.disk_usage(folder if folder.exists() else Path()).free / 1e9
    return Finding("ok" if free > LOW_DISK_GB else "hint", "runs folder", f"{Path.cwd() / folder}, {free:.0f} GB free")


def _weights() -> Iterator[Finding]:
    try:
        from torch.hub import get_dir
    except ImportError:
        return  # said already
    for metric, (name, what) in WEIGHTS.items():
        file = Path(get_dir()) / "checkpoints" / name
        state, where = ("ok", str(file)) if file.is_file() else ("hint", f"{file} is not there: {what}")
        yield Finding(state, f"weights for {metric}", where)
