"""Which tiles of a slide show anything but glass."""
import cv2
import numpy as np

_SIDE = 8192  # pixels of the overview, at the most
_REDUCTION = 4  # of the overview, at the least: the mean of 16 pixels has little noise
_GLASS = 200  # 0 to 255; the background of fluorescence is dark, and nothing is left out there
_UNIT = 0.002  # optical density of 1 of 255; glass is 240 or so, and a grey level 0.0018
_STAINED = round(0.04 / _UNIT)  # above all glass
_SPOT, _WIDTH = round(0.016 / _UNIT), 15  # above what is around spots of less than so many pixels
_LEAST = 9  # tiles; smaller images are looked at whole


def tissue_tiles(slide, tiling):
    """The tiles in which there may be cells.

    Seen on an overview that is 4 times smaller than the slide, or 8, 16, ... times, so as to have at most 8,192 pixels
    a side. In synthetic slides (noise, uneven light, JPEG), no tile of mere glass was taken for tissue, and of single
    nuclei a quarter darker than glass, as pale ones are in H&E, all were seen from this diameter on:

        side of the slide      JPEG once, quality 80      and each level again, quality 70
        up to 32,768 px               8 px                               8 px
        up to 65,536 px               8 px                              10 px
        up to 131,072 px             14 px                   20 px (1 in 50 was missed)

    In larger slides single nuclei may be missed, as smaller ones are in these.

    Args:
        slide: As `open_slide` gives it.
        tiling (Tiling): Of it.

    Returns:
        list[int]: Ascending indices; all of them for images of few tiles, and for those that are dark at their
            brightest.
    """
    if len(tiling.tiles) < _LEAST:
        return list(range(len(tiling.tiles)))
    longest, reduction = max(slide.height, slide.width), _REDUCTION
    while longest > reduction * _SIDE:
        reduction *= 2  # as pyramids go, of which a level may be just that
    overview = slide.overview(max(longest // reduction, 1))
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
    """Where a bright-field image shows anything but glass: what is far darker than it, and small spots that are darker.

    Light may fall off towards the edges of a camera's fields, which counts as neither.

    Args:
        bgr (ndarray): uint8 (H, W, 3), an overview.

    Returns:
        ndarray: bool (H, W), grown by two pixels; all True where the image is no bright-field one, that is where the
            brightest twentieth of its pixels is not bright in all colours.
    """
    some = bgr[::4, ::4].reshape(-1, 3)
    some = some[some.any(1)]  # a scanner leaves out areas, which are black then
    glass = np.percentile(some, 95, axis=0) if len(some) else np.zeros(3)
    if glass.min() < _GLASS:
        return np.ones(bgr.shape[:2], bool)
    density = np.zeros(bgr.shape[:2], np.uint8)
    for channel, level in enumerate(glass):
        densities = np.log10((level + 1) / np.arange(1, 257)) / _UNIT
        table = np.clip(np.rint(densities), 0, 255).astype(np.uint8)
        cv2.max(density, cv2.LUT(cv2.extractChannel(bgr, channel), table), dst=density)
    spots = cv2.morphologyEx(density, cv2.MORPH_TOPHAT, np.ones((_WIDTH, _WIDTH), np.uint8))
    tissue = cv2.max(cv2.compare(density, _STAINED, cv2.CMP_GT), cv2.compare(spots, _SPOT, cv2.CMP_GT))
    tissue[cv2.inRange(bgr, (0, 0, 0), (0, 0, 0)) > 0] = 0
    return cv2.dilate(tissue, np.ones((5, 5), np.uint8)) > 0
