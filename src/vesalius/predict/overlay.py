"""Pictures for people: an image with its prompts, the outlines found and the predicted quality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vesalius.core.types import Prediction, Prompt, Slice

if TYPE_CHECKING:
    from PIL import ImageDraw

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]
Pixel = tuple[int, int]
View = tuple[int, int, int, int]

# Okabe & Ito, "Color Universal Design" (2008): told apart by colour-blind readers too; the black is left out.
PALETTE: tuple[Colour, ...] = (
    (86, 180, 233),
    (240, 228, 66),
    (204, 121, 167),
    (230, 159, 0),
    (0, 158, 115),
    (213, 94, 0),
)
POSITIVE: Colour = (0, 220, 0)
NEGATIVE: Colour = (255, 60, 60)
_PAPER: Colour = (24, 24, 27)
_INK: Colour = (235, 235, 235)
_HALO: Colour = (0, 0, 0)
_READABLE = 768
_NARROWEST = 240


def draw_overlay(
    image: Slice,
    prompts: Sequence[Prompt],
    predictions: Sequence[Prediction],
    *,
    longest: int | None = None,
    view: View | None = None,
    legend: bool = True,
) -> Picture:
    """Draws each object's prompt and outline on the image, and lists the predicted qualities below it.

    Pixels keep their true aspect ratio where the spacing is known. Boxes are dashed, rough masks dotted, clicks a
    green plus or a red minus, and the outline follows the pixels of the mask.

    Args:
        image: The slice.
        prompts: One per object, in the image's pixels; or none.
        predictions: One per object, masks of shape (H, W).
        longest: Longest side of the drawn image in pixels; if None, that of the image, but at least 768.
        view: (x0, y0, x1, y1), half-open, whole pixels: the part of the image to show; all of it if None.
        legend: Whether the predicted qualities are listed.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    import cv2
    from PIL import Image, ImageDraw

    x0, y0, x1, y1 = view or (0, 0, image.size[1], image.size[0])
    shown = (slice(y0, y1), slice(x0, x1))
    image = replace(image, pixels=image.pixels[shown])
    scale = _scale(image, longest)
    width, height = (max(1, round(length * factor)) for length, factor in zip(image.size[::-1], scale, strict=True))
    place = _Place((x0, y0), (width / image.size[1], height / image.size[0]))
    shrinks = min(place.scale) < 1
    rgb = cv2.resize(image.rgb(), (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    thick = max(2, round(max(width, height) / 400))
    for number, prompt in enumerate(prompts):
        if prompt.box is not None:
            _dashed_box(rgb, place(*prompt.box[:2]), place(*prompt.box[2:]), _colour(number), thick)
        if prompt.mask is not None:
            _outline(rgb, prompt.mask[shown], _colour(number), thick, dotted=True)
    for number, prediction in enumerate(predictions):
        _outline(rgb, prediction.mask[shown], _colour(number), thick)
    for prompt in prompts:
        _clicks(rgb, prompt, place, thick)

    picture = Image.fromarray(rgb)
    draw = ImageDraw.Draw(picture)
    text_height = max(13, round(max(width, height) / 48))
    if len(prompts) > 1:
        for number, (prompt, prediction) in enumerate(zip(prompts, predictions, strict=True)):
            _number(draw, number, prompt, prediction, place, text_height)
    return _add_legend(picture, predictions if legend else [], text_height)


def contact_sheet(pictures: Sequence[tuple[str, Picture]], columns: int = 4) -> Picture:
    """Lays titled pictures out in rows.

    Args:
        pictures: (title, (H, W, 3) uint8 RGB) pairs, row by row; at least one.
        columns: Pictures per row.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    from PIL import Image, ImageDraw

    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    cell = max(picture.shape[1] for _, picture in pictures)
    font = _font(max(14, cell // 26))
    margin = cell // 16
    title = round(1.8 * font.size)
    heights = [max(picture.shape[0] for _, picture in row) for row in rows]
    width = len(rows[0]) * (cell + margin) + margin
    sheet = Image.new("RGB", (width, sum(heights) + len(rows) * (title + margin) + margin), _PAPER)
    draw = ImageDraw.Draw(sheet)
    y = margin
    for row, height in zip(rows, heights, strict=True):
        for column, (name, picture) in enumerate(row):
            x = margin + column * (cell + margin)
            draw.text((x + cell // 2, y), _fit(name, font, cell), fill=_INK, font=font, anchor="ma")
            place = (x + (cell - picture.shape[1]) // 2, y + title + (height - picture.shape[0]) // 2)
            sheet.paste(Image.fromarray(picture), place)
        y += height + title + margin
    return np.asarray(sheet)


def _colour(number: int) -> Colour:
    return PALETTE[number % len(PALETTE)]


@dataclass(frozen=True)
class _Place:
    """Where image pixels lie in the picture: the first one shown (x, y) and drawn pixels per pixel along (x, y)."""

    first: Pixel
    scale: tuple[float, float]

    def __call__(self, x: float, y: float) -> Pixel:
        """The drawn pixel of an edge coordinate."""
        return round((x - self.first[0]) * self.scale[0]), round((y - self.first[1]) * self.scale[1])


def _scale(image: Slice, longest: int | None) -> tuple[float, float]:
    """Drawn pixels per image pixel along (x, y): true aspect ratio, the longest drawn side as asked."""
    height, width = image.size
    row, column = image.spacing or (1.0, 1.0)
    finest = min(row, column)
    natural = max(width * column, height * row) / finest
    factor = (longest or max(_READABLE, natural)) / natural
    return factor * column / finest, factor * row / finest


def _outline(rgb: Picture, mask: NDArray[np.bool_], colour: Colour, thick: int, dotted: bool = False) -> None:
    """Draws the mask's outline, halo first, into ``rgb``, whose size is that of the picture."""
    import cv2

    height, width = rgb.shape[:2]
    shrinks = height < mask.shape[0] or width < mask.shape[1]
    share = cv2.resize(
        mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST
    )
    drawn = share >= 0.5
    if not drawn.any():  # an object thinner than a drawn pixel
        drawn = share > 0
    contours, _ = cv2.findContours(drawn.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if dotted:
        for contour in contours:
            for x, y in contour[:: 6 * thick, 0]:
                cv2.circle(rgb, (int(x), int(y)), thick + 1, _HALO, cv2.FILLED, cv2.LINE_AA)
                cv2.circle(rgb, (int(x), int(y)), thick, colour, cv2.FILLED, cv2.LINE_AA)
        return
    cv2.drawContours(rgb, contours, -1, _HALO, thick + 2, cv2.LINE_AA)
    cv2.drawContours(rgb, contours, -1, colour, thick, cv2.LINE_AA)


def _dashed_box(rgb: Picture, first: Pixel, beyond: Pixel, colour: Colour, thick: int) -> None:
    """Draws a box from its ``first`` pixel to the one before ``beyond``."""
    import cv2

    last = beyond[0] - 1, beyond[1] - 1
    cv2.rectangle(rgb, first, last, _HALO, thick + 2)
    corners = np.array([first, (last[0], first[1]), last, (first[0], last[1])])
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        dashes = max(1, round(np.abs(end - start).max() / (8 * thick)))  # a dash and a gap of four widths each
        for i in range(dashes):
            a, b = (start + (end - start) * (share / dashes) for share in (i, i + 0.5))
            cv2.line(rgb, a.astype(int).tolist(), b.astype(int).tolist(), colour, thick)


def _clicks(rgb: Picture, prompt: Prompt, place: _Place, thick: int) -> None:
    """Draws a plus at each click on the object, a minus at each click on the background."""
    import cv2

    arm = 4 * thick
    for (x, y), label in zip(np.asarray(prompt.points), np.asarray(prompt.labels), strict=True):
        cx, cy = place(x + 0.5, y + 0.5)
        strokes = [((cx - arm, cy), (cx + arm, cy))]
        if label == 1:
            strokes.append(((cx, cy - arm), (cx, cy + arm)))
        for start, end in strokes:
            cv2.line(rgb, start, end, _HALO, thick + 4)
        for start, end in strokes:
            cv2.line(rgb, start, end, POSITIVE if label == 1 else NEGATIVE, thick)


def _number(
    draw: ImageDraw.ImageDraw, number: int, prompt: Prompt, prediction: Prediction, place: _Place, height: int
) -> None:
    """Writes the object's number above the upper left corner of its box or outline."""
    if prompt.box is not None:
        corner = place(*prompt.box[:2])
    elif prediction.mask.any():
        rows, columns = np.nonzero(prediction.mask)
        corner = place(float(columns.min()), float(rows.min()))
    else:
        return
    x, y = max(corner[0], height // 3), max(corner[1] - height // 3, height)
    text, colour = str(number + 1), _colour(number)
    draw.text((x, y), text, fill=colour, font=_font(height), anchor="lb", stroke_width=2, stroke_fill=_HALO)


def _add_legend(picture: Any, predictions: Sequence[Prediction], height: int) -> Picture:
    """The picture with a strip below it: per object its colour and predicted quality, wrapped to the width."""
    from PIL import Image, ImageDraw

    font = _font(height)
    gap = height // 2
    swatch = 2 * height
    width = max(picture.width, _NARROWEST, 17 * height) if predictions else picture.width
    items = []
    for number, prediction in enumerate(predictions):
        name = f"{number + 1}: " if len(predictions) > 1 else ""
        empty = "" if prediction.mask.any() else " (empty)"
        items.append((_colour(number), f"{name}predicted IoU {prediction.quality:.2f}{empty}"))
    places: list[tuple[int, int]] = []
    x, row = gap, 0
    for _, text in items:
        length = swatch + gap + math.ceil(font.getlength(text)) + 2 * gap
        if x > gap and x + length > width:
            x, row = gap, row + 1
        places.append((x, row))
        x += length
    line = round(1.6 * height)
    strip = line * (row + 1) + gap if items else 0
    out = Image.new("RGB", (width, picture.height + strip), _PAPER)
    out.paste(picture, ((width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(out)
    for (colour, text), (x, row) in zip(items, places, strict=True):
        middle = picture.height + gap // 2 + row * line + line // 2
        bar = max(2, height // 6)
        draw.rectangle((x, middle - bar, x + swatch - 1, middle + bar), fill=colour)
        draw.text((x + swatch + gap, middle), text, fill=_INK, font=font, anchor="lm")
    return np.asarray(out)


def _font(height: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(height)


def _fit(text: str, font: Any, width: int) -> str:
    """The text, shortened with an ellipsis to fit ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
