"""Samples as a file stores them, and how they become uint8 BGR."""
from typing import NamedTuple

import cv2
import numpy as np

from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.io.reading import AGAIN

PERCENTILES = (0.1, 99.9)


class Raster(NamedTuple):
    """One image, or a window of it, as it is stored, before any scaling.

    Args:
        values: (H, W, C) array of the colour samples, any dtype; alpha and other extra samples are left out.
        kind: 'grey' (C = 1), 'palette' (C = 1, indices into `palette`), 'rgb' (C = 3) or 'channels' (C = 2 or 3).
        bits: Bits of each stored sample, 1 to 64.
        palette: (2 ** bits, 3) uint8 RGB, for 'palette' only.
        white_is_zero: Whether grey values run from white to black.
        lossy: Name of the compression where it may have changed values, else empty.
    """

    values: np.ndarray
    kind: str
    bits: int
    palette: np.ndarray | None = None
    white_is_zero: bool = False
    lossy: str = ''

    @property
    def is_scaled(self):
        """Whether the range of the values decides how they are shown."""
        return self.kind != 'palette' and self.values.dtype not in (bool, np.uint8)


class Span(NamedTuple):
    """The values that become 0 and 255; where they are the same, all samples are, and become 0."""

    low: float
    high: float


def check_percentiles(percentiles):
    """Raise a UserError if the percentiles do not rise within 0 to 100."""
    if not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise UserError(f'percentiles have to rise within 0 to 100, unlike {percentiles}')


def spans(raster, percentiles):
    """Between which values an image is shown.

    Args:
        raster (Raster): All of it, or a sample.
        percentiles (tuple[float, float]): Lower and upper percentile, 0 to 100, that become 0 and 255.

    Returns:
        list[Span | None]: One for each channel of fluorescence, else one for all colours, so that hues stay; None where
            no value is finite. Empty where 8 bits or fewer are shown as they are.
    """
    return [_span(_finite(values), percentiles) for values in _groups(raster)] if raster.is_scaled else []


def check_finite(path, shown):
    """Raise a CellDataError if a channel of `spans` has no finite value."""
    if None in shown:
        raise CellDataError(path, 'has no finite pixel', AGAIN)


def extremes(raster):
    """The least and greatest finite value of each group that is scaled alike, as a list of `Span` or None."""
    found = (_finite(values) for values in _groups(raster))
    return [Span(float(values.min()), float(values.max())) if values.size else None for values in found]


def to_bgr(raster, shown):
    """Show samples as MMDetection wants them.

    Args:
        raster (Raster): An image or a window of it.
        shown (list[Span]): What `spans` gave for the whole of it.

    Returns:
        np.ndarray: uint8 (H, W, 3), BGR.
    """
    if raster.kind == 'palette':
        return np.ascontiguousarray(raster.palette[raster.values[..., 0], ::-1])
    values = _upright(raster)
    if raster.kind == 'channels':
        spans_of = shown or [None] * values.shape[-1]
        channels = [_to_uint8(values[..., i], raster.bits, span) for i, span in enumerate(spans_of)]
        channels += [np.zeros_like(channels[0])] * (3 - len(channels))
        return np.stack(channels[::-1], axis=-1)
    values = _to_uint8(values, raster.bits, shown[0] if shown else None)
    if raster.kind == 'grey':
        return np.repeat(values, 3, axis=-1)
    return cv2.cvtColor(np.ascontiguousarray(values), cv2.COLOR_RGB2BGR)


def _groups(raster):
    """Arrays of the values that are scaled alike."""
    values = _upright(raster)
    return np.moveaxis(values, -1, 0) if raster.kind == 'channels' else [values]


def _upright(raster):
    """Values that run from black to white."""
    values = raster.values
    if not raster.white_is_zero:
        return values
    if values.dtype.kind == 'f':
        return -values
    # The complement within the stored bits, which is also right for signed integers.
    unused = 2 ** (8 * values.itemsize) - 2**raster.bits if values.dtype.kind == 'u' else 0
    return ~values - values.dtype.type(unused) if unused else ~values


def _finite(values):
    return values[np.isfinite(values)] if values.dtype.kind == 'f' else values


def _span(finite, percentiles):
    if finite.size == 0:
        return None
    low, high = np.percentile(finite, percentiles).tolist()
    return Span(low, high) if low < high else Span(float(finite.min()), float(finite.max()))


def _to_uint8(values, bits, span):
    if values.dtype == bool:
        return values.astype(np.uint8) * np.uint8(255)
    if span is None:
        return values if bits == 8 else np.rint(values * (255 / (2**bits - 1))).astype(np.uint8)
    low, high = span
    if not low < high:
        return np.zeros(values.shape, np.uint8)
    wide = values.astype(np.float32 if values.itemsize <= 2 else np.float64)
    # Halves, since the range of floats may be twice the largest float.
    scaled = (np.clip(wide, low, high) / 2 - low / 2) / (high / 2 - low / 2) * 255
    return np.rint(np.nan_to_num(scaled, copy=False)).astype(np.uint8)
