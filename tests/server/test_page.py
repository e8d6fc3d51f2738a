"""The page, in a real browser: Chromium, driven by Playwright, on a server with the bundled model."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest
import uvicorn
from PIL import Image

from vesalius.io.outlines import mask_of_runs, runs_of_mask
from vesalius.predict.load import load_model
from vesalius.predict.propagation_rules import PropagationRules
from vesalius.server.annotator import Annotator
from vesalius.server.app import create_app
from vesalius.server.client import Client
from vesalius.server.security import Rules
from vesalius.server.workspace import Workspace

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
expect = playwright.expect
expect.set_options(timeout=20_000)  # a busy machine is slow, not wrong

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium; name one by the variable CHROMIUM")
# Nothing that the browser does by itself should reach for the network.
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
SIZE = {"width": 1280, "height": 720}


def disc():
    y, x = np.mgrid[:48, :64]
    return (x - 30) ** 2 + (y - 20) ** 2 < 90


def make_images(folder):
    """A grey and a coloured picture of a disc, and a volume of a block."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    grey = np.where(disc(), 200, 60) + rng.integers(0, 20, (48, 64))
    Image.fromarray(grey.astype(np.uint8)).save(folder / "disc2.png")
    Image.fromarray(np.stack([grey, grey // 2, grey // 3], -1).astype(np.uint8)).save(folder / "disc10.png")
    voxels = rng.normal(0, 20, (20, 24, 12)).astype(np.int16)
    voxels[5:15, 6:18, 3:9] += 300
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([0.7, 0.8, 2.5, 1])), folder / "scan.nii.gz")
    return folder


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield launched
        launched.close()


@contextmanager
def serving(folder, model, port=0, token=None):
    annotator = Annotator(Workspace([folder]), model)
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    config = uvicorn.Config(create_app(annotator, Rules(token=token)), log_config=None, timeout_graceful_shutdown=0)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory, model):
    with serving(make_images(tmp_path_factory.mktemp("page") / "images"), model) as found:
        yield found


class User:
    """Somebody at the page, who can also look at what the server has."""

    def __init__(self, page, address):
        self.page = page
        self.address = address
        self.client = Client(address)
        self.ids = {one["name"]: one["id"] for one in self.client.images()}
        self.image = None

    def open(self, name):
        self.image = next(number for full, number in self.ids.items() if full.startswith(name))
        self.page.goto("about:blank")  # another image of the same page would be no new page
        self.page.goto(f"{self.address}/#{self.image}")
        expect(self.page.locator("#image-name")).to_contain_text(name)
        expect(self.page.locator("#canvas")).to_have_attribute("data-view", re.compile(" "))
        return self

    def forget(self):
        """Deletes all that other tests have left on the image."""
        for one in self.document()["objects"]:
            self.client.act(self.image, "update", object=one["id"], locked=False)
            self.client.act(self.image, "delete", object=one["id"])
        return self

    def document(self):
        return self.client.request("GET", f"/api/images/{self.image}/document")

    def planes(self):
        return self.client.request("GET", f"/api/images/{self.image}/planes")["planes"]

    def masks(self, axis="z", index=0):
        return self.client.masks(self.image, axis, index)

    def place(self, x, y):
        """Where the centre of a pixel is on screen."""
        across, down, left, top = map(float, self.page.locator("#canvas").get_attribute("data-view").split())
        box = self.page.locator("#canvas").bounding_box()
        return box["x"] + left + (x + 0.5) * across, box["y"] + top + (y + 0.5) * down

    def aspect(self):
        """Height of a pixel on screen, relative to its width."""
        across, down = self.page.locator("#canvas").get_attribute("data-view").split()[:2]
        return abs(float(down) / float(across))

    def click(self, x, y, button="left"):
        self.page.mouse.click(*self.place(x, y), button=button)

    def drag(self, start, stop, button="left"):
        self.page.mouse.move(*self.place(*start))
        self.page.mouse.down(button=button)
        self.page.mouse.move(*self.place(*stop), steps=4)
        self.page.mouse.up(button=button)

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def answered(self):
        """Waits for the next action that the server does."""
        return self.page.expect_response(lambda one: one.url.endswith("/actions") and one.ok)

    def sees(self, slice_):
        """Waits until a slice, such as z:5, is on screen."""
        expect(self.page.locator("#canvas")).to_have_attribute("data-slice", slice_)

    def says(self, text):
        expect(self.page.locator("#status")).to_contain_text(text)
        expect(self.page.locator("#saved-text")).to_have_text("Saved")
        return self

    def colour(self, x, y):
        """The colour of the canvas at a pixel of the slice."""
        left, top = self.place(int(x), int(y))
        return self.page.evaluate(
            """async ([left, top]) => {
                const drawn = (done) => requestAnimationFrame(() => requestAnimationFrame(done));
                await new Promise(drawn);
                const canvas = document.getElementById("canvas");
                const box = canvas.getBoundingClientRect();
                const pixel = canvas.getContext("2d").getImageData(left - box.left, top - box.top, 1, 1);
                return [...pixel.data];
            }""",
            [left, top],
        )


