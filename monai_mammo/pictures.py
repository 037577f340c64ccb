"""Pictures to look at, a mammogram with outlines and a caption; and how pictures are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_dilation

from monai_mammo.files import replacing

Colour = tuple[int, int, int]
YELLOW: Colour = (255, 210, 0)
GREEN: Colour = (150, 220, 150)
RED: Colour = (255, 150, 120)
GREY: Colour = (150, 150, 150)


def save_picture(picture: Image.Image, file: Path) -> None:
    """Write a picture whole or not at all, in the format that the file's ending says."""
    with replacing(file) as partial:
        picture.save(partial, format=Image.registered_extensions()[file.suffix.lower()])


def outlined(pixels: np.ndarray, masks: Iterable[np.ndarray] = (), height: int = 320) -> Image.Image:
    """A mammogram with its masks outlined.

    Args:
        pixels: float (rows, columns) in [0, 1].
        masks: of the image's size, nonzero is marked. The outline runs around the marked pixels, not over them.
        height: of the picture, pixels; the ratio is kept.
    """
    size = (max(1, round(height * pixels.shape[1] / pixels.shape[0])), height)
    grey = Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8))
    picture = np.array(grey.resize(size, Image.Resampling.BOX).convert("RGB"))
    for mask in masks:
        marked = Image.fromarray(np.where(mask > 0, 255, 0).astype(np.uint8))
        small = np.asarray(marked.resize(size, Image.Resampling.BOX)) > 127
        picture[binary_dilation(small, iterations=3) & ~binary_dilation(small, iterations=2)] = YELLOW
    return Image.fromarray(picture)


def captioned(picture: Image.Image, lines: Sequence[tuple[str, Colour]], right: bool = False) -> Image.Image:
    """The picture with lines of text in its upper left or upper right corner."""
    pen, size = ImageDraw.Draw(picture), max(9, picture.height // 24)
    font = ImageFont.load_default(size=size)
    for number, (text, colour) in enumerate(lines):
        column = picture.width - pen.textlength(text, font) - 4 if right else 4
        pen.text((column, 4 + number * (size + 4)), text, colour, font, stroke_width=2, stroke_fill=(0, 0, 0))
    return picture
