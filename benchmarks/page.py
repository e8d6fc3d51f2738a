"""From a click to its outline on the screen of the annotation page, in a real browser.

Chromium without a window (``apt install chromium``, or the one that the variable ``CHROMIUM`` names), driven by
Playwright, on the page of ``vesalius annotate``, which runs in a process of its own:

    python benchmarks/page.py
    python benchmarks/page.py --model sam-vit-b-256

The images are those of ``server.py``. A user clicks once a second on an object, corrects it twice, and goes on to the
next one. A click's time is from the mouse's event, as the browser stamps it, to the picture after the one in which the
page has drawn the outline: by then that one has been handed to the screen. The first outline on a new image is timed
from the wish to see the image; the click comes as soon as it is seen.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright

from server import AIMS, Server, make_images, options
from vesalius.server.client import Client

# Looks on at the page through its own modules: the last listener is called when all has been drawn.
WATCH = """async () => {
    const { on, planesNow, state } = await import("/static/state.js");
    const masks = () => [...planesNow().values()].map((one) => one.mask).filter((mask) => mask);
    const now = (wanted) => new Promise((resolve) => { waiting = { wanted, resolve }; });
    let waiting = null;
    on("view", () => {
        if (!waiting?.wanted()) return;
        const { resolve } = waiting;
        waiting = null;
        requestAnimationFrame(() => resolve(performance.now()));
    });
    const watch = { began: 0, ended: null };
    watch.show = (image) => {
        watch.opened = performance.now();
        location.hash = image;
        return now(() => state.slice && state.image.id === image);
    };
    addEventListener("pointerup", (event) => {
        const before = new Set(masks());
        watch.began = event.timeStamp;
        watch.ended = now(() => masks().some((mask) => !before.has(mask)));
    }, true);
    window.watch = watch;
}"""
PAUSE = 1.0  # seconds between two clicks
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]


def click(page: Page, at: tuple[int, int]) -> tuple[float, float]:
    """Clicks on a pixel of the image; milliseconds from the event to the outline, and from the opening of the image."""
    across, down, left, top = map(float, (page.locator("#canvas").get_attribute("data-view") or "").split())
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + left + (at[0] + 0.5) * across, box["y"] + top + (at[1] + 0.5) * down)
    ended = float(page.evaluate("watch.ended"))
    began, opened = page.evaluate("[watch.began, watch.opened]")
    return ended - began, ended - opened


def show(page: Page, image: str) -> None:
    """Opens an image, until it is seen."""
    page.evaluate("(image) => watch.show(image)", image)


def work(page: Page, image: str, centres: list[tuple[int, int]], side: int, clicks: int) -> list[float]:
    """Milliseconds of so many clicks on an image."""
    show(page, image)
    rng = np.random.default_rng(0)
    times = []
    for number in range(clicks):
        if number % 3 == 0:
            page.keyboard.press("n")
        x, y = np.clip(np.add(centres[number // 3 % len(centres)], rng.integers(-6, 7, 2)), 0, side - 1)
        time.sleep(PAUSE)
        times.append(click(page, (int(x), int(y)))[0])
        if number % 3 == 2:
            page.keyboard.press("Shift+Delete")
    return times


def main() -> None:
    """Measures and prints a table in Markdown."""
    parser = options(__doc__)
    arguments = parser.parse_args()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        sys.exit("there is no Chromium; install it, or name one by the variable CHROMIUM")
    rows: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name, sync_playwright() as started:
        places = make_images(Path(name), 2 * arguments.first + 2, arguments.side)
        server = Server(Path(name), arguments.model, arguments.runtime)
        try:
            with Client(server.address) as client:
                about = client.request("GET", "/api/info")["model"]
                images = list(zip([one["id"] for one in client.images()], places, strict=True))
            browser = started.chromium.launch(executable_path=chromium, args=QUIET)
            page = browser.new_page(viewport={"width": 1280, "height": 720})
            page.goto(f"{server.address}#{images[1][0]}")
            page.evaluate(WATCH)
            times = work(page, *images[0], arguments.side, arguments.clicks)
            rows["one user: median"] = float(np.median(times))
            rows["one user: 95th percentile"] = float(np.percentile(times, 95))
            # From the end, and every other one, so that no neighbour has been prepared.
            firsts = []
            for image, centres in images[:1:-2]:
                time.sleep(PAUSE)
                show(page, image)
                firsts.append(click(page, centres[0])[1])
            rows["first outline on a new image"] = float(np.median(firsts))
            rows["first outline on a new image: slowest"] = max(firsts)
            browser.close()
        finally:
            server.stop()
    print(f"{about['name']}, run by {about['runs_by']}, {arguments.side} x {arguments.side}, in the browser\n")
    print("| | ms | aim |\n|---|---|---|")
    for what, value in rows.items():
        print(f"| {what} | {value:.0f} | {AIMS.get(what, '')} |")
    print(json.dumps(rows), file=sys.stderr)


if __name__ == "__main__":
    main()
