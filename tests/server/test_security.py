from __future__ import annotations

import logging

import pytest
from fastapi.testclient import TestClient

from vesalius.server.annotator import Annotator
from vesalius.server.app import create_app
from vesalius.server.security import Guard, Rules, is_loopback
from vesalius.server.workspace import Workspace


@pytest.fixture
def closed(images, predictor):
    """A server on another address, with a token."""
    annotator = Annotator(Workspace([images]), predictor)
    with TestClient(create_app(annotator, Rules("secret")), base_url="http://192.168.1.5:80") as client:
        yield client


def test_a_token_is_asked_for(closed):
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}, {"Cookie": "vesalius_token=x"}):
        answer = closed.get("/api/images", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "token")
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert closed.get("/static/x.js").status_code == 401
    assert closed.get("/info/").status_code == 401
    assert closed.get("/openapi.json").status_code == 401
    assert closed.get("/api/images", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_people_without_the_token_are_told_so_in_words(closed):
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    answer = closed.get("/", headers=browser)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-frame-options"] == "DENY"
    assert "<h1>A token is needed.</h1>" in answer.text
    assert "<p>Open the address that the server has printed.</p>" in answer.text
    assert closed.get("/", headers={"Accept": "*/*"}).json()["error"]["code"] == "token"
    assert closed.get("/?token=secret", headers=browser).status_code == 200


def test_the_printed_address_lets_the_browser_in(closed):
    cookie = closed.get("/api/images?token=secret").headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert closed.get("/api/images").status_code == 200  # the client keeps cookies as browsers do


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::1", "["])
def test_other_names_for_this_machine_are_refused(tab, host):
    answer = tab.client.get("/api/images", headers={"Host": host})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "host")


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000"])
def test_this_machine_is_known_by_its_names(tab, host):
    assert tab.client.get("/api/images", headers={"Host": host}).status_code == 200


def test_pages_of_other_sites_are_refused(tab):
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://[127.0.0.1"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    ):
        answer = tab.client.post("/api/sessions", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin")
    own = {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}
    answer = tab.client.post("/api/sessions", headers=own)
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers
    assert tab.client.options("/api/sessions", headers={"Origin": "http://127.0.0.1:8000"}).status_code == 405


def test_answers_are_not_kept_framed_or_guessed_at(tab):
    headers = tab.client.get("/api/images").headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-frame-options"] == "DENY"
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "script-src" not in headers["content-security-policy"]  # so scripts are the server's own


def test_large_bodies_are_refused(images, predictor):
    annotator = Annotator(Workspace([images]), predictor)
    with TestClient(
        create_app(annotator, Rules(body_bytes=1000, upload_bytes=2000)), base_url="http://localhost"
    ) as client:
        big = "x" * 1500
        answer = client.post("/api/images/refresh", content=big)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")

        multipart = {"content-type": "multipart/form-data; boundary=x"}
        assert client.post("/api/export", content=big, headers=multipart).status_code == 413

        def pieces():  # no Content-Length
            for _ in range(15):
                yield b"x" * 100

        url = f"/api/images/{next(iter(annotator.workspace.items))}/prepare"
        assert client.post(url, content=pieces()).status_code == 413
        assert client.put("/session/", files={"files": ("a.png", b"x" * 1500)}).status_code == 200
        assert client.put("/session/", files={"files": ("a.png", b"x" * 2500)}).status_code == 413


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/api/images/../../etc/passwd",
        "/api/images/..%2f..%2fetc%2fpasswd",
        "/api/images/%2fetc%2fpasswd/pixels",
        "/datastore/image?image=/etc/passwd",
    ],
)
def test_paths_lead_nowhere(tab, path):
    answer = tab.client.get(path)
    assert answer.status_code in (400, 404)
    assert b"root:" not in answer.content
    assert b"create_app" not in answer.content


def test_the_log_has_no_names(tab, caplog):
    with caplog.at_level(logging.DEBUG, "vesalius"):
        tab.act("disc2", "create", name="Mrs Example")
        tab.client.get("/datastore/image?image=disc2")
        tab.client.get("/api/nothing/disc2.png")
        tab.get("disc2", "/export", format="dicom-seg")
    assert "/api/images/{image}/actions 200" in caplog.text
    for name in ("disc2", "Example", "images/disc"):
        assert name not in caplog.text


def test_a_failure_of_ours_is_told_without_names(tab, caplog, monkeypatch):
    def fail(image):
        raise RuntimeError(str(tab.annotator.workspace.item(image).path))

    monkeypatch.setattr(tab.annotator, "about", fail)
    answer = tab.get("disc2")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "failed")
    assert "disc2" not in answer.text + caplog.text
    assert "RuntimeError" in caplog.text
    assert "in fail" in caplog.text


def test_an_answer_that_breaks_off_is_logged_without_names(caplog):
    import asyncio

    name = "disc2"

    async def answer(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise FileNotFoundError(name)

    async def nothing(*_):
        pass

    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [(b"host", b"localhost")]}
    asyncio.run(Guard(answer, Rules())(scope, nothing, nothing))
    assert "FileNotFoundError" in caplog.text
    assert name not in caplog.text


def test_a_full_disk_is_told_in_one_sentence_without_names(tab, caplog, monkeypatch):
    import tempfile

    path = tab.annotator.workspace.item(tab.id("disc2")).path

    def full(*_, **__):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    answer = tab.get("disc2", "/export", format="nifti")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "failed")
    assert "(No space left on device)" in answer.json()["error"]["message"]
    assert "disc2" not in answer.text + caplog.text


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("example.org", False)],
)
def test_loopback(host, expected):
    assert is_loopback(host) is expected


def test_nothing_is_unpickled():
    import re
    from pathlib import Path

    import vesalius.server

    for path in Path(vesalius.server.__path__[0]).glob("*.py"):
        assert not re.search(r"pickle|eval\(|exec\(|allow_pickle|yaml\.load|marshal", path.read_text())


def test_a_body_that_does_not_come_is_not_waited_for(tab, monkeypatch):
    import asyncio

    from vesalius.server import security

    monkeypatch.setattr(security, "PATIENCE", 0.05)
    sent = []

    async def ask():
        async def receive():
            await asyncio.sleep(10)

        async def send(message):
            sent.append(message)

        headers = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"x-vesalius-session", b"s")]
        path = f"/api/images/{tab.id('disc2')}/actions"
        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "headers": headers}
        scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": ""}
        scope |= {"client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)}
        await tab.client.app(scope, receive, send)

    asyncio.run(ask())
    assert sent[0]["status"] == 408
    assert b'"slow"' in sent[1]["body"]
