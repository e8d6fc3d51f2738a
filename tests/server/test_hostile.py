"""Damaged files, slow clients and images that are too large: the rest is served all the same."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import nibabel
import numpy as np
import pytest
import uvicorn
from pydicom import dcmread

from made_dicom import made_series
from vesalius.core.errors import VesaliusError
from vesalius.server import security
from vesalius.server.app import create_app
from vesalius.server.serve import Connection
from vesalius.server.workspace import Workspace


def element(group: int, number: int, kind: bytes, value: bytes, length: int | None = None) -> bytes:
    """An element in explicit little endian."""
    stated = (len(value) if length is None else length).to_bytes(2, "little")
    return group.to_bytes(2, "little") + number.to_bytes(2, "little") + kind + stated + value


def damaged(path, kind):
    """Damages a DICOM file."""
    content = path.read_bytes()
    where = content.index(element(0x28, 0x10, b"US", b"")[:6])
    frames = element(0x28, 0x08, b"IS", b"many")
    path.write_bytes(
        {
            "empty": b"",
            "cut in the head": content[:100],
            "cut after the head": content[:132],
            "cut in the meta": content[:200],
            "cut before the size": content[: where - 1],
            "cut in the size": content[: where + 9],
            "size of one byte": content[:where] + element(0x28, 0x10, b"US", b"x") + content[where + 10 :],
            "no number of frames": content[:where] + frames + content[where:],
            "too many frames": content[:where] + element(0x28, 0x08, b"IS", b"2147483646") + content[where:],
            "unknown kind": content[:where] + element(0x28, 0x10, b"\xff\xff", b"xx") + content[where + 10 :],
            "no DICOM": b"nothing" * 100,
            "zeros": content[:132] + bytes(500),
        }[kind]
    )


KINDS = [
    "empty",
    "cut in the head",
    "cut after the head",
    "cut in the meta",
    "cut before the size",
    "cut in the size",
    "size of one byte",
    "no number of frames",
    "too many frames",
    "unknown kind",
    "no DICOM",
    "zeros",
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_told_and_the_rest_is_served(tab, images, kind):
    made_series(images / "bad", 1)
    (path,) = (images / "bad").iterdir()
    damaged(path, kind)
    answer = tab.client.post("/api/images/refresh")
    assert answer.status_code == 200
    rows = {one["name"]: one for one in answer.json()["images"]}
    told = rows.pop(f"bad/{path.name}")
    assert (told["state"], bool(told["error"])) == ("damaged", True)
    assert str(images) not in told["error"]
    assert [one["state"] for one in rows.values()] == ["todo"] * 4
    opened = tab.get("bad", "/pixels")
    assert (opened.status_code, opened.json()["error"]["code"]) == (422, "read")
    assert tab.get("ct", "/pixels").status_code == 200
    assert Workspace([images]).items  # as it is when the server is started


def test_what_is_beside_a_series_is_no_damage(tab, images):
    made_series(images / "more", 1)
    (path,) = (images / "more").iterdir()
    dataset = dcmread(path)
    dataset.Modality = "SEG"
    dataset.save_as(path)
    (images / "more" / "README").write_text("words")
    (images / "more" / "DICOMDIR").write_bytes(b"")
    rows = tab.client.post("/api/images/refresh").json()["images"]
    assert [one["name"] for one in rows] == ["ct", "disc2.png", "disc10.png", "scan.nii.gz"]


def test_flipped_bytes_are_never_a_fault_of_ours(tmp_path):
    made_series(tmp_path / "bad", 1)
    (path,) = (tmp_path / "bad").iterdir()
    content, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        flipped = bytearray(content)
        for place in rng.integers(0, len(content) - 20 * 24 * 2, 4):
            flipped[place] = rng.integers(256)
        path.write_bytes(flipped)
        try:
            workspace = Workspace([tmp_path])
            workspace.volume(next(iter(workspace.items)))
        except VesaliusError:
            refused += 1
    assert refused > 10


def test_a_damaged_slice_leaves_the_series_to_be_opened(tab, images):
    made_series(images / "bad", 4)
    paths = sorted((images / "bad").iterdir())
    damaged(paths[0], "cut before the size")
    rows = tab.client.post("/api/images/refresh").json()["images"]
    assert [one["state"] for one in rows if one["name"].startswith("bad")] == ["todo", "damaged"]
    series = next(one["id"] for one in rows if one["name"] == "bad")
    assert tab.client.get(f"/api/images/{series}").json()["size"]["z"] == 3


def test_an_image_of_too_many_pixels_is_not_decoded(tab, images):
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    image.header.set_data_shape((30000, 30000, 30000))
    (images / "huge.nii").write_bytes(image.header.binaryblock + bytes(100))
    tab.client.post("/api/images/refresh")
    answer = tab.get("huge", "/pixels")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "read")
    assert "more than" in answer.json()["error"]["message"]
    sent = tab.client.put("/datastore/?image=huge2", files={"file": ("a.nii", (images / "huge.nii").read_bytes())})
    assert sent.status_code == 422
    assert not list((images / "uploaded").iterdir())


@pytest.fixture
def served(tab, monkeypatch):
    """Address of the server on a socket, with little patience and room for three connections."""
    monkeypatch.setattr(security, "PATIENCE", 0.4)
    monkeypatch.setattr(Connection, "idle", 0.4)
    listening = socket.create_server(("127.0.0.1", 0))
    app = create_app(tab.annotator)
    config = uvicorn.Config(app, http=Connection, log_config=None, lifespan="off", limit_concurrency=4)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield listening.getsockname()
    server.should_exit = True
    thread.join(10)
    listening.close()


def answer_to(address, *pieces, pause=0.0):
    """What comes back; the pieces are sent one by one until it does."""
    with socket.create_connection(address, timeout=10) as client:
        client.settimeout(0.001)
        for piece in pieces:
            try:
                client.sendall(piece)
                time.sleep(pause)
                if found := client.recv(10000):
                    return found
            except TimeoutError:
                continue
            except ConnectionError:
                return b""
        client.settimeout(10)
        try:
            return client.recv(10000)
        except ConnectionError:
            return b""


ACTION = b"POST /api/images/x/actions HTTP/1.1\r\nX-Vesalius-Session: s\r\nHost: 127.0.0.1\r\n"
BODY = ACTION + b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"


def test_a_body_that_stops_or_trickles_is_not_waited_for(served):
    began = time.monotonic()
    assert b"408" in answer_to(served, BODY + b"{")
    assert b"408" in answer_to(served, BODY, *[b" "] * 400, pause=0.05)
    assert time.monotonic() - began < 5
    whole = b'{"kind": "create"}' + b" " * 982
    assert b"410" in answer_to(served, BODY, *[whole[i : i + 100] for i in range(0, 1000, 100)], pause=0.001)


def test_connections_that_ask_for_nothing_lock_nobody_out(served):
    asked = b"GET /api/info HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    assert b"200 OK" in answer_to(served, asked)
    idle = [socket.create_connection(served) for _ in range(4)]
    idle[0].sendall(b"GET /api/in")  # a head that does not end
    time.sleep(0.05)
    assert b"503" in answer_to(served, asked)
    until = time.monotonic() + 5
    while b"200 OK" not in answer_to(served, asked):
        assert time.monotonic() < until
        time.sleep(0.1)
    for one in idle:
        one.close()


def test_a_search_for_everything_ends_when_its_client_hangs_up(served, tab, monkeypatch):
    runtime = tab.annotator.engine.waiting.runtime
    decode, batches = runtime.decode, []
    monkeypatch.setattr(runtime, "decode", lambda *asked: (batches.append(time.sleep(0.1)), decode(*asked))[1])
    body = b'{"side": 64}'
    head = f"POST /api/images/{tab.id('disc2')}/everything HTTP/1.1\r\nX-Vesalius-Session: {tab.session}\r\n"
    head += f"Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(served) as client:
        client.sendall(head.encode() + body)
        until = time.monotonic() + 5
        while not batches:
            assert time.monotonic() < until
            time.sleep(0.01)
    while tab.annotator._looking:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert len(batches) < 20  # of 64


def test_a_request_that_takes_long_is_not_idle(served, tab):
    head = f"GET /api/images/{tab.id('disc2')}/document?after=99&wait=1.5 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    assert b"204" in answer_to(served, head.encode())
