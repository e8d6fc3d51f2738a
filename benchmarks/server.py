"""Load test of the annotation server over HTTP: from a click to its answer, one user and eight, and memory.

Starts ``vesalius annotate`` in a process of its own and clicks by `vesalius.server.client`:

    python benchmarks/server.py                     # the table
    python benchmarks/server.py --model sam-vit-b-256
    python benchmarks/server.py --soak 10000        # and memory over so many clicks

The images are photographs of tissue and made ones of ``--side`` pixels, each seen for the first time. A user clicks on
an object, corrects it twice, and goes on to the next object; that is one click per second where there are eight users,
and without a pause where there is one. An answer is there when its three masks are read.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from vesalius.io.outlines import mask_of_runs
from vesalius.server.client import Client

# Milliseconds, as the project promises them for vesalius-tiny at 512 x 512.
AIMS = {
    "one user: median": 60,
    "one user: 95th percentile": 120,
    "eight users: 95th percentile": 250,
    "first outline on a new image": 400,
}


def make_images(folder: Path, count: int, side: int) -> list[list[tuple[int, int]]]:
    """Writes pictures with discs, and returns where these are."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    places = []
    for number in range(count):
        grey = 70 + 25 * np.sin(x / rng.uniform(20, 60)) + rng.normal(0, 8, (side, side))
        centres = []
        for _ in range(6):
            cx, cy = (int(value) for value in rng.integers(side // 8, side - side // 8, 2))
            a, b = rng.uniform(side / 25, side / 9, 2)
            grey[((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1] += rng.uniform(40, 110)
            centres.append((cx, cy))
        Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(folder / f"image{number:04}.png")
        places.append(centres)
    return places


class Server:
    """``vesalius annotate`` in a process of its own."""

    def __init__(self, folder: Path, model: str | None, runtime: str) -> None:
        start = "from vesalius.cli import main; main()"
        command = [sys.executable, "-c", start, "annotate", str(folder), "--no-browser", "--runtime", runtime]
        if model:
            command += ["--model", model]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, line
        self.address = found[0]

    def memory(self) -> float:
        """MiB."""
        return psutil.Process(self.process.pid).memory_info().rss / 2**20

    def stop(self) -> None:
        """Ends it."""
        self.process.terminate()
        self.process.wait()


def click(client: Client, image: str, at: tuple[int, int], made: str | None, size: int, add: bool = True) -> str:
    """One click; the object that it was about."""
    x, y = at
    answer = client.prompt(image, points=[(x, y)] if add else [], negative=[] if add else [(x, y)], object=made)
    for candidate in answer["view"]["planes"][0]["candidates"]:
        mask_of_runs(candidate["mask"], (size, size))
    return str(answer["object"])


def work(
    address: str, images: list[tuple[str, list[tuple[int, int]]]], side: int, clicks: int, pause: float, start: float
) -> list[float]:
    """Milliseconds of the clicks of one user, the first on each image among them."""
    times: list[float] = []
    rng = np.random.default_rng(int(start * 1000) % 2**32)
    with Client(address) as client:
        due = time.perf_counter() + start
        number = 0
        while len(times) < clicks:
            image, centres = images[number % len(images)]
            number += 1
            client.request("POST", f"/api/images/{image}/prepare", {"axis": "z", "index": 0})
            client.request("GET", f"/api/images/{image}")
            for centre in centres:
                made = None
                for turn in range(3):
                    offset = rng.integers(-6, 7, 2)
                    at = tuple(int(value) for value in np.clip(np.add(centre, offset), 0, side - 1))
                    if pause:
                        time.sleep(max(0.0, due - time.perf_counter()))
                        due = max(due + pause, time.perf_counter())
                    began = time.perf_counter()
                    made = click(client, image, (at[0], at[1]), made, side)
                    times.append(1000 * (time.perf_counter() - began))
                    if turn == 2:
                        client.act(image, "delete", object=made)
                    if len(times) >= clicks:
                        return times
    return times


def options(description: str) -> argparse.ArgumentParser:
    """What can be asked of a measurement of annotation."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--model")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--clicks", type=int, default=200, help="of one user; of eight, of all together")
    parser.add_argument("--first", type=int, default=20, help="new images whose first outline is timed")
    return parser


def main() -> None:
    """Measures and prints a table in Markdown."""
    parser = options(__doc__)
    parser.add_argument("--soak", type=int, default=0)
    arguments = parser.parse_args()
    rows: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        places = make_images(folder, 40 + arguments.first, arguments.side)
        server = Server(folder, arguments.model, arguments.runtime)
        try:
            client = Client(server.address)
            about = client.request("GET", "/api/info")["model"]
            listed = [one["id"] for one in client.images()]
            images = list(zip(listed, places, strict=True))
            # New images, from the end, so that no neighbour has been prepared: open it, see it, click.
            click(client, listed[0], places[0][0], None, arguments.side)
            firsts = []
            for image, centres in images[: -2 * (arguments.first // 2) - 1 : -2][: arguments.first]:
                began = time.perf_counter()
                client.pixels(image)
                click(client, image, centres[0], None, arguments.side)
                firsts.append(1000 * (time.perf_counter() - began))
            rows["first outline on a new image"] = float(np.median(firsts))
            rows["first outline on a new image: slowest"] = max(firsts)
            alone = work(server.address, images[:8], arguments.side, arguments.clicks, 0, 0)
            rows["one user: median"] = float(np.median(alone))
            rows["one user: 95th percentile"] = float(np.percentile(alone, 95))
            times: list[float] = []

            def user(place: int) -> None:
                own = images[8 + place :: 8][:3]
                times.extend(work(server.address, own, arguments.side, arguments.clicks // 8, 1.0, place / 8))

            users = [threading.Thread(target=user, args=(place,)) for place in range(8)]
            for one in users:
                one.start()
            for one in users:
                one.join()
            rows["eight users: median"] = float(np.median(times))
            rows["eight users: 95th percentile"] = float(np.percentile(times, 95))
            memory = [(0, server.memory())]
            for done in range(0, arguments.soak, max(1, arguments.soak // 10)):
                step = min(max(1, arguments.soak // 10), arguments.soak - done)
                work(server.address, images[:32], arguments.side, step, 0, 0)
                memory.append((done + step, server.memory()))
            client.close()
        finally:
            server.stop()
    print(f"{about['name']}, run by {about['runs_by']}, {arguments.side} x {arguments.side}\n")
    print("| | ms | aim |\n|---|---|---|")
    for what, value in rows.items():
        print(f"| {what} | {value:.0f} | {AIMS.get(what, '')} |")
    if arguments.soak:
        print("\n| clicks | MiB |\n|---|---|")
        for clicks, held in memory:
            print(f"| {clicks} | {held:.0f} |")
    print(json.dumps(rows), file=sys.stderr)


if __name__ == "__main__":
    main()
