"""Which tiles of a slide show anything but glass."""
import cv2
import numpy as np

_SIDE = 2048  # pixels of the overview
_GLASS = 200  # 0 to 255; the background of fluorescence is dark, and nothing is left out there
_STAINED = 0.04  # optical density above that of glass
_LEAST = 9  # tiles; smaller images are looked at whole


def tissue_tiles(slide, tiling):
    """The tiles in which there may be cells.

    Seen on an overview of 2,048 pixels: of a slide ten times as large, tissue shows, and a single pale cell may not.

    Args:
        slide: As `open_slide` gives it.
        tiling (Tiling): Of it.

    Returns:
        list[int]: Ascending indices; all of them for images of few tiles, and for those that are dark at their
            brightest.
    """
    if len(tiling.tiles) < _LEAST:
        return list(range(len(tiling.tiles)))
    overview = slide.overview(_SIDE)
    tissue = tissue_mask(overview)
    scales = overview.shape[1] / slide.width, overview.shape[0] / slide.height
    shown = []
    for number, (x, y, width, height) in enumerate(tiling.tiles):
        left, right = int(x * scales[0]), int(np.ceil((x + width) * scales[0]))
        top, bottom = int(y * scales[1]), int(np.ceil((y + height) * scales[1]))
        if tissue[top:bottom, left:right].any():
            shown.append(number)
    return shown


def tissue_mask(bgr):
    """Where a bright-field image shows anything but glass.

    Args:
        bgr (ndarray): uint8 (H, W, 3).

    Returns:
        ndarray: bool (H, W), grown by two pixels; all True where the image is no bright-field one, that is where the
            brightest twentieth of its pixels is not bright in all colours.
    """
    blank = (bgr == 0).all(-1)  # what a scanner left out
    glass = np.percentile(bgr[~blank], 95, axis=0) if not blank.all() else np.zeros(3)
    if glass.min() < _GLASS:
        return np.ones(bgr.shape[:2], bool)
    smooth = cv2.GaussianBlur(bgr, (0, 0), 1).astype(np.float32)
    density = np.log10((glass.astype(np.float32) + 1) / (smooth + 1)).max(-1)
    return cv2.dilate(((density > _STAINED) & ~blank).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
