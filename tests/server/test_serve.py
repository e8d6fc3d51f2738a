"""The whole server: a process of its own, killed and started again."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest

from vesalius.core.errors import ConfigError, WriteError
from vesalius.server.client import Client, ServerError

START = "from vesalius.cli import main; main()"


@contextmanager
def serving(images, *more):
    command = [sys.executable, "-c", START, "annotate", str(images), "--no-browser", "--port", "0", *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            assert "http" in line, process.stderr.read()
            yield process, re.search(r"http://\S+", line)[0]
        finally:
            process.kill()


def test_work_goes_on_after_a_kill(images):
    with serving(images) as (process, address), Client(address) as client:
        ids = {one["name"]: one["id"] for one in client.images()}
        answer = client.prompt(ids["disc2.png"], points=[(30, 20)], name="disc")
        mask = np.zeros((24, 20), np.bool_)
        mask[6:18, 5:15] = True
        made = client.act(ids["scan.nii.gz"], "create", name="block")["object"]
        client.draw(ids["scan.nii.gz"], made, mask, index=4)
        before = client.masks(ids["disc2.png"])
        assert client.pixels(ids["scan.nii.gz"], "x", 3).shape == (12, 24)
        with pytest.raises(ServerError, match="no object o99") as refused:
            client.act(ids["disc2.png"], "delete", object="o99")
        assert (refused.value.status, refused.value.code) == (404, "no_object")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        client.close = lambda: None
    with serving(images) as (_, address), Client(address) as client:
        for number, found in before.items():
            np.testing.assert_array_equal(client.masks(ids["disc2.png"])[number], found)
        np.testing.assert_array_equal(client.masks(ids["scan.nii.gz"], index=4)[made], mask)
        again = client.prompt(ids["disc2.png"], negative=[(2, 2)], object=answer["object"])
        assert len(again["view"]["planes"][0]["prompts"]) == 2
        client.act(ids["disc2.png"], "undo")
        np.testing.assert_array_equal(client.masks(ids["disc2.png"])[answer["object"]], before[answer["object"]])


def test_another_address_needs_the_printed_token(images):
    with serving(images, "--host", "0.0.0.0") as (_, address):
        plain, token = address.replace("0.0.0.0", "127.0.0.1").split("/?token=")
        with pytest.raises(ServerError, match="token"):
            Client(plain)
        with Client(plain, token) as client:
            assert len(client.images()) == 4


def test_a_script_that_was_idle_goes_on_in_a_new_session(images):
    with serving(images) as (_, address), Client(address) as client:
        before = client.session
        image = client.images()[0]["id"]
        client.act(image, "create", name="first")
        client.request("DELETE", f"/api/sessions/{before}")  # as the end of its lease does
        client.act(image, "create", name="second")
        assert client.session != before
        assert client.request("GET", f"/api/sessions/{client.session}")["session"] == client.session
        objects = client.request("GET", f"/api/images/{image}/document")["objects"]
        assert [one["name"] for one in objects] == ["first", "second"]


@pytest.mark.parametrize("token", ["", " ", "two words", "a;b", "a\r\nSet-Cookie: x=y", "schlüssel"])
def test_a_token_that_protects_nothing_is_refused(images, token):
    from vesalius.server.serve import serve

    with pytest.raises(ConfigError, match="token"):
        serve([images], host="0.0.0.0", token=token, open_browser=False)
    assert not (images / "vesalius-annotations").exists()


def test_label_maps_that_are_left_out_are_counted_at_the_start(images, monkeypatch, capsys):
    from vesalius.server.serve import serve

    for folder in ("images", "labels"):
        (images / "set" / folder).mkdir(parents=True)
        (images / "set" / folder / "disc.png").write_bytes((images / "disc2.png").read_bytes())
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    serve([images], open_browser=False)
    told = capsys.readouterr().out
    assert "5 images at" in told
    assert "1 label maps" in told


def test_the_page_has_the_same_address_each_time_unless_another_server_has_it():
    from vesalius.cli_annotate import PORTS, usual_port

    first = usual_port("127.0.0.1")
    assert first in PORTS
    assert usual_port("127.0.0.1") == first
    with socket.create_server(("127.0.0.1", first)):
        assert usual_port("127.0.0.1") in {*PORTS} - {first}


def test_two_servers_do_not_write_one_folder(images):
    from vesalius.server.serve import serve

    with serving(images), pytest.raises(WriteError, match="another process"):
        serve([images], open_browser=False)
