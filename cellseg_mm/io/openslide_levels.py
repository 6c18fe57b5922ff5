"""Slides that only OpenSlide reads, by windows."""
import math
import re
from functools import partial

import cv2
import numpy as np
import openslide

from cellseg_mm.errors import CellDataError
from cellseg_mm.io.levels import Level
from cellseg_mm.io.pixel_size import plausible
from cellseg_mm.io.reading import AGAIN, reading

_WHITE = 'FFFFFF'


def openslide_levels(path, slide):
    """The resolutions of a slide. What was not scanned has the slide's background colour, white where it names none.

    Where a slide tells the bounds of what was scanned (MIRAX, for instance), its origin is their upper left corner and
    its size is theirs, as in QuPath; else they are the whole canvas'.

    Args:
        path (str | Path): Its file, for errors.
        slide (openslide.OpenSlide): It, opened; it has to stay open while the levels are read.

    Returns:
        list[Level]: Of uint8 (height, width, 3) BGR, from the largest down; failing reads are CellDataErrors.
    """
    color = slide.properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, _WHITE)
    background = np.array([int(digits, 16) for digits in re.findall('..', color)][::-1], np.float32)
    left, top, *size = _bounds(slide)
    sizes = slide.level_dimensions if size == [*slide.dimensions] else [
        [max(1, round(length / downsample)) for length in size] for downsample in slide.level_downsamples]
    return [Level(height, width, partial(_read, path, slide, background, level, left, top))
            for level, (width, height) in enumerate(sizes)]


def pixel_size(slide):
    """Micrometres for each pixel, or None where the slide does not tell."""
    return plausible(float(slide.properties.get(openslide.PROPERTY_NAME_MPP_X, math.nan)))


def _bounds(slide):
    """Left, top, width and height of what to show, in pixels of the largest level."""
    names = (openslide.PROPERTY_NAME_BOUNDS_X, openslide.PROPERTY_NAME_BOUNDS_Y, openslide.PROPERTY_NAME_BOUNDS_WIDTH,
             openslide.PROPERTY_NAME_BOUNDS_HEIGHT)
    properties = slide.properties
    return [int(properties[name]) for name in names] if set(names) <= set(properties) else [0, 0, *slide.dimensions]


def _read(path, slide, background, level, left, top, x, y, width, height):
    with reading(path):
        downsample = slide.level_downsamples[level]
        corner = left + round(x * downsample), top + round(y * downsample)
        try:
            rgba = np.asarray(slide.read_region(corner, level, (width, height)))
        except openslide.OpenSlideError as error:
            raise CellDataError(path, f'is damaged ({error})', AGAIN) from error
    bgr, alpha = cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGR), rgba[..., 3:]
    if alpha.min() == 255:
        return bgr
    share = alpha.astype(np.float32) / 255
    return np.rint(bgr * share + background * (1 - share)).astype(np.uint8)