def watched(page, address):
    """What goes wrong on a page, as it comes."""
    wrong = []
    page.on("console", lambda one: wrong.append(one.text) if one.type == "error" and not refused(one.text) else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda one: None if one.url.startswith((address, "blob:")) else wrong.append(one.url))
    return wrong


def refused(text):
    """Whether it is only that the server has said no, as it does to a click that a later one overtakes."""
    return re.match(r"Failed to load resource: the server responded with a status of (409|422|503) ", text)


@pytest.fixture
def user(browser, address):
    context = browser.new_context(viewport=SIZE)
    page = context.new_page()
    wrong = watched(page, address)
    someone = User(page, address)
    yield someone
    someone.client.close()
    context.close()
    assert wrong == []


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


def test_an_outline_is_made_corrected_undone_and_named(user):
    user.open("disc2").forget()
    grey = user.colour(30, 20)
    assert grey[0] == grey[1] == grey[2]
    user.click(30, 20)
    user.says("quality")
    (found,) = user.masks().values()
    assert found[20, 30]
    y, x = np.argwhere(found & disc())[5]
    assert user.colour(x, y)[0] > user.colour(x, y)[2]  # the object is orange
    user.click(10, 40, button="right")
    expect(user.page.locator("#prompts li")).to_have_count(2)
    user.says("quality")
    prompts = user.planes()[0]["prompts"]
    assert [(one["x"], one["y"], one["positive"]) for one in prompts] == [(30, 20, True), (10, 40, False)]

    user.page.get_by_role("button", name="Delete prompt: Remove at 10, 40").click()
    user.says("Prompt deleted")
    expect(user.page.locator("#prompts li")).to_have_count(1)
    for key, left in (("Control+z", 2), ("Control+z", 1), ("Control+z", 0), ("Control+Shift+z", 1), ("Control+y", 2)):
        user.press(key)
        expect(user.page.locator("#prompts li")).to_have_count(left)
    user.says("Done again: prompt")

    expect(user.page.locator("#readout-quality")).to_contain_text("1 of 3")
    user.press("c")
    user.says("Candidate 2 of 3")
    expect(user.page.locator("#readout-quality")).to_contain_text("2 of 3")
    assert user.planes()[0]["chosen"] == 1

    user.press("r")
    user.page.keyboard.type("left kid")
    user.page.get_by_role("option", name=re.compile("^left kidney")).first.wait_for()
    user.press("ArrowDown", "Enter")
    user.says("Named left kidney")
    assert [one["name"] for one in user.document()["objects"]] == ["left kidney"]
    user.press("r")
    user.page.keyboard.type("left k")
    user.page.get_by_role("option", name=re.compile("^left kidney")).first.wait_for()
    user.press("ArrowDown")
    user.page.route("**/vocabulary?*", lambda route: None)  # is not answered
    user.page.keyboard.type("x")
    user.press("Enter")
    user.says("Named left kx")
    # Control+Z as a Russian keyboard has it.
    user.page.evaluate(
        """() => document.getElementById("canvas").dispatchEvent(
            new KeyboardEvent("keydown", { key: "я", code: "KeyZ", ctrlKey: true, bubbles: true }))"""
    )
    user.says("Undone: change of an object")
    assert [one["name"] for one in user.document()["objects"]] == ["left kidney"]

    user.page.reload()
    expect(user.page.locator(".object.selected")).to_contain_text("left kidney")
    expect(user.page.locator("#prompts li")).to_have_count(2)


def test_a_box_finds_the_disc_and_objects_are_locked_hidden_and_deleted(user):
    user.open("disc10").forget()
    user.press("n")
    user.drag((18, 8), (42, 32))
    user.says("quality")
    (found,) = user.masks().values()
    assert iou(found, disc()) > 0.8
    one = user.document()["objects"][0]
    assert user.planes()[0]["prompts"][0]["kind"] == "box"
    inside = user.colour(34, 20)
    user.press("h")
    expect(user.page.get_by_role("button", name="Show Object 1")).to_be_visible()
    assert user.colour(34, 20) != inside
    user.press("h", "l")
    expect(user.page.get_by_role("button", name="Unlock Object 1")).to_be_visible()
    user.click(30, 20)
    expect(user.page.get_by_role("alert")).to_contain_text("is locked. Unlock it first (L).")
    user.press("l")
    expect(user.page.get_by_role("button", name="Lock Object 1", exact=True)).to_be_visible()
    user.press("Shift+Delete")
    user.says("deleted; Ctrl+Z brings it back")
    assert user.document()["objects"] == []
    user.press("Control+z")
    user.says("Undone: deletion")
    assert [each["id"] for each in user.document()["objects"]] == [one["id"]]


