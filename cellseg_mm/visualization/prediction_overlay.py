"""The cells found in an image, drawn over it."""
import cv2
import numpy as np
from PIL import Image, ImageDraw

from cellseg_mm.io.image import write_image
from cellseg_mm.visualization.overlay import (
    class_colours,
    count_of,
    draw_instances,
    readable_scale,
    shrink,
    side_by_side,
    text_font,
)

_LONGEST_BAR = 0.25  # of the image's width


def write_overlay(path, image, cells, classes, side=4096, mpp=None):
    """Write a PNG of an image with the outlines of its cells, a scale bar and how many there are of each class.

    Of an image larger than `side`, all is drawn on an overview; 230,000 cells take 20 seconds. Small ones are enlarged.

    Args:
        path (str | Path): Where to; the suffix is '.png'.
        image (Slide): As `open_slide` gives it.
        cells (Cells): N cells on a canvas of its size.
        classes (Sequence[str]): Names of the classes.
        side (int): Pixels that the image's longer side may have in the picture.
        mpp (float | None): Micrometres per pixel, where known; else there is no scale bar.
    """
    overview = image.overview(side)
    height, width = overview.shape[:2]
    scale = readable_scale((image.height, image.width)) if height == image.height else 1
    labels, colours = cells.labels.tolist(), class_colours(len(classes))
    drawn = draw_instances(overview, shrink(cells.masks, height, width).crops(), labels, colours, scale)
    if mpp:
        drawn = draw_scale_bar(drawn, mpp * image.width / drawn.shape[1])
    counts = np.bincount(cells.labels, minlength=len(classes)).tolist()
    legend = [(f'{name}: {count:,}', colour) for name, count, colour in zip(classes, counts, colours, strict=True)]
    write_image(path, side_by_side([(f'Prediction: {count_of(len(labels), "cell")}', drawn)], legend))


def draw_scale_bar(bgr, mpp):
    """Draw a bar of 1, 2 or 5 times a power of ten micrometres into the lower left corner.

    Args:
        bgr (numpy.ndarray): uint8 (H, W, 3) BGR; left as it is.
        mpp (float): Micrometres per pixel.

    Returns:
        numpy.ndarray: uint8 (H, W, 3) BGR.
    """
    height, width = bgr.shape[:2]
    longest = _LONGEST_BAR * width * mpp
    power = 10.0**np.floor(np.log10(longest))
    length = power * max(times for times in (1, 2, 5) if times * power <= longest)
    text = f'{length / 1000:g} mm' if length >= 1000 else f'{length:g} µm'
    size = int(np.clip(width / 60, 12, 60))
    font = text_font('DejaVuSans-Bold', size)
    left, right = size, size + max(1, round(length / mpp))
    bottom, thick, edge = height - size, size // 4, max(size // 15, 1)
    page = Image.fromarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
    pen = ImageDraw.Draw(page)
    # White within black shows on any tissue.
    pen.rectangle((left - edge, bottom - thick - edge, right - 1 + edge, bottom - 1 + edge), 'black')
    pen.rectangle((left, bottom - thick, right - 1, bottom - 1), 'white')
    middle = max((left + right) / 2, font.getlength(text) / 2 + edge)
    pen.text((middle, bottom - 2 * thick), text, 'white', font, anchor='ms', stroke_width=max(size // 10, 1),
             stroke_fill='black')
    return cv2.cvtColor(np.asarray(page), cv2.COLOR_RGB2BGR)
