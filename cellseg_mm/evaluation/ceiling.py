"""What a limit of detections costs the best of all detectors."""
import numpy as np

from cellseg_mm.evaluation.coco_ap import RECALLS


def ceiling_ap50(counts, cap, per_class=False):
    """AP50 of a detector that finds every cell exactly, and nothing else, once its detections are capped.

    Its precision is 1 as far as its recall reaches, so that a class's AP is the share of COCO's 101 recall levels that
    the kept cells reach. COCOeval caps each class of an image by itself; a model caps an image's detections of all
    classes together, of which each is then as likely to be kept as any other.

    Args:
        counts (ndarray): int (I, C), cells of each class in each image.
        cap (int): The most detections kept.
        per_class (bool): Of each class in an image, as COCOeval's `maxDets`; else of all, as `max_per_img`.

    Returns:
        float: The mean over the classes that have a cell; NaN where none has.
    """
    counts = counts[:, counts.sum(0) > 0]
    if not counts.size:
        return float('nan')
    if per_class:
        kept = np.minimum(counts, cap).sum(0)
    else:
        total = counts.sum(1)
        # Multiplied before it is divided: what is kept whole must come out whole.
        kept = (counts * np.minimum(total, cap)[:, None] / np.maximum(total, 1)[:, None]).sum(0)
    return float(((kept / counts.sum(0))[:, None] >= RECALLS).mean())