def test_a_volume_is_scrolled_turned_and_drawn_on(user):
    user.open("scan").forget()
    number = user.page.locator("#slice-number")
    expect(number).to_have_value("6")
    user.page.mouse.move(*user.place(9, 12))
    user.page.mouse.wheel(0, 100)
    expect(number).to_have_value("7")
    user.press(",", "PageUp")
    user.sees("z:5")
    expect(number).to_have_value("5")
    user.press("b")
    user.page.locator("#brush-size").fill("4")
    for key, start, stop in (("b", (6, 8), (13, 8)), ("e", (12, 8), (14, 8))):
        user.press(key)
        with user.page.expect_response(lambda one: '"kind":"mask"' in (one.request.post_data or "")):
            user.drag(start, stop)
    user.says("pixels")
    (drawn,) = user.masks(index=5).values()
    assert drawn[8, 6:9].all()
    assert not drawn[8, 12:].any()
    assert not drawn[14:].any()

    # Voxels are 0.7, 0.8 and 2.5 mm long: slices across are shown in their true proportions.
    assert user.aspect() == pytest.approx(0.8 / 0.7)
    user.page.mouse.move(*user.place(9, 8))
    user.press("y")
    expect(number).to_have_value("8")
    expect(user.page.locator("#facts")).to_contain_text("crossing slices")
    expect(user.page.locator("#canvas")).to_have_attribute("data-view", re.compile(r"^\S+ -"))  # the head is up
    assert user.aspect() == pytest.approx(2.5 / 0.7)
    user.press("End", "Home")
    expect(number).to_have_value("0")
    user.press("Control+z")
    user.says("Undone: drawing")
    user.press("z")
    expect(number).to_have_value("5")
    np.testing.assert_array_equal(next(iter(user.masks(index=5).values()))[8, 6:14], True)

    user.page.reload()
    expect(number).to_have_value("5")
    expect(user.page.locator("#facts")).to_contain_text("drawn")


def test_strokes_are_drawn_on_what_the_server_has(user):
    user.open("scan").forget()
    outlined = np.zeros((24, 20), np.bool_)
    outlined[14:18, 4:16] = True
    corner = np.roll(outlined, 5, axis=0)
    made = user.client.act(user.image, "create", name="block")["object"]
    user.client.draw(user.image, made, outlined, index=7)
    expect(user.page.locator("#objects .pick")).to_contain_text("block")
    user.press("1")
    # The outline of a slice has not come when the hand already draws on it.
    held, holds = [], [True]
    user.page.route("**/planes?*", lambda route: held.append(route) if holds else route.continue_())
    user.page.mouse.move(*user.place(9, 8))
    user.press("b", ".")
    user.sees("z:7")
    user.page.locator("#brush-size").fill("4")
    user.drag((6, 6), (13, 6))
    holds.clear()
    with user.answered():
        for route in held:
            route.continue_()
    user.says("pixels")
    (drawn,) = user.masks(index=7).values()
    assert held
    assert drawn[6, 6:14].all()
    assert drawn[outlined].all()

    # Another tab draws while the stroke is on its way.
    def quicker(route):
        user.page.unroute("**/actions")
        user.client.draw(user.image, made, drawn | corner, index=7)
        route.continue_()

    user.page.route("**/actions", quicker)
    with user.answered():
        user.drag((6, 2), (13, 2))
    user.says("pixels")
    expect(user.page.locator("#error")).to_be_hidden()
    (both,) = user.masks(index=7).values()
    assert both[2, 6:14].all()
    assert both[drawn | corner].all()

    # A click without an answer is answered first.
    def slow(route):
        user.page.unroute("**/actions")
        time.sleep(0.3)
        route.continue_()

    user.press("p", ",", ",", "n")
    user.sees("z:5")
    user.click(9, 12)
    user.says("quality")
    user.press("Backspace")
    user.says("Prompt deleted")
    user.page.route("**/actions", slow)
    user.click(9, 12)
    user.press("b")
    with user.page.expect_response(lambda one: '"kind":"mask"' in (one.request.post_data or "")):
        user.drag((2, 21), (5, 21))
    user.says("pixels")
    last = list(user.masks(index=5).values())[-1]
    assert last[21, 2:6].all()
    assert last[12, 9]


def test_what_was_begun_on_one_image_ends_there(user):
    """The next image is opened while the server has not answered yet."""
    held = []

    @contextmanager
    def leaving(kind, key, name):
        user.page.route(
            "**/actions",
            lambda route: held.append(route) if route.request.post_data_json["kind"] == kind else route.continue_(),
        )
        with user.page.expect_request("**/actions"):
            yield
        user.press(key)
        expect(user.page.locator("#image-name")).to_contain_text(name)
        held.pop().continue_()
        expect(user.page.locator("#saved-text")).to_have_text("Saved")
        user.page.unroute("**/actions")
        user.page.wait_for_timeout(300)

    flat, scan = user.open("disc2").forget().image, user.open("scan").forget().image
    user.open("disc10").forget()
    other = user.client.act(user.image, "create", name="other")["object"]
    user.client.draw(user.image, other, disc())

    # A stroke of a new object: both images have an object of this id.
    user.open("disc2")
    user.press("n", "b")
    with leaving("create", "Control+ArrowRight", "disc10"):
        user.drag((40, 40), (50, 40))
    (drawn,) = user.masks().values()
    assert drawn[40, 40:51].all()
    (kept,) = user.client.masks(user.ids["disc10.png"]).values()
    np.testing.assert_array_equal(kept, disc())

    # An undo on another axis.
    user.image = scan
    made = user.client.act(scan, "create", name="block")["object"]
    user.client.draw(scan, made, np.ones((12, 20), np.bool_), axis="y", index=3)
    user.open("scan")
    user.press("y", "End")
    user.sees("y:23")
    with leaving("undo", "Control+ArrowLeft", "disc10"):
        user.press("Control+z")
    assert user.client.masks(scan, "y", 3) == {}
    expect(user.page.locator("#readout-place")).to_have_text("")
    for image in (flat, scan, user.ids["disc10.png"]):
        user.image = image
        user.forget()


