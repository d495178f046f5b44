"""Files of weights: fetched in pieces from a small server, checked, and read without running what they ask for."""

from __future__ import annotations

import hashlib
import io
import pickle
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vidgen import UserError
from vidgen.download import sha256_of
from vidgen.extractors import weights
from vidgen.extractors.weights import Published, blob_of, download, load, weights_file

BODY = bytes(range(256)) * 40
HASH = hashlib.sha256(BODY).hexdigest()


class Server:
    """Gives :data:`BODY` at every path but ``/gone``, and breaks off after so many bytes, as often as it is told."""

    def __init__(self) -> None:
        self.breaks: list[int] = []
        self.ranges = True
        self.asked: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers["Range"]
                outer.asked.append(wanted)
                start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and outer.ranges else 0
                if self.path.startswith("/gone"):
                    self.send_error(404)
                    return
                if start >= len(BODY):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(BODY)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                rest = BODY[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(rest)))
                self.end_headers()
                self.wfile.write(rest[: outer.breaks.pop(0)] if outer.breaks else rest)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/a%20folder/weights.pt?dl=1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.server.shutdown()
    found.server.server_close()


# Downloads


def test_a_download_is_whole_has_its_name_and_is_kept(server: Server, tmp_path: Path) -> None:
    path = download(server.url, sha256=HASH.upper(), folder=tmp_path / "new")
    assert path.read_bytes() == BODY
    assert path.name.endswith("-weights.pt")
    assert list(path.parent.iterdir()) == [path]
    assert download(server.url, sha256=HASH, folder=tmp_path / "new") == path
    assert server.asked == [None]


def test_a_download_that_breaks_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    server.breaks = [1000, 500]
    assert download(server.url, sha256=HASH, folder=tmp_path).read_bytes() == BODY
    assert server.asked == [None, "bytes=1000-", "bytes=1500-"]


