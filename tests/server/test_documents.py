from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from vesalius.core.errors import ReadError, WriteError
from vesalius.server.documents import Document

ABOUT = {"image": "a.png", "shape": [1, 4, 4], "digest": "x"}


def test_the_state_is_what_the_log_says(tmp_path):
    path = tmp_path / "a.jsonl"
    document = Document(path, ABOUT)
    assert not path.exists()
    with document.lock:
        document.append({"kind": "create", "object": "o1", "name": "liver", "colour": "#000000"}, "me")
        document.append({"kind": "update", "object": "o1", "name": "spleen"}, "me")
        document.append({"kind": "undo"}, "me")
        document.append({"kind": "state", "done": True}, "me")
    again = Document(path, ABOUT)
    assert again.state == document.state
    assert again.state.objects["o1"].name == "liver"
    assert (again.revision, again.undo_kind, again.redo_kind) == (4, "state", None)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[0]["shape"] == [1, 4, 4]
    assert [row["n"] for row in rows[1:]] == [1, 2, 3, 4]
    assert {row["session"] for row in rows[1:]} == {"me"}


def test_undo_reads_the_log_only_when_it_goes_far_back(tmp_path, monkeypatch):
    """The state after undo and redo is that of the log, near and far, over a replacement as well."""
    path = tmp_path / "a.jsonl"
    document = Document(path, ABOUT)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    document.append({"kind": "replace", "axis": "z", "objects": []}, "me")
    for number in range(100):
        if number == 80:
            document.append({"kind": "replace", "axis": "z", "objects": []}, "me")
        document.append({"kind": "create", "object": f"o{number}", "name": "liver", "colour": "#000000"}, "me")
    reads = []
    folded = Document._folded
    monkeypatch.setattr(Document, "_folded", lambda self, numbers: reads.append(len(numbers)) or folded(self, numbers))
    left = []
    for _ in range(102):
        document.append({"kind": "undo"}, "me")
        left.append(len(document.state.objects))
    # 20 objects, the replacement that had taken 80 away, the 80, and the first replacement.
    assert left == [*range(19, -1, -1), *range(80, -1, -1), 0]
    assert reads == [81, 17, 0]
    for _ in range(30):
        document.append({"kind": "redo"}, "me")
    assert document.state == Document(path, ABOUT).state
    assert len(document.state.objects) == 29


def test_a_torn_last_line_is_left_out_and_said(tmp_path):
    path = tmp_path / "a.jsonl"
    document = Document(path, ABOUT)
    for name in ("liver", "spleen"):
        document.append({"kind": "create", "object": name, "name": name, "colour": "#000000"}, "me")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"n":3,"kind":"del')
    looked = Document(path, None)
    assert list(looked.state.objects) == ["liver", "spleen"]
    assert path.read_bytes() != whole
    again = Document(path, ABOUT)
    assert list(again.state.objects) == ["liver", "spleen"]
    assert "18 bytes" in again.warnings[0]
    assert path.read_bytes() == whole
    again.append({"kind": "undo"}, "me")
    assert list(Document(path, ABOUT).state.objects) == ["liver"]
    path.write_bytes(whole[:20])
    assert Document(path, ABOUT).revision == 0


def test_damage_before_the_last_line_is_told_and_nothing_is_changed(tmp_path):
    path = tmp_path / "a.jsonl"
    document = Document(path, ABOUT)
    for name in ("liver", "spleen"):
        document.append({"kind": "create", "object": name, "name": name, "colour": "#000000"}, "me")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"{...\n" + lines[2])
    damaged = path.read_bytes()
    with pytest.raises(ReadError, match="line 2 is damaged"):
        Document(path, ABOUT)
    assert path.read_bytes() == damaged
    path.write_bytes(lines[0] + lines[2])
    with pytest.raises(ReadError, match="line 2 is damaged"):
        Document(path, ABOUT)