def test_slices_are_seen_as_on_a_light_box(user):
    directions: dict[str, dict[str, str] | None] = {}

    def with_directions(route):
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), **directions})

    user.page.route(re.compile("/api/images/[0-9a-f]+$"), with_directions)
    user.page.add_init_script("if (location.host) localStorage.clear()")
    known = ["R", "L", "A", "P"]
    for towards, signs, sides in (("LPS", (1, 1), known), ("RAS", (-1, -1), known), (None, (1, 1), [""] * 4)):
        directions["directions"] = dict(zip("xyz", towards, strict=True)) if towards else None
        user.open("scan")
        across, down = map(float, user.page.locator("#canvas").get_attribute("data-view").split()[:2])
        assert (np.sign(across), np.sign(down)) == signs
        assert [user.page.locator(f"#side-{side}").inner_text() for side in ("left", "right", "up", "down")] == sides
        user.press("y")
        expect(user.page.locator("[data-axis=y]")).to_have_attribute("aria-pressed", "true")
        expect(user.page.locator("#canvas")).to_have_attribute("data-view", re.compile(r"^\S+ -"))  # the head is up
        user.press("f")
        expect(user.page.locator("#canvas")).to_have_attribute("data-view", re.compile(r"^\S+ \d"))


def test_window_and_level_by_drag_and_preset(user):
    user.open("scan").forget()
    before = user.colour(9, 12)
    width = float(user.page.locator("#width").input_value())
    # The scan grows to the right and the front, so it is seen mirrored both ways.
    user.drag((9, 12), (9, 4), button="right")
    expect(user.page.locator("#preset")).to_have_value("own")
    assert user.colour(9, 12)[0] < before[0]  # the hand went down: darker
    assert user.document()["objects"] == []
    user.drag((9, 12), (6, 12), button="right")
    assert float(user.page.locator("#width").input_value()) > width
    user.page.locator("#preset").select_option("full")
    assert float(user.page.locator("#width").input_value()) > 300
    user.press("Shift+W")
    expect(user.page.locator("#preset")).not_to_have_value("full")


def test_everything_can_be_done_by_keys(user):
    user.open("disc2").forget()
    user.press("n", "Shift+ArrowLeft")  # the cursor begins in the middle (32, 24)
    user.press(*["ArrowRight"] * 8, *["ArrowUp"] * 4)
    expect(user.page.locator("#readout-cursor")).to_contain_text("30, 20:")
    user.says("Column 30, row 20, value")
    user.press("Enter")
    user.says("quality")
    assert next(iter(user.masks().values()))[20, 30]
    user.press("n", "Shift+ArrowLeft", "Shift+ArrowUp", "d", *["Shift+ArrowRight"] * 2, *["Shift+ArrowDown"] * 2, "d")
    expect(user.page.locator("#prompts li")).to_have_text(["Box 20, 10 to 41, 31"])
    user.says("quality")
    user.press("k")
    user.says("Object 1 selected")
    user.press("2")
    user.says("Object 2 selected")
    user.press("Backspace")
    user.says("Prompt deleted")
    user.press("b", "Enter")
    user.says("pixels")
    assert len(user.masks()) == 2
    user.press("?")
    expect(user.page.get_by_role("dialog")).to_be_visible()
    user.press("Escape")
    expect(user.page.get_by_role("dialog")).to_have_count(0)
    user.press("Shift+Enter")  # done; the next image
    expect(user.page.locator("#image-name")).to_have_text("disc10.png")
    assert user.document()["state"] == "done"
    user.client.act(user.image, "state", done=False)


def test_quick_clicks_are_all_heard(user):
    user.open("disc2").forget()
    user.press("n")
    for x in range(25, 35, 2):
        user.click(x, 20)
    expect(user.page.locator("#prompts li:not(.waits)")).to_have_count(5)
    user.says("quality")
    assert len(user.planes()[0]["prompts"]) == 5
    assert len(user.document()["objects"]) == 1
    for x in (20, 40):
        user.press("n")
        user.click(x, 30)
    expect(user.page.locator(".object.selected")).to_contain_text("Object 3")
    assert [len(one["prompts"]) for one in user.planes()] == [5, 1, 1]


