import hashlib
import io
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from golden.networks import sam
from vesalius.core.errors import ModelError, WriteError
from vesalius.models import fetch as module
from vesalius.models import registry
from vesalius.models.checkpoint import load_checkpoint, weights_digest
from vesalius.models.convert import convert
from vesalius.models.fetch import address, download, fetch

CONTENT = bytes(range(256)) * 4096  # one mebibyte
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``files`` by path, in the way that the attributes say."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/weights.pth": CONTENT}
        self.ranges = True
        self.etag = '"one"'
        self.break_after = None  # bytes
        self.stall_after = None
        self.length = None  # a wrong one
        self.shift = 0  # of a partial answer
        self.seen = []
        self.released = threading.Event()

    def handle_error(self, *_):
        """A client that hangs up is nothing to print."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        server = self.server
        server.seen.append((self.path, dict(self.headers)))
        path = "/" + self.path.split("/", 3)[3] if self.path.startswith("http://") else self.path
        content = server.files.get(path)
        if content is None:
            return self.send_error(404)
        asked = self.headers.get("Range") if server.ranges else None
        if "If-Range" in self.headers and self.headers["If-Range"] != server.etag:
            asked = None
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        self.send_response(206 if asked else 200)
        if asked:
            start += server.shift
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(server.length or len(content) - start))
        self.end_headers()
        rest = content[start:]
        if server.break_after is not None:
            self.wfile.write(rest[: server.break_after])
            self.close_connection = True
        elif server.stall_after is not None:
            self.wfile.write(rest[: server.stall_after])
            self.wfile.flush()
            server.released.wait(20)
        else:
            self.wfile.write(rest)
        return None


@contextmanager
def serving():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with serving() as server:
        yield server


def get(server, path, **known):
    download(f"{server.url}/weights.pth", path / "w.pth", **known)


def names(folder):
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("known", [{"sha256": SHA256, "size": len(CONTENT)}, {"md5": MD5}, {}])
def test_a_whole_file(server, tmp_path, known):
    told = []
    get(server, tmp_path / "new", **known, progress=lambda got, total: told.append((got, total)))
    assert (tmp_path / "new" / "w.pth").read_bytes() == CONTENT
    assert names(tmp_path / "new") == ["w.pth"]
    assert told[-1] == (len(CONTENT), len(CONTENT))


@pytest.mark.parametrize("known", [{"sha256": SHA256}, {}])
def test_a_broken_download_is_kept_and_continued(server, tmp_path, known):
    server.break_after = 327_680
    with pytest.raises(ModelError, match=r"broke off; 327680 bytes of 1048576 are kept; run it again"):
        get(server, tmp_path, **known)
    assert (tmp_path / "w.pth.part").read_bytes() == CONTENT[:327_680]
    assert not (tmp_path / "w.pth").exists()
    with pytest.raises(ModelError, match="655360 bytes of 1048576 are kept"):
        get(server, tmp_path, **known)
    server.break_after = None
    told = []
    get(server, tmp_path, **known, progress=lambda got, total: told.append((got, total)))
    assert (tmp_path / "w.pth").read_bytes() == CONTENT
    assert names(tmp_path) == ["w.pth"]
    assert [headers.get("Range") for _, headers in server.seen] == [None, "bytes=327680-", "bytes=655360-"]
    assert told[0][0] > 655_360
    assert told[-1] == (len(CONTENT), len(CONTENT))


def test_a_server_that_ignores_ranges_serves_it_anew(server, tmp_path):
    (tmp_path / "w.pth.part").write_bytes(CONTENT[:1000])
    server.ranges = False
    get(server, tmp_path, sha256=SHA256)
    assert server.seen[0][1]["Range"] == "bytes=1000-"
    assert (tmp_path / "w.pth").read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_served_anew(server, tmp_path):
    server.break_after = 327_680
    with pytest.raises(ModelError, match="broke off"):
        get(server, tmp_path)
    server.break_after, server.etag = None, '"two"'
    server.files["/weights.pth"] = CONTENT[::-1]
    get(server, tmp_path)
    assert server.seen[1][1]["If-Range"] == '"one"'
    assert (tmp_path / "w.pth").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("etag", ["", 'W/"one"'])
def test_without_digest_and_version_a_part_is_not_continued(server, tmp_path, etag):
    server.etag, server.break_after = etag, 327_680
    with pytest.raises(ModelError, match="broke off"):
        get(server, tmp_path)
    server.break_after = None
    get(server, tmp_path)
    assert "Range" not in server.seen[1][1]
    assert (tmp_path / "w.pth").read_bytes() == CONTENT


def test_a_whole_part_is_verified_and_taken(server, tmp_path):
    (tmp_path / "w.pth.part").write_bytes(CONTENT)
    get(server, tmp_path, sha256=SHA256)
    assert (tmp_path / "w.pth").read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_removed(server, tmp_path):
    (tmp_path / "w.pth.part").write_bytes(CONTENT + b"more")
    with pytest.raises(ModelError, match=r"no part of what .* serves; it was removed"):
        get(server, tmp_path, sha256=SHA256)
    assert names(tmp_path) == []


def test_another_part_than_was_asked_for_is_refused(server, tmp_path):
    (tmp_path / "w.pth.part").write_bytes(CONTENT[:1000])
    server.shift = 5
    with pytest.raises(ModelError, match="another part than was asked for"):
        get(server, tmp_path, sha256=SHA256)
    assert (tmp_path / "w.pth.part").read_bytes() == CONTENT[:1000]


def test_a_stalled_server_is_given_up_and_the_part_kept(server, tmp_path):
    server.stall_after = 196_608
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"stalled: not a byte in 0\.3 seconds; 196608 bytes of 1048576 are kept"):
        get(server, tmp_path, sha256=SHA256, timeout=0.3)
    assert time.monotonic() - start < 10
    server.stall_after = None
    get(server, tmp_path, sha256=SHA256)
    assert (tmp_path / "w.pth").read_bytes() == CONTENT


def test_a_wrong_file_is_removed(server, tmp_path):
    with pytest.raises(ModelError, match=rf"not the expected file: its sha256 is {SHA256} instead of 000"):
        get(server, tmp_path, sha256="0" * 64)
    assert names(tmp_path) == []
    with pytest.raises(ModelError, match=rf"its md5 is {MD5}"):
        get(server, tmp_path, md5="0" * 32)
    (tmp_path / "w.pth.part").write_bytes(b"x" * 1000)
    with pytest.raises(ModelError, match="its sha256 is"):
        get(server, tmp_path, sha256=SHA256)
    assert names(tmp_path) == []


def test_a_wrong_size_is_refused_before_the_download(server, tmp_path):
    with pytest.raises(ModelError, match="serves 1048576 bytes instead of 7"):
        get(server, tmp_path, size=7)
    assert names(tmp_path) == []


def test_no_such_file_and_no_such_server(server, tmp_path):
    with pytest.raises(ModelError, match="answers 404 Not Found"):
        download(f"{server.url}/absent.pth", tmp_path / "w.pth")
    server.shutdown()
    server.server_close()
    with pytest.raises(ModelError, match="failed"):
        get(server, tmp_path)
    with pytest.raises(ModelError, match="cannot be downloaded"):
        download("ftp://example.org/a.pth", tmp_path / "w.pth")
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot be written"):
        download(f"{server.url}/weights.pth", tmp_path / "file" / "w.pth")


def test_through_a_proxy(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", server.url)
    download("http://weights.example/weights.pth", tmp_path / "w.pth", sha256=SHA256)
    assert server.seen[0][0] == "http://weights.example/weights.pth"
    assert (tmp_path / "w.pth").read_bytes() == CONTENT
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    get(server, tmp_path / "direct", sha256=SHA256)
    assert len(server.seen) == 2


@pytest.fixture
def published(server, tmp_path, monkeypatch):
    """A registry of one model, which the server has, and a cache of its own."""
    buffer = io.BytesIO()
    torch.save(sam().state_dict(), buffer)
    server.files = {"/a/medsam_vit_b.pth": buffer.getvalue()}
    known = registry.entry("medsam").model_copy(
        update={"url": f"{server.url}/a/medsam_vit_b.pth", "md5": hashlib.md5(buffer.getvalue()).hexdigest()}
    )
    monkeypatch.setattr(module, "entry", lambda name: known)
    monkeypatch.setenv("VESALIUS_CACHE", str(tmp_path / "cache"))
    return known


def test_fetching_verifies_converts_and_cleans_up(published, server, tmp_path):
    done = fetch("medsam")
    assert done.folder == tmp_path / "cache" / "models" / "medsam"
    loaded = load_checkpoint(done.folder)
    assert weights_digest(loaded) == weights_digest(sam())
    assert loaded.preset.intensity == "min_max"
    assert "zenodo.org/records/10689643" in (done.folder / "README.md").read_text()
    assert names(tmp_path / "cache" / "downloads") == []
    assert fetch("medsam") is None
    assert len(server.seen) == 1


def test_what_was_converted_by_hand_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("VESALIUS_CACHE", str(tmp_path / "cache"))
    torch.save(sam().state_dict(), tmp_path / "file.pth")
    convert(tmp_path / "file.pth", registry.model_folder("ft-sam"), preset="ft-sam")
    assert fetch("ft-sam") is None
    with pytest.raises(ModelError, match="cannot be downloaded"):
        fetch("ft-sam", tmp_path / "elsewhere")


def test_a_whole_download_is_not_made_again(published, server, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("vesalius.models.convert.convert", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch("medsam")
    assert names(tmp_path / "cache" / "downloads") == ["medsam_vit_b.pth"]
    fetch("medsam")
    assert len(server.seen) == 1
    assert weights_digest(load_checkpoint(registry.model_folder("medsam"))) == weights_digest(sam())


@pytest.mark.parametrize(("content", "known"), [(CONTENT[::-1], {"sha256": SHA256}), (CONTENT, {})])
def test_a_file_that_is_another_or_cannot_be_told_is_downloaded_again(server, tmp_path, content, known):
    (tmp_path / "w.pth").write_bytes(content)
    get(server, tmp_path, **known)
    assert (len(server.seen), (tmp_path / "w.pth").read_bytes()) == (1, CONTENT)


def test_fetching_goes_on_where_it_broke_off(published, server, tmp_path):
    server.break_after = 32_768
    with pytest.raises(ModelError, match="32768 bytes"):
        fetch("medsam", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    server.break_after = None
    fetch("medsam", tmp_path / "out")
    assert server.seen[1][1]["Range"] == "bytes=32768-"
    assert weights_digest(load_checkpoint(tmp_path / "out")) == weights_digest(sam())


def test_fetching_from_a_mirror(published, server, tmp_path):
    server.files["/mirror/of/medsam_vit_b.pth"] = server.files.pop("/a/medsam_vit_b.pth")
    fetch("medsam", tmp_path / "out", mirror=f"{server.url}/mirror/of/")
    assert server.seen[0][0] == "/mirror/of/medsam_vit_b.pth"
    assert load_checkpoint(tmp_path / "out").config == sam().config


def test_a_download_that_is_no_network_leaves_no_checkpoint(published, server, tmp_path, monkeypatch):
    server.files["/a/medsam_vit_b.pth"] = b"<html>please log in</html>"
    with pytest.raises(ModelError, match="not the expected file"):
        fetch("medsam", tmp_path / "out")
    monkeypatch.setattr(module, "entry", lambda name: published.model_copy(update={"md5": None}))
    with pytest.raises(ModelError, match="damaged"):
        fetch("medsam", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("sam-med2d", r"OpenGVLab/SAM-Med2D; .*Google Drive.*convert FILE --preset sam-med2d .*--mirror"),
        ("ft-sam", r"yuhoo0302/.*Google Drive.*convert FILE --preset ft-sam"),
        ("imis-net", r"uni-medical/IMIS-Bench; .*Baidu.*convert FILE -o"),
        ("sam2", r"huggingface\.co/.*transformers loads this"),
    ],
)
def test_what_cannot_be_fetched_says_where_it_is_and_what_to_do(name, told, tmp_path, monkeypatch):
    monkeypatch.setenv("VESALIUS_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=f"cannot be downloaded directly; its page is https://.*{told}"):
        fetch(name)
    assert names(tmp_path) == []


def test_a_mirror_may_have_what_the_source_does_not_serve():
    known = registry.entry("sam-med2d")
    assert address("sam-med2d", known, "https://example.org/x/") == "https://example.org/x/sam-med2d_b.pth"
    with pytest.raises(ModelError, match="no name that a mirror"):
        address("sam2", registry.entry("sam2").model_copy(update={"how": None}), "https://example.org")
