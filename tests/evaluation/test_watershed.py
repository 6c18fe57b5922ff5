import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from cellseg_mm.evaluation.watershed import segment_otsu_watershed, watershed_results

STROMA, NUCLEUS = (215, 180, 235), (120, 60, 80)  # BGR


def draw_discs(shape, *discs):
    """BGR image of dark discs (row, column, radius), and their masks."""
    image = np.full((*shape, 3), STROMA, np.uint8)
    rows, cols = np.mgrid[:shape[0], :shape[1]]
    masks = [np.hypot(rows - row, cols - col) <= radius for row, col, radius in discs]
    for mask in masks:
        image[mask] = NUCLEUS
    return image, masks


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def best_ious(labels, masks):
    return [max(iou(labels == value, mask) for value in range(1, labels.max() + 1)) for mask in masks]


def test_discs_apart_are_found_each_with_its_outline():
    image, masks = draw_discs((90, 120), (20, 20, 9), (60, 30, 12), (40, 90, 15))
    labels = segment_otsu_watershed(image)
    assert labels.dtype == np.int32
    assert labels.shape == (90, 120)
    assert sorted(np.unique(labels)) == [0, 1, 2, 3]
    assert min(best_ious(labels, masks)) > 0.85


def test_two_touching_discs_become_two_nuclei():
    image, masks = draw_discs((60, 80), (30, 28, 11), (30, 49, 11))
    labels = segment_otsu_watershed(image)
    assert labels.max() == 2
    assert min(best_ious(labels, masks)) > 0.8


def test_a_nucleus_cut_by_the_border_is_found():
    image, masks = draw_discs((60, 60), (0, 30, 14))
    assert min(best_ious(segment_otsu_watershed(image), masks)) > 0.8


def test_specks_are_dropped():
    image, _ = draw_discs((80, 80), (20, 20, 10), (60, 60, 2))
    assert segment_otsu_watershed(image).max() == 1


def test_noise_and_uneven_light_leave_the_nuclei_alone():
    image, masks = draw_discs((90, 90), (25, 25, 10), (60, 60, 13))
    noisy = image * np.linspace(0.9, 1.05, 90)[:, None] + np.random.default_rng(0).normal(0, 4, image.shape)
    labels = segment_otsu_watershed(noisy.clip(0, 255).astype(np.uint8))
    assert labels.max() == 2
    assert min(best_ious(labels, masks)) > 0.8


@pytest.mark.parametrize('shape', [(1, 1), (1, 50), (3, 3), (64, 64)])
@pytest.mark.parametrize('colour', [0, 255, STROMA])
def test_an_image_of_one_colour_holds_no_nucleus(shape, colour):
    labels = segment_otsu_watershed(np.full((*shape, 3), colour, np.uint8))
    assert labels.shape == shape
    assert not labels.any()


def test_only_colour_order_bgr_finds_blue_nuclei_in_pink():
    image, masks = draw_discs((60, 60), (30, 30, 12))
    pink_disc = image.copy()
    pink_disc[masks[0]] = (190, 120, 235)  # eosin, hardly any haematoxylin
    pink_disc[10:20, 10:25] = NUCLEUS
    labels = segment_otsu_watershed(pink_disc)
    assert labels[15, 17] > 0
    assert labels[35, 35] == 0


def test_results_are_the_nuclei_of_each_image_and_larger_ones_score_higher(tmp_path):
    small, _ = draw_discs((60, 90), (20, 20, 9), (35, 60, 14))
    empty = np.full((40, 40, 3), STROMA, np.uint8)
    for name, image in (('small', small), ('empty', empty)):
        cv2.imwrite(str(tmp_path / f'{name}.png'), image)
    truth = {'images': [{'id': 7, 'file_name': 'empty.png'}, {'id': 9, 'file_name': 'small.png'}],
             'categories': [{'id': 3, 'name': 'nucleus'}, {'id': 4, 'name': 'other'}]}
    results = watershed_results(truth, tmp_path)
    labels = segment_otsu_watershed(small)
    assert len(results) == labels.max() == 2
    for value, result in enumerate(results, 1):
        assert (result['image_id'], result['category_id']) == (9, 3)
        np.testing.assert_array_equal(coco_mask.decode(result['segmentation']), labels == value)
        assert isinstance(result['segmentation']['counts'], str)
        rows, cols = np.nonzero(labels == value)
        assert result['bbox'] == [cols.min(), rows.min(), np.ptp(cols) + 1, np.ptp(rows) + 1]
        assert result['score'] == len(rows) / (len(rows) + 200)
    assert results[0]['score'] < results[1]['score']