@pytest.mark.parametrize(("key", "value", "what"), [("shape", [1, 4, 5], "size"), ("digest", "y", "content")])
def test_a_log_of_another_image_is_refused(tmp_path, key, value, what):
    path = tmp_path / "a.jsonl"
    Document(path, ABOUT).append({"kind": "state", "done": True}, "me")
    with pytest.raises(ReadError, match=f"another {what}"):
        Document(path, {**ABOUT, key: value})


def test_what_cannot_be_written_has_not_happened(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    document = Document(path, ABOUT)
    document.append({"kind": "create", "object": "o1", "name": "liver", "colour": "#000000"}, "me")
    whole = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="No space left"):
        document.append({"kind": "delete", "object": "o1"}, "me")
    assert path.read_bytes() == whole
    assert list(document.state.objects) == ["o1"]
    assert document.revision == 1


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_log_whose_first_action_found_no_room_is_begun_again(tmp_path, monkeypatch, fails_at):
    """The file is on the disk first (1), then its name in the folder (2)."""
    document = Document(tmp_path / "logs" / "a.jsonl", ABOUT)
    create = {"kind": "create", "object": "o1", "name": "liver", "colour": "#000000"}
    fsync, calls = os.fsync, []

    def full(file):
        calls.append(file)
        if len(calls) == fails_at:
            raise OSError(28, "No space left on device")
        fsync(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="No space left"):
        document.append(create, "me")
    assert (document.revision, document.state.objects) == (0, {})
    document.append(create, "me")
    assert Document(document.path, ABOUT).state == document.state


def test_a_log_that_another_program_has_changed_is_not_written(tmp_path):
    create = {"kind": "create", "object": "o1", "name": "liver", "colour": "#000000"}
    one, other = (Document(tmp_path / "a.jsonl", ABOUT) for _ in range(2))
    one.append(create, "me")
    whole = one.path.read_bytes()
    with pytest.raises(WriteError, match="changed by another program"):
        other.append(create, "you")
    assert (other.revision, one.path.read_bytes()) == (0, whole)
    one.append({"kind": "undo"}, "me")
    again = Document(one.path, ABOUT)
    again.append({"kind": "redo"}, "me")
    assert list(Document(one.path, ABOUT).state.objects) == ["o1"]
    one.path.unlink()
    with pytest.raises(WriteError, match="changed by another program"):
        again.append({"kind": "undo"}, "me")


def test_what_cannot_be_encoded_leaves_no_log(tmp_path):
    document = Document(tmp_path / "a.jsonl", ABOUT)
    with pytest.raises(ValueError, match="surrogates"):
        document.append({"kind": "create", "object": "o1", "name": "\ud800", "colour": "#000000"}, "me")
    assert not document.path.exists()


def test_actions_of_many_threads_stand_one_after_the_other(tmp_path):
    document = Document(tmp_path / "a.jsonl", ABOUT)

    def add(name):
        for _ in range(10):
            with document.lock:
                number = document.revision + 1
                document.append({"kind": "create", "object": f"o{number}", "name": name, "colour": "#000000"}, name)

    threads = [threading.Thread(target=add, args=(f"s{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(document.state.objects) == 80
    assert Document(document.path, ABOUT).state == document.state


WRITER = """
import sys
from pathlib import Path
from vesalius.server.documents import Document
document = Document(Path(sys.argv[1]), {"image": "a.png", "shape": [1, 4, 4], "digest": "x"})
while True:
    number = document.revision + 1
    document.append({"kind": "create", "object": f"o{number}", "name": "n" * 2000, "colour": "#000000"}, "me")
    print(number, flush=True)
"""


def test_a_killed_process_loses_nothing_that_it_has_confirmed(tmp_path):
    path = tmp_path / "a.jsonl"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        confirmed = 0
        while confirmed < 25:
            confirmed = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        confirmed = max([confirmed, *(int(line) for line in writer.stdout if line.endswith("\n"))])
    document = Document(path, ABOUT)
    assert document.revision in (confirmed, confirmed + 1)
    assert len(document.state.objects) == document.revision
