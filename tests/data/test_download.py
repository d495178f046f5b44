"""Downloads go on where they broke off, and only the right bytes are put in place."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vidgen.data.download import download
from vidgen.errors import UserError

CONTENT = bytes(range(256)) * 64
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    """Gives CONTENT; ``breaks`` after so many bytes, ``ranges`` or not; remembers what it was asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            server.asked.append(asked)
            if self.path != "/file":
                self.send_error(404)
                return
            begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
            if begin >= len(CONTENT):
                self.send_error(416)
                return
            self.send_response(206 if begin else 200)
            self.send_header("Content-Length", str(len(CONTENT) - begin))
            self.end_headers()
            self.wfile.write(CONTENT[begin : server.breaks])

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.breaks, server.ranges = [], None, True
    server.url = f"http://127.0.0.1:{server.server_port}/file"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_file_is_fetched_once(server, tmp_path):
    path = tmp_path / "new" / "file"
    for _ in range(2):
        assert download(server.url, path, sha256=SHA256).read_bytes() == CONTENT
    assert server.asked == [None]
    assert [found.name for found in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("ranges", [True, False])
def test_it_goes_on_where_it_broke_off(server, tmp_path, ranges):
    server.breaks, server.ranges = 5000, ranges
    with pytest.raises(UserError, match=r"broke off after 5000 of 16384 bytes: give the same command again"):
        download(server.url, tmp_path / "file", sha256=SHA256)
    assert not (tmp_path / "file").exists()
    server.breaks = None
    assert download(server.url, tmp_path / "file", sha256=SHA256).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=5000-"]


def test_what_is_whole_but_wrong_begins_anew(server, tmp_path):
    (tmp_path / "file.partial").write_bytes(b"x" * len(CONTENT))
    assert download(server.url, tmp_path / "file", sha256=SHA256).read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(CONTENT)}-", None]
    (tmp_path / "file").write_bytes(b"other")
    assert download(server.url, tmp_path / "file", sha256=SHA256).read_bytes() == CONTENT


def test_other_bytes_are_never_put_in_place(server, tmp_path):
    with pytest.raises(UserError, match=f"its sha256 is {SHA256}, and not {'0' * 64}"):
        download(server.url, tmp_path / "file", sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_no_network_is_a_sentence(server, tmp_path):
    wrong = server.url.replace("/file", "/none")
    with pytest.raises(UserError, match=r"cannot be fetched \(Not Found\).*or put the file at .*file by other means"):
        download(wrong, tmp_path / "file", sha256=SHA256)
    with pytest.raises(UserError, match="cannot be fetched"):
        download("http://127.0.0.1:9/x", tmp_path / "file", sha256=SHA256, timeout=2)
    assert list(tmp_path.iterdir()) == []