def test_words_are_asked_for_and_those_that_the_model_does_not_know_refused(user):
    user.open("disc2").forget()
    user.press("n", "t")
    user.page.keyboard.type("kidney stone")
    user.press("Enter")
    expect(user.page.get_by_role("alert")).to_contain_text("not trained on 'kidney stone'")
    expect(user.page.get_by_role("alert")).to_contain_text("Say kidney tumour or kidney or skin lesion.")
    expect(user.page.locator("#prompts li")).to_have_count(0)
    assert user.document()["objects"] == []
    user.press("t")
    user.page.keyboard.type("Nuclei")
    user.press("Enter")
    user.says("quality")
    expect(user.page.locator("#prompts li")).to_have_count(1)
    expect(user.page.locator("#prompts li")).to_contain_text("Nuclei")


def test_a_model_that_takes_no_words_is_not_asked_for_any(user):
    def takes_none(route):
        answer = route.fetch()
        found = answer.json()
        assert found["model"]["takes_text"]
        found["model"]["takes_text"] = False
        route.fulfill(response=answer, json=found)

    user.page.route("**/api/info", takes_none)
    user.open("disc2").forget()
    expect(user.page.locator("#text")).to_be_hidden()
    user.press("t")
    user.says("takes no words")


def test_what_the_server_is_too_busy_for_is_asked_again(user):
    user.open("disc2").forget()
    asked, is_busy = [], [True]

    def busy(route):
        asked.append(route.request.post_data_json.get("kind"))
        if is_busy:
            body = {"error": {"code": "busy", "message": "the queue is full", "remedy": None}}
            route.fulfill(status=503, json=body, headers={"Retry-After": "0.02"})
        else:
            route.continue_()

    user.page.route("**/actions", busy)
    user.page.route("**/propagate", busy)
    user.press("n")
    user.click(30, 20)
    expect(user.page.locator("#saved-text")).to_have_text("Server is busy, trying again…")
    while len(asked) < 20:
        user.page.wait_for_timeout(20)
    is_busy.clear()
    user.says("quality")
    assert set(asked) == {"prompt"}
    assert len(user.planes()[0]["prompts"]) == 1

    # A job that the server does not take yet can be given up, and clicks do not wait for it.
    user.open("scan").forget()
    user.press("n")
    user.click(9, 12)
    user.says("quality")
    is_busy.append(True)
    user.press("v", "Enter")
    expect(user.page.locator("#prop-text")).to_have_text("Waiting…")
    expect(user.page.locator("#saved-text")).to_have_text("Server is busy, trying again…")
    user.page.unroute("**/actions")
    user.click(8, 10)
    expect(user.page.locator("#prompts li:not(.waits)")).to_have_count(2)
    user.page.locator("#stop").click()
    user.says("Stopped; nothing was changed")
    user.forget()


def test_another_tab_is_followed(user):
    user.open("disc2").forget()
    expect(user.page.locator("#objects .pick")).to_have_count(0)
    other = User(user.page.context.new_page(), user.address).open("disc2")
    other.click(30, 20)
    other.says("quality")
    other.press("r")
    other.page.keyboard.type("from elsewhere")
    other.press("Enter")
    expect(user.page.locator("#objects .pick")).to_contain_text("from elsewhere")
    expect(user.page.locator("#objects .pick")).to_contain_text("here")
    user.press("1", "Control+z")
    expect(other.page.locator(".object.selected")).to_contain_text("Object 1")

    # A hidden tab leaves the few lines that a browser has to a server to the others, and catches up.
    asked = []
    user.page.on("request", lambda one: asked.append(one.url) if "after=" in one.url else None)
    tell = "(now) => { Object.defineProperty(document, 'visibilityState', { configurable: true, value: now }); \
        document.dispatchEvent(new Event('visibilitychange')); }"
    user.page.evaluate(tell, "hidden")
    asked.clear()
    other.press("Shift+Delete")
    other.says("deleted")
    user.page.wait_for_timeout(500)
    expect(user.page.locator("#objects .pick")).to_have_count(1)
    assert asked == []
    user.page.evaluate(tell, "visible")
    expect(user.page.locator("#objects .pick")).to_have_count(0)
    other.client.close()
    other.page.close()

    # Whoever goes on quickly listens to the last image alone.
    held, holds = [], [True]
    user.page.route("**/pixels?*", lambda route: held.append(route) if holds else route.continue_())
    for name in ("disc10", "scan"):
        user.press("Control+ArrowRight")
        expect(user.page.locator("#image-name")).to_contain_text(name)
    holds.clear()
    for route in held:
        route.continue_()
    user.says("scan")
    asked.clear()
    between, scan = user.ids["disc10.png"], user.ids["scan.nii.gz"]
    for image in (scan, between):
        user.client.act(image, "create", name="other")
    user.page.wait_for_timeout(500)
    assert asked
    assert all(scan in url for url in asked)
    for user.image in (scan, between):
        user.forget()


