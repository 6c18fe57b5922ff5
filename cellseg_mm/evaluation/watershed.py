"""The baseline without learning: Otsu's threshold and a watershed on the haematoxylin channel."""
import numpy as np
from scipy import ndimage
from skimage.color import rgb2hed
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

SIGMA = 1.5
MIN_AREA = 80
MIN_PEAK_DISTANCE = 6


def segment_otsu_watershed(bgr):
    """Segment nuclei of an H&E image, of whatever class.

    Colour deconvolution (Ruifrok and Johnston 2001), smoothing, Otsu's threshold on haematoxylin, holes filled, specks
    dropped, then a watershed of the distance transform from its peaks, which parts nuclei that touch.

    Args:
        bgr (np.ndarray): uint8 (H, W, 3).

    Returns:
        np.ndarray: int32 (H, W) label map, 0 for background, ids from 1 on.
    """
    haematoxylin = ndimage.gaussian_filter(rgb2hed(bgr[..., ::-1])[..., 0], SIGMA)
    if np.ptp(haematoxylin) == 0:
        return np.zeros(bgr.shape[:2], np.int32)
    nuclei = ndimage.binary_fill_holes(haematoxylin > threshold_otsu(haematoxylin))
    parts = ndimage.label(ndimage.binary_opening(nuclei))[0]
    nuclei = (parts > 0) & (np.bincount(parts.ravel()) >= MIN_AREA)[parts]
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(np.pad(nuclei, 1))[1:-1, 1:-1], 1.0)
    peaks = peak_local_max(depth, min_distance=MIN_PEAK_DISTANCE, labels=parts * nuclei, exclude_border=False)
    markers = np.zeros(bgr.shape[:2], np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-depth, markers, mask=nuclei).astype(np.int32)
