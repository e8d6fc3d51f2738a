"""Makes the pictures of docs/annotating.md by the page itself, with vesalius-tiny, in Chromium without a window.

``python docs/screenshots.py`` writes docs/images/annotate*.jpg. The images that are outlined come with scikit-image
(retina.jpg, ihc.png) and nibabel (example4d.nii.gz).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel
import skimage.data
from playwright.sync_api import Page, expect, sync_playwright

PICTURES = Path(skimage.data.__file__).parent
HEAD = Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"
OUT = Path(__file__).parent / "images"


def place(page: Page, x: float, y: float) -> tuple[float, float]:
    """Where the centre of a pixel is on screen."""
    across, down, left, top = map(float, (page.locator("#canvas").get_attribute("data-view") or "").split())
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    return box["x"] + left + (x + 0.5) * across, box["y"] + top + (y + 0.5) * down


def says(page: Page, text: str) -> None:
    """Waits until the page says something and all is saved."""
    expect(page.locator("#status")).to_contain_text(text)
    expect(page.locator("#saved-text")).to_have_text("Saved")


def drag(page: Page, x0: float, y0: float, x1: float, y1: float) -> None:
    """A box, and the outline that follows."""
    page.mouse.move(*place(page, x0, y0))
    page.mouse.down()
    page.mouse.move(*place(page, x1, y1), steps=4)
    page.mouse.up()
    says(page, "quality")


def click(page: Page, x: float, y: float, *, add: bool = True) -> None:
    """A click, and the outline that follows."""
    count = page.locator("#prompts li").count()
    page.mouse.click(*place(page, x, y), button="left" if add else "right")
    expect(page.locator("#prompts li:not(.waits)")).to_have_count(count + 1)
    says(page, "quality")


def name(page: Page, text: str) -> None:
    """Names the object."""
    page.keyboard.press("r")
    page.keyboard.type(text)
    page.keyboard.press("Enter")
    says(page, f"Named {text}")


def show(page: Page, which: str) -> None:
    """Goes to an image by its name."""
    page.keyboard.press("g")
    page.get_by_role("dialog").get_by_text(which).click()
    says(page, which)


def fundus(page: Page) -> None:
    """A box, and two clicks that correct."""
    show(page, "retina.jpg")
    drag(page, 565, 560, 835, 845)
    name(page, "macula")
    page.keyboard.press("n")
    drag(page, 90, 511, 310, 781)
    click(page, 180, 650)
    click(page, 340, 560, add=False)
    name(page, "optic disc")
    page.mouse.move(*place(page, 450, 900))


def volume(page: Page) -> None:
    """An object that was carried through a volume, seen from the side."""
    show(page, "head.nii.gz")
    page.locator("#slice-number").fill("12")
    page.keyboard.press("Enter")
    drag(page, 28, 1, 100, 94)
    name(page, "brain")
    page.keyboard.press("v")
    page.keyboard.press("Enter")
    says(page, "Carried through")
    page.mouse.move(*place(page, 60, 48))
    page.keyboard.press("x")
    expect(page.locator("#facts")).to_contain_text("crossing slices")


def everything(page: Page) -> None:
    """Proposals, one of which was accepted."""
    show(page, "ihc.png")
    page.keyboard.press("a")
    says(page, "proposals")
    page.locator("#least").fill("50")
    page.get_by_role("button", name="Accept Proposal 1", exact=True).click()
    says(page, "Accepted")
    page.mouse.move(*place(page, 316, 389))


def main() -> None:
    """Makes them."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        for picture in ("retina.jpg", "ihc.png"):
            shutil.copy(PICTURES / picture, folder)
        nibabel.save(nibabel.load(HEAD).slicer[..., 0], Path(folder) / "head.nii.gz")
        start = [sys.executable, "-c", "from vesalius.cli import main; main()", "annotate", folder, "--no-browser"]
        server = subprocess.Popen(start, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found
        chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        expect.set_options(timeout=60_000)
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 720})
            page.goto(found[0])
            for scene, file in ((fundus, "annotate"), (volume, "annotate-volume"), (everything, "annotate-everything")):
                scene(page)
                page.screenshot(path=OUT / f"{file}.jpg", type="jpeg", quality=80)
        finally:
            browser.close()
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
