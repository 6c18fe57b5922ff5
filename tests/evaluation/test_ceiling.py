import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from cellseg_mm.evaluation.ceiling import ceiling_ap50
from cellseg_mm.evaluation.coco_ap import average_precision
from cellseg_mm.evaluation.instances import pair_images


def scored(counts, cap):
    """AP50 that the evaluation gives perfect detections, which COCOeval's rule caps; cells are single pixels."""
    images, cells = [], []
    for image, row in enumerate(counts, 1):
        images.append({'id': image, 'file_name': f'{image}.png', 'height': 12, 'width': 12})
        for number, category in enumerate(np.repeat(np.arange(1, counts.shape[1] + 1), row)):
            mask = np.zeros((12, 12), np.uint8, order='F')
            mask[divmod(number, 12)] = 1
            rle = coco_mask.encode(mask)
            cells.append({'id': len(cells) + 1, 'image_id': image, 'category_id': int(category), 'score': 1.0,
                          'iscrowd': 0, 'ignore': 0, 'area': 1, 'bbox': coco_mask.toBbox(rle).tolist(),
                          'segmentation': {'size': [12, 12], 'counts': rle['counts'].decode()}})
    names = [f'class{label}' for label in range(counts.shape[1])]
    categories = [{'id': label, 'name': name} for label, name in enumerate(names, 1)]
    pairs = pair_images({'images': images, 'annotations': cells, 'categories': categories}, cells)
    return average_precision(pairs, names, cap)['AP50_dense']


@settings(max_examples=25)
@given(arrays(int, st.tuples(st.integers(1, 3), st.integers(1, 3)), elements=st.integers(0, 40)), st.integers(1, 50))
def test_it_is_what_the_evaluation_gives_perfect_detections(counts, cap):
    if counts.any():
        assert ceiling_ap50(counts, cap, per_class=True) == pytest.approx(scored(counts, cap), abs=1e-9)


def test_a_limit_of_an_image_is_shared_by_its_classes():
    # 50 of 100 detections are kept, so half of either class; recall 0 counts among the 101 levels.
    assert ceiling_ap50(np.array([[80, 20]]), 50) == pytest.approx(51 / 101)
    # The class limit keeps 50 of 80 and all of the 20.
    assert ceiling_ap50(np.array([[80, 20]]), 50, per_class=True) == pytest.approx((63 / 101 + 1) / 2)


@given(arrays(int, (5, 3), elements=st.integers(0, 900)))
def test_a_limit_that_holds_all_cells_costs_nothing(counts):
    if counts.any():
        assert ceiling_ap50(counts, int(counts.sum(1).max())) == 1
        assert ceiling_ap50(counts, int(counts.max()), per_class=True) == 1


def test_classes_without_a_cell_do_not_count():
    assert ceiling_ap50(np.array([[10, 0]]), 10) == 1
    assert math.isnan(ceiling_ap50(np.zeros((3, 2), int), 10))
