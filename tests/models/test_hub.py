import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from golden.networks import CONFIG, sam
from transformers_layout import transformers_sam
from vesalius.core.errors import ModelError
from vesalius.models import hub
from vesalius.models.checkpoint import save_checkpoint, weights_digest
from vesalius.models.hub import from_pretrained
from words import imis, write_tokenizer

COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """As much of the Hugging Face hub as a push and a download need; keeps the requests that it does not know."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = {}
        self.unknown = []
        self.commits = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            out = b""
            while size := int(self.rfile.readline(), 16):
                out += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return out
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(self, content, status=200, **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self):
        body = self.body()
        path = self.path.split("?")[0]
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.server.repositories.setdefault(name, {})
            return self.reply({"url": f"{self.server.url}/{name}", "name": name})
        if match := re.fullmatch(r"/api/models/(\w+/[\w-]+)/preupload/main", path):
            files = json.loads(body)["files"]
            return self.reply(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            )
        if match := re.fullmatch(r"/api/models/(\w+/[\w-]+)/commit/main", path):
            lines = [json.loads(line) for line in body.splitlines()]
            self.server.commits.append((dict(self.headers), lines[0]["value"]["summary"]))
            for line in lines[1:]:
                value = line["value"]
                self.server.repositories[match[1]][value["path"]] = base64.b64decode(value["content"])
            url = f"{self.server.url}/{match[1]}/commit/{COMMIT}"
            return self.reply({"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})
        if path == "/api/validate-yaml":
            return self.reply({"errors": [], "warnings": []})
        self.server.unknown.append(("POST", self.path))
        return self.reply({"error": "unknown"}, 404)

    def do_GET(self):
        path = self.path.split("?")[0]
        if match := re.fullmatch(r"/api/models/(\w+/[\w-]+)(?:/revision/(\w+))?", path):
            if match[1] in self.server.repositories and match[2] in (None, "main", COMMIT):
                files = [{"rfilename": name} for name in self.server.repositories[match[1]]]
                return self.reply({"id": match[1], "modelId": match[1], "sha": COMMIT, "siblings": files, "tags": []})
            code = "RepoNotFound" if match[1] not in self.server.repositories else "RevisionNotFound"
            return self.reply({"error": "not found"}, 404, X_Error_Code=code)
        if match := re.fullmatch(r"/api/models/(\w+/[\w-]+)/tree/(\w+)", path):
            files = self.server.repositories[match[1]].items()
            return self.reply(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for name, content in files
                ]
            )
        if match := re.fullmatch(r"/(\w+/[\w-]+)/resolve/(\w+)/(.+)", path):
            content = self.server.repositories[match[1]].get(match[3])
            if content is not None:
                return self.reply(content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=COMMIT)
            return self.reply(b"", 404, X_Error_Code="EntryNotFound")
        self.server.unknown.append((self.command, self.path))
        return self.reply({"error": "unknown"}, 404)

    def do_HEAD(self):
        self.do_GET()


@pytest.fixture
def server():
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def run(server, folder, program):
    """Runs Python with the fake hub as its hub: the address is read when the hub's library is imported."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    hub_settings = {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(folder / "home"),
        "HF_TOKEN": "hf_token",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=kept | hub_settings,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_pushed_and_loaded_again(server, tmp_path):
    model = sam()
    save_checkpoint(model, tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("own card")
    save_checkpoint(model, tmp_path / "bare")
    out = run(
        server,
        tmp_path,
        """
from vesalius.models import hub
from vesalius.models.checkpoint import load_checkpoint, weights_digest
print(hub.push("model", "someone/net", message="First"))
print(hub.push(load_checkpoint("bare"), "someone/bare", licence="Apache-2.0"))
print(weights_digest(hub.from_pretrained("someone/net", revision="main", cache_dir="cache")))
print(weights_digest(hub.from_pretrained("someone/net", cache_dir="cache", local_files_only=True)))
for name, options in (
    ("someone/absent", {}),
    ("someone/net", {"revision": "v9"}),
    ("someone/bare", {"local_files_only": True}),
    ("no name", {}),
):
    try:
        hub.from_pretrained(name, cache_dir="cache", **options)
    except hub.ModelError as error:
        print("no" if "cannot be had from the hub" in str(error) else error)
""",
    )
    assert server.unknown == []
    digest = weights_digest(model)
    assert out[:2] == [f"{server.url}/someone/{name}/commit/{COMMIT}" for name in ("net", "bare")]
    assert out[2:] == [digest, digest, "no", "no", "no", "no"]
    headers, message = server.commits[0]
    assert message == "First"
    assert headers["authorization"] == "Bearer hf_token"
    net, bare = server.repositories["someone/net"], server.repositories["someone/bare"]
    assert net == {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()}
    assert sorted(bare) == ["README.md", "config.json", "model.safetensors"]
    card = bare["README.md"].decode()
    assert re.match(
        r"---\nlibrary_name: vesalius\nlicense: apache-2\.0\npipeline_tag: mask-generation\ntags:\n- ", card
    )
    assert "# someone/bare" in card


def test_a_tokenizer_goes_along(server, tmp_path):
    save_checkpoint(imis(), tmp_path / "model")
    write_tokenizer(tmp_path / "model")
    (tmp_path / "model" / "notes.txt").write_text("stays at home")
    out = run(
        server,
        tmp_path,
        """
from vesalius.models import hub
hub.push("model", "someone/words")
print(*hub.from_pretrained("someone/words", cache_dir="cache").embed_text(["liver"]).shape)
""",
    )
    assert server.unknown == []
    assert out == ["1", "32"]
    assert sorted(server.repositories["someone/words"]) == [
        "README.md",
        "config.json",
        "merges.txt",
        "model.safetensors",
        "vocab.json",
    ]


def test_the_card_is_one_that_the_hub_reads(tmp_path):
    cards = pytest.importorskip("huggingface_hub").ModelCard
    from vesalius.models.convert import convert

    torch.save(sam().state_dict(), tmp_path / "medsam_vit_b.pth")
    convert(tmp_path / "medsam_vit_b.pth", tmp_path / "out")
    data = cards.load(tmp_path / "out" / "README.md").data
    assert (data.library_name, data.license, data.pipeline_tag) == ("vesalius", "unknown", "mask-generation")
    assert "medical" in data.tags


def test_folders_need_no_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "_hub", None)
    save_checkpoint(sam(), tmp_path / "ours")
    assert weights_digest(from_pretrained(tmp_path / "ours")) == weights_digest(sam())
    transformers_sam(CONFIG, sam().state_dict()).save_pretrained(tmp_path / "theirs")
    found = from_pretrained(str(tmp_path / "theirs"), preset="medsam")
    assert weights_digest(found) == weights_digest(sam())
    assert found.preset.intensity == "min_max"


def test_without_the_hubs_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (lambda: from_pretrained("someone/net"), lambda: hub.push(tmp_path, "someone/net")):
        with pytest.raises(ModelError, match=r"pip install vesalius\[hub\]"):
            call()


def test_what_is_no_checkpoint_is_not_pushed(tmp_path):
    with pytest.raises(ModelError, match=r"has no config\.json"):
        hub.push(tmp_path, "someone/net")
    save_checkpoint(sam(), tmp_path)
    Path(tmp_path / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ModelError, match="SHA-256"):
        hub.push(tmp_path, "someone/net")