def test_it_goes_on_in_another_process_too(server: Server, tmp_path: Path) -> None:
    server.breaks = [1000, 0, 0]
    with pytest.raises(UserError, match=r"broke off after 1000 bytes \(.*\); the same command goes on from there\."):
        download(server.url, folder=tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
    assert download(server.url, sha256=HASH, folder=tmp_path).read_bytes() == BODY
    assert server.asked[-1] == "bytes=1000-"


def test_a_server_without_ranges_gives_the_whole_again(server: Server, tmp_path: Path) -> None:
    server.breaks, server.ranges = [1000], False
    assert download(server.url, sha256=HASH, folder=tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("too_much", [0, 7])
def test_what_was_whole_already_is_taken_and_what_is_too_long_is_not(too_much: int, server: Server, tmp_path: Path) -> None:
    """Stopped between the last byte and the name; or another file lay at that address before."""
    path = download(server.url, folder=tmp_path)
    path.rename(partial := path.with_name(f"{path.name}.partial"))
    partial.write_bytes(BODY + bytes(too_much))
    assert download(server.url, sha256=HASH, folder=tmp_path).read_bytes() == BODY


def test_another_file_than_asked_for_is_not_kept(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"has the sha256 {HASH}, and {'0' * 64} was asked for: it was not kept"):
        download(server.url, sha256="0" * 64, folder=tmp_path)
    assert not list(tmp_path.iterdir())
    download(server.url, folder=tmp_path)
    with pytest.raises(UserError, match="it is another file, or damaged"):
        download(server.url, sha256="0" * 64, folder=tmp_path)


def test_what_is_not_there_is_told(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be fetched: the server answers 404 \(Not Found\)"):
        download(server.url.replace("a%20folder", "gone"), folder=tmp_path)
    server.server.shutdown()
    server.server.server_close()
    with pytest.raises(UserError, match="broke off after 0 bytes"):
        download(server.url, folder=tmp_path)


def test_a_path_may_be_a_url(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    found = weights_file("x", server.url, HASH, Published(file="a.pt", url="b"))
    assert found.parent == tmp_path / "hub/checkpoints"
    assert found.read_bytes() == BODY


def test_a_local_file_is_held_against_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    file.write_bytes(BODY)
    published = Published(file="a.pt", url="b")
    assert weights_file("x", str(file), HASH, published) == file
    with pytest.raises(UserError, match=f"has the sha256 {HASH}, and abc was asked for"):
        weights_file("x", str(file), "abc", published)


def test_what_is_known_of_a_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    known = (
        ({"sha256": "abc"}, "(its sha256 is abc)"),
        ({"blob": "def"}, "(no sha256 of it is known here, but its git blob id: def)"),
        ({}, "(no sha256 of it is known here)"),
    )
    for options, said in known:
        with pytest.raises(UserError) as error:
            weights_file("x", None, None, Published(file="a.pt", url="https://b", **options), "probe")
        assert str(error.value) == (
            f"extractor=x needs the weights a.pt, which vidgen does not bring: they are at https://b {said}; give them as "
            "extractor.probe=FILE, or take extractor=motion, which is not FVD and needs no file."
        )


def test_the_blob_id_is_git_s(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"hello\n")
    assert blob_of(file) == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert sha256_of(file) == hashlib.sha256(b"hello\n").hexdigest()


# Reading


STATE = {
    "conv.weight": torch.arange(24, dtype=torch.float32).view(2, 3, 4),
    "half": torch.ones(3, dtype=torch.float16),
    "count": torch.tensor(7),
}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


@pytest.mark.parametrize("legacy", [False, True])
def test_state_dicts_of_torch_are_read(legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(STATE, path, _use_new_zipfile_serialization=not legacy)
    assert same(load(path), STATE)


def test_state_dicts_inside_checkpoints_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"model": STATE, "epoch": 3, "optimizer": {"lr": 0.1, "groups": [torch.ones(2)]}}, path)
    assert same(load(path), {f"model.{name}": tensor for name, tensor in STATE.items()})


def test_safetensors_are_read_whatever_their_name(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a.bin")
    assert same(load(tmp_path / "a.bin"), STATE)


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 3, (1, 2, 3), bias=False)
        self.batch3d = nn.BatchNorm3d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.batch3d(self.conv(x))


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.name, self.sizes = "outer", [1, 2]
        self.branch = nn.Sequential(Inner(), nn.ReLU())
        self.shared = nn.Parameter(torch.arange(6.0).view(2, 3).t())

    def forward(self, x: Tensor, rescale: bool = False) -> Tensor:
        return self.branch(x) + self.shared.sum() if rescale else self.branch(x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchscript_archives_are_read_for_their_tensors(tmp_path: Path) -> None:
    model = Outer().eval()
    torch.jit.save(torch.jit.script(model), tmp_path / "a.pt")
    assert same(load(tmp_path / "a.pt"), dict(model.state_dict()))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (subprocess.check_call, (["touch", "ran"],))


@pytest.mark.parametrize("kind", ["state dict", "torchscript"])
def test_code_in_a_file_is_not_run(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pt"
    if kind == "state dict":
        torch.save({"a": Evil()}, path)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", pickle.dumps({"a": Evil()}, protocol=2))
            archive.writestr("a/constants.pkl", pickle.dumps((), protocol=2))
    with pytest.raises(UserError, match=r"^'.*' cannot be read as weights \(.*check_call"):
        load(path)
    assert not (tmp_path / "ran").exists()


def test_files_that_are_no_weights_are_told(tmp_path: Path) -> None:
    whole = io.BytesIO()
    torch.save(STATE, whole)
    save_file(STATE, tmp_path / "whole.safetensors")
    broken = {
        "empty": b"",
        "text": b"no weights at all, but some lines of text",
        "cut": whole.getvalue()[: len(whole.getvalue()) // 2],
        "cut safetensors": (tmp_path / "whole.safetensors").read_bytes()[:-5],
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="cannot be read as weights") as error:
            load(tmp_path / name)
        assert "\n" not in str(error.value)
        assert "weights_only" not in str(error.value)  # torch advises to do without, which would run what the file holds
        assert "it is damaged, or of another kind" in str(error.value)


def test_the_cache_is_torch_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert weights.cache_folder() == tmp_path / "hub/checkpoints"
