from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from vesalius.core.types import Slice
from vesalius.server.inference import Asking, Background, Engine, Rank, Turns
from vesalius.server.refusals import Refusal


class Held:
    """A queue whose thread is held at a request until `go`."""

    def __init__(self, **limits):
        self.asking = Asking(**limits)
        self.go = threading.Event()
        self.answers = {}
        self.threads = []
        began = threading.Event()
        self.ask("held", lambda _: (began.set(), self.go.wait(10)), topic=("held",))
        began.wait(10)

    def ask(self, name, work=lambda said: said, session="me", topic=None, said=()):
        def run():
            try:
                self.answers[name] = self.asking.ask(work, session=session, topic=topic, said=list(said))
            except Exception as error:
                self.answers[name] = error

        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()
        time.sleep(0.02)

    def end(self):
        self.go.set()
        for thread in self.threads:
            thread.join(10)
        self.asking.close()


def test_a_newer_request_takes_the_place_and_the_prompts_of_the_older():
    held = Held()
    held.ask("first", topic=("o1",), said=["a"])
    held.ask("other object", topic=("o2",), said=["b"])
    held.ask("other session", topic=("o1",), said=["c"], session="you")
    held.ask("second", topic=("o1",), said=["d"])
    held.ask("third", topic=("o1",), said=["e"])
    held.end()
    for name in ("first", "second"):
        assert (held.answers[name].status, held.answers[name].code) == (409, "superseded")
    assert held.answers["third"] == ["a", "d", "e"]
    assert held.answers["other object"] == ["b"]
    assert held.answers["other session"] == ["c"]


def test_what_runs_already_is_not_superseded():
    running = Held()
    running.ask("same topic", topic=("held",), said=["x"])
    running.end()
    assert running.answers["same topic"] == ["x"]
    assert running.answers["held"][1] is True


def test_the_queue_has_a_limit_for_all_and_for_each():
    held = Held(limit=3, session_limit=2)
    for name in ("one", "two", "too many"):
        held.ask(name, topic=(name,))
    held.ask("another's", session="you")
    held.ask("full", session="they")
    assert held.answers["too many"].status == 429
    assert held.answers["too many"].retry_after
    assert held.answers["full"].status == 503
    assert held.answers["full"].headers()["Retry-After"]
    held.ask("one again", topic=("one",))  # takes a place instead of a new one
    held.end()
    assert held.answers["one again"] == []
    assert held.answers["two"] == []


def test_a_session_that_ends_waits_for_nothing():
    held = Held()
    held.ask("gone", session="you")
    held.asking.drop("you")
    held.end()
    assert held.answers["gone"].status == 410
    assert isinstance(held.answers["held"], tuple)


def test_errors_go_to_the_one_who_asked():
    asking = Asking()

    def fail(_):
        raise ValueError("this")

    with pytest.raises(ValueError, match="this"):
        asking.ask(fail, session="me", said=[])
    assert asking.ask(lambda said: said, session="me", said=[1]) == [1]
    asking.close()
    with pytest.raises(Refusal, match="stopping"):
        asking.ask(lambda said: said, session="me", said=[1])


def test_people_go_first_then_what_they_wait_for_in_the_order_of_coming_then_what_is_prepared():
    turns, order = Turns(), []
    with turns.turn(Rank.NOW):
        threads = []
        for place, rank in enumerate((Rank.AHEAD, Rank.LONG, Rank.NOW, Rank.LONG, Rank.AHEAD, Rank.NOW)):

            def run(place=place, rank=rank):
                with turns.turn(rank):
                    order.append(place)

            threads.append(threading.Thread(target=run))
            threads[-1].start()
            while len(turns._waiting) <= place:
                time.sleep(0.001)
    for thread in threads:
        thread.join(10)
    assert order == [2, 5, 1, 3, 0, 4]


def test_a_click_on_a_slice_that_is_being_prepared_waits_for_it(predictor, monkeypatch):
    encode, began, go, counted = predictor.runtime.encode, threading.Event(), threading.Event(), []

    def slow(*asked):
        counted.append(asked)
        began.set()
        assert go.wait(10)
        return encode(*asked)

    monkeypatch.setattr(predictor.runtime, "encode", slow)
    engine = Engine(predictor)
    key, image = (
        ("a", "z", 0, (0.0, 255.0)),
        Slice(np.arange(48 * 64, dtype=np.uint32).reshape(48, 64).astype(np.uint8)),
    )
    found = []
    threads = [
        threading.Thread(target=lambda ahead=ahead: found.append(engine.embedding(key, lambda: image, ahead=ahead)))
        for ahead in (True, False)
    ]
    threads[0].start()
    assert began.wait(10)
    threads[1].start()
    time.sleep(0.05)
    go.set()
    for thread in threads:
        thread.join(10)
    engine.close()
    assert len(found) == 2
    assert len(counted) == 1


def test_in_the_background_the_newest_goes_first_and_the_oldest_falls_out():
    background, done, go, began = Background("test", limit=2), [], threading.Event(), threading.Event()
    background.add("held", lambda: (began.set(), go.wait(10)))
    began.wait(10)
    for name in ("a", "b", "c", "b"):
        background.add(name, lambda name=name: done.append(name))
    go.set()
    end = threading.Event()
    while len(done) != 2:
        end.wait(0.01)
    background.close()
    assert done == ["b", "c"]


def test_jobs_are_all_done_in_the_order_of_coming():
    background, done, go, began = Background("test"), [], threading.Event(), threading.Event()
    background.add("held", lambda: (began.set(), go.wait(10)))
    began.wait(10)
    for name in range(200):
        background.add(name, lambda name=name: done.append(name))
    end = threading.Event()
    background.add("end", end.set)
    go.set()
    assert end.wait(10)
    background.close()
    assert done == list(range(200))


def test_a_task_that_fails_in_the_background_ends_nothing():
    background, done = Background("test", limit=4), threading.Event()
    background.add("bad", lambda: 1 / 0)
    background.add("good", done.set)
    assert done.wait(10)
    background.close()