def test_an_image_is_exported_and_everything_is_named(user, tmp_path):
    user.open("disc2").forget()
    user.press("n")
    user.drag((18, 8), (42, 32))
    user.says("quality")
    user.press("Control+e")
    with user.page.expect_download() as download:
        user.page.get_by_role("dialog").get_by_role("button", name="PNG").click()
    assert download.value.suggested_filename == "disc2-labels.png"
    download.value.save_as(tmp_path / "labels.png")
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "labels.png")) > 0, next(iter(user.masks().values()))
    )
    user.press("Escape")
    nameless = user.page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, [role=application]")]
            .filter((one) => !one.closest("dialog:not([open])"))
            .filter((one) => !(one.ariaLabel || one.innerText?.trim() || one.textContent.trim() || one.labels?.length))
            .map((one) => one.outerHTML)"""
    )
    assert nameless == []
    outside = user.page.evaluate(
        """() => [...document.querySelectorAll("header, main, aside, footer, #below > *, header > *")]
            .map((one) => [one, one.getBoundingClientRect()])
            .filter(([, box]) => box.right > innerWidth || box.bottom > innerHeight || box.left < 0)
            .map(([one]) => one.outerHTML.slice(0, 80))"""
    )
    assert outside == []


def test_masks_are_packed_as_coco_packs_them_and_outlined_along_their_pixels(user):
    user.open("disc2")
    rng = np.random.default_rng(0)
    for shape, share in (((7, 5), 0.5), ((40, 33), 0.5), ((3, 3), 1.1), ((3, 3), -1), ((90, 130), 0.01)):
        mask = rng.random(shape) < share
        told = runs_of_mask(mask)
        data, again, area, *filled = user.page.evaluate(
            """async (told) => {
                const { area, decode, encode, outline } = await import("/static/rle.js");
                const mask = decode(told);
                const filled = [told, mask].map((shape) => {
                    const canvas = new OffscreenCanvas(mask.width, mask.height);
                    const context = canvas.getContext("2d", { willReadFrequently: true });
                    const path = outline(shape);
                    if (path) context.fill(path, "evenodd");
                    const { data } = context.getImageData(0, 0, mask.width, mask.height);
                    return [...data].filter((_, place) => place % 4 === 3);
                });
                return [[...mask.data], encode(mask), area(mask), ...filled];
            }""",
            told,
        )
        np.testing.assert_array_equal(np.reshape(data, shape), mask)
        np.testing.assert_array_equal(mask_of_runs(again, shape), mask)
        assert again["counts"] == told["counts"]
        assert area == mask.sum()
        for alpha in filled:
            np.testing.assert_array_equal(np.reshape(alpha, shape), 255 * mask)


def test_the_tutorial_has_all_keys(user):
    user.open("disc2")
    user.press("?")
    shown = user.page.evaluate(
        """() => [...document.querySelectorAll("#help-keys dt")]
            .map((one) => [[...one.children].map((key) => key.textContent), one.nextElementSibling.textContent])"""
    )
    tutorial = (Path(__file__).parents[2] / "docs" / "annotating.md").read_text(encoding="utf-8")
    rows = [f"| {', '.join(f'`{key}`' for key in keys)} | {what} |" for keys, what in shown]
    assert [row for row in rows if row not in tutorial] == []


def test_images_that_cannot_be_read_are_passed_by(browser, model, tmp_path):
    folder = make_images(tmp_path / "images")
    for name in ("broken file.nii.gz", "disc3.nii.gz"):
        (folder / name).write_bytes((folder / "scan.nii.gz").read_bytes()[:500])
    with serving(folder, model) as address:
        context = browser.new_context(viewport=SIZE)
        page = context.new_page()
        wrong = watched(page, address)
        page.goto(address)
        expect(page.locator("#error-text")).to_contain_text("broken file.nii.gz: is not a NIfTI file")
        expect(page.locator("#error-text")).not_to_contain_text(str(folder))
        for button in ("#done", "#export", "#everything", "#through", "#new", "#fit", "#level", "#previous"):
            expect(page.locator(button)).to_be_disabled()
        for key in ("a", "v", "0", "t", "Control+z", "Control+e", "Enter", "n"):
            page.keyboard.press(key)
        page.locator("#next").click()
        expect(page.locator("#image-name")).to_have_text("disc2.png")
        expect(page.locator("#error")).to_be_hidden()
        expect(page.locator("#export")).to_be_enabled()
        page.keyboard.press("Control+ArrowRight")
        expect(page.locator("#error-text")).to_contain_text("disc3.nii.gz: ")
        page.keyboard.press("Control+ArrowRight")
        expect(page.locator("#image-name")).to_have_text("disc10.png")
        context.close()
    assert wrong == []


def test_the_selected_object_of_many_is_in_sight(user):
    user.open("disc10").forget()
    for number in range(30):
        user.client.act(user.image, "create", name=f"thing {number}")
    expect(user.page.locator(".object")).to_have_count(31)  # one is that to be made
    user.press("1", "k")
    expect(user.page.locator(".object.selected")).to_contain_text("thing 29")
    expect(user.page.locator(".object.selected")).to_be_in_viewport(ratio=1)
    user.press("j")
    expect(user.page.locator(".object.selected")).to_contain_text("thing 0")
    expect(user.page.locator(".object.selected")).to_be_in_viewport(ratio=1)
    user.forget()


def test_proposals_are_walked_through_and_accepted_by_keys(user):
    user.open("disc2").forget()
    masks = [disc(), np.roll(disc(), 15, axis=1), np.roll(disc(), 12, axis=0)]
    found = [
        {"mask": runs_of_mask(mask), "quality": 0.9, "area": int(mask.sum()), "box": [0, 0, 1, 1]} for mask in masks
    ]
    user.page.route("**/everything", lambda route: route.fulfill(json={"proposals": found}))
    user.page.mouse.move(*user.place(0, 0))  # where no proposal is
    user.press("a")
    user.says("3 proposals")
    user.press("Enter")
    user.says("arrow keys")
    user.press("ArrowDown", "ArrowDown", "Enter")
    user.says("Accepted")
    user.press("ArrowUp", "Alt+Enter")
    user.says("Rejected; 1 left")
    (accepted,) = user.masks().values()
    np.testing.assert_array_equal(accepted, masks[1])
    user.press("ArrowDown", "Enter")
    user.says("Accepted")
    np.testing.assert_array_equal(list(user.masks().values())[-1], masks[0])
    user.forget()


def test_one_object_is_carried_at_a_time(user):
    user.open("scan").forget()
    user.click(9, 11)
    user.says("pixels")
    job = {"job": "j", "kind": "propagate", "state": "running", "done": 3, "total": 11, "error": None, "revision": None}
    asked = []
    user.page.route("**/propagate", lambda route: (asked.append(route.request.post_data_json), route.fulfill(json=job)))
    user.page.route("**/api/jobs/j", lambda route: route.fulfill(json=job))
    user.page.locator("#preset").select_option("full")
    user.press("v")
    user.page.locator("#propagate-dialog summary").click()
    for name, unit in (("least_quality", 100), ("most_change", 1), ("least_grey", 100)):
        shown = user.page.locator(f"#{name}").get_attribute("placeholder")
        assert float(shown) == unit * getattr(PropagationRules(), name)
    user.page.locator("#least_quality").fill("55")
    user.press("Enter")
    expect(user.page.locator("#prop-text")).to_have_text("3 of 11 slices")
    assert asked[0]["rules"] == {"least_quality": 0.55}
    windows = user.client.request("GET", f"/api/images/{user.image}")["windows"]
    assert asked[0]["window"] == windows["full"]  # the model sees what is shown
    expect(user.page.locator("#through")).to_be_disabled()
    user.press("v")
    user.says("being carried already")
    expect(user.page.locator("#propagate-dialog")).to_be_hidden()
    job |= {"state": "failed", "error": {"message": "the object was changed meanwhile", "remedy": "propagate again"}}
    expect(user.page.locator("#error-text")).to_have_text("The object was changed meanwhile. Propagate again.")
    expect(user.page.locator("#prop-progress")).to_be_hidden()
    user.forget()


def test_a_dialog_is_closed_by_a_click_beside_it_only(user):
    user.open("disc2").forget()
    user.press("Control+e")
    dialog = user.page.locator("#export-dialog")
    box = dialog.bounding_box()
    user.page.mouse.click(box["x"] + 5, box["y"] + 5)
    expect(dialog).to_be_visible()
    user.page.mouse.click(box["x"] - 5, box["y"] + 5)
    expect(dialog).to_be_hidden()


def test_a_token_opens_the_page_and_leaves_its_address(browser, model, tmp_path):
    context = browser.new_context(viewport=SIZE)
    with serving(make_images(tmp_path / "images"), model, token="open-sesame") as address:
        page = context.new_page()
        page.goto(f"{address}/?token=open-sesame")
        expect(page.locator("#saved-text")).to_have_text("Saved")
        expect(page.locator("#canvas")).to_have_attribute("data-view", re.compile(" "))
        assert "sesame" not in page.url
        page.mouse.click(500, 300)
        expect(page.locator("#objects .pick")).to_have_count(1)
        context.close()


def next_of(page, held):
    """What a route holds back; its handler may be called later than the request is told of."""
    for _ in range(1000):
        if held:
            return held.pop()
        page.wait_for_timeout(10)
    raise AssertionError("no request came")


def test_proposals_belong_to_the_slice_that_was_asked_about_and_clicks_to_the_one_that_is_shown(user):
    user.open("scan").forget()
    block = np.zeros((24, 20), np.bool_)
    block[6:18, 5:15] = True
    held = []
    found = {"mask": runs_of_mask(block), "quality": 0.9, "area": 120, "box": [5, 6, 15, 18]}
    user.page.route("**/everything", lambda route: held.append(route))
    with user.page.expect_request("**/everything"):
        user.press("a")
    expect(user.page.locator("#everything")).to_be_disabled()
    user.press(".")
    expect(user.page.locator("#everything")).to_be_enabled()
    next_of(user.page, held).fulfill(json={"proposals": [found]})
    user.page.wait_for_timeout(300)
    expect(user.page.locator("#proposal-banner")).to_be_hidden()
    with user.page.expect_request("**/everything"):
        user.press("a")
    next_of(user.page, held).fulfill(json={"proposals": [found]})
    user.says("1 proposals")
    user.press("Escape")

    # A click at a slice that is not there yet was aimed at the one before; what is wanted no longer is given up.
    user.page.route("**/pixels?*", lambda route: held.append(route))
    place = user.place(9, 12)
    with user.page.expect_event("requestfailed", lambda one: "index=11" in one.url):
        user.press("End", "Home")
    expect(user.page.locator("#slice-number")).to_have_value("0")
    user.page.mouse.click(*place)
    user.press("Enter")
    expect(user.page.locator("#status")).to_contain_text("One moment")
    user.page.unroute("**/pixels?*")
    next_of(user.page, held).continue_()
    user.page.wait_for_timeout(300)
    assert user.document()["objects"] == []
    user.page.mouse.click(*place)
    expect(user.page.locator("#prompts li:not(.waits)")).to_have_count(1)
    user.forget()


@pytest.mark.slow
def test_proposals_and_propagation(user):
    user.open("disc2").forget()
    user.press("a")
    expect(user.page.locator("#proposal-banner")).to_be_visible(timeout=60_000)
    user.page.locator("#least").fill("30")
    expect(user.page.locator("#proposals li").first).to_be_visible()
    count = user.page.locator("#proposals li").count()
    user.page.get_by_role("button", name="Accept Proposal 1", exact=True).click()
    user.says("Accepted")
    assert len(user.document()["objects"]) == 1
    if count > 1:
        user.press("Control+Enter")
        user.says("ccepted")
    assert len(user.document()["objects"]) == count

    user.open("scan").forget()
    user.press("n")
    user.drag((4, 5), (15, 18))
    user.says("quality")
    user.press("v", "Enter")
    user.says("Carried through 11 slices")
    planes = user.document()["objects"][0]["planes"]
    assert {one["by"] for one in planes} == {"prompts", "propagated"}
    user.press("Control+z")
    user.says("Undone: carrying")
    assert len(user.document()["objects"][0]["planes"]) == 1


@contextmanager
def started(folder, port):
    """A process of its own, which can be killed."""
    command = [sys.executable, "-c", "from vesalius.cli import main; main()", "annotate", str(folder), "--no-browser"]
    with subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, re.search(r"http://\S+[0-9]", process.stdout.readline())[0]
        finally:
            process.kill()


def test_a_volume_is_outlined_and_saved_though_the_server_is_killed_meanwhile(browser, tmp_path):
    folder = make_images(tmp_path / "images")
    affine = np.array([[0, 0.8, 0, -7], [-0.7, 0, 0.3, 5], [0.1, 0, 2.5, 40], [0, 0, 0, 1]])
    before = nibabel.load(folder / "scan.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.asarray(before.dataobj), affine), folder / "scan.nii.gz")
    context = browser.new_context(viewport=SIZE)
    with started(folder, 0) as (process, address):
        user = User(context.new_page(), address).open("scan")
        prompts, number = user.page.locator("#prompts li:not(.waits)"), user.page.locator("#slice-number")
        user.click(9, 12)
        expect(prompts).to_have_count(1)
        user.click(2, 22, button="right")
        expect(prompts).to_have_count(2)
        user.click(6, 8)
        expect(prompts).to_have_count(3)
        user.press("Control+z")
        expect(prompts).to_have_count(2)
        user.press("r")
        user.page.keyboard.type("left kid")
        user.page.get_by_role("option", name=re.compile("^left kidney")).first.wait_for()
        user.press("ArrowDown", "Enter")
        user.says("Named left kidney")
        user.press("y")
        expect(user.page.locator("#facts")).to_contain_text("crossing slices")
        user.sees(f"y:{number.input_value()}")
        process.send_signal(signal.SIGKILL)
        process.wait()
        user.click(9, 5)
        expect(user.page.locator("#saved-text")).to_have_text("Server does not answer…")
    with started(folder, int(address.rsplit(":", 1)[1])):
        expect(user.page.locator("#saved-text")).to_have_text("Saved")
        expect(prompts).to_have_count(2)  # what crossed the slice is corrected
        user.press("Control+e")
        with user.page.expect_download() as download:
            user.page.get_by_role("dialog").get_by_role("button", name=re.compile("^NIfTI")).click()
        assert download.value.suggested_filename == "scan-labels.nii.gz"
        download.value.save_as(tmp_path / "saved.nii.gz")
        user.press("Escape")
        at = int(number.input_value())
        user.page.reload()
        expect(user.page.locator(".object.selected")).to_contain_text("left kidney")
        expect(prompts).to_have_count(2)
        expect(number).to_have_value(str(at))
        user.press("z")
        expect(number).to_have_value("6")
        expect(prompts).to_have_count(2)

        saved = nibabel.load(tmp_path / "saved.nii.gz")
        labels = np.asarray(saved.dataobj)
        assert labels.shape == before.shape
        np.testing.assert_allclose(saved.affine, affine, atol=1e-5)
        with Client(address) as client:
            masks = {index: client.masks(user.image, "z", index) for index in range(12)}
            across = next(iter(client.masks(user.image, "y", at).values()))
        assert masks[6]
        for index, found in masks.items():
            expected = next(iter(found.values()), np.zeros((24, 20), np.bool_))
            np.testing.assert_array_equal(labels[:, :, index].T > 0, expected)
        np.testing.assert_array_equal(labels[:, at].T > 0, across)
        context.close()
