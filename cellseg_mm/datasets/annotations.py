"""What COCO annotations state besides their masks."""
from cellseg_mm.structures.rle import measure, with_text_counts


def describe(rles):
    """The fields of COCO annotations that follow from their masks.

    Args:
        rles (list[dict]): N sound masks of one size, {'size': [H, W], 'counts': bytes}.

    Returns:
        list[dict]: N times iscrowd (0), area (float, pixels), bbox ([x, y, w, h], float, pixels) and segmentation
            ({'size', 'counts': str}).
    """
    if not rles:
        return []
    boxes, areas, _ = measure(rles, *rles[0]['size'])
    return [{'iscrowd': 0, 'area': area, 'bbox': box, 'segmentation': with_text_counts(rle)}
            for rle, area, box in zip(rles, areas.astype(float).tolist(), boxes.astype(float).tolist(), strict=True)]
