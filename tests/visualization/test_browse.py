import cv2
import numpy as np
import pytest
import torch
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.structures import InstanceData

from cellseg_mm.visualization import browse
from cellseg_mm.visualization.overlay import class_colours

SHAPE = (60, 80)


def pasted(crop):
    x, y, bitmap = crop
    canvas = np.zeros(SHAPE, np.uint8)
    canvas[y:y + bitmap.shape[0], x:x + bitmap.shape[1]] = bitmap
    return canvas


def disks(*circles):
    return np.stack([cv2.circle(np.zeros(SHAPE, np.uint8), (x, y), radius, 1, -1) for x, y, radius in circles])


def boxes_of(masks):
    points = [np.argwhere(mask.T) for mask in masks]
    return np.array([[*xy.min(axis=0), *(xy.max(axis=0) + 1)] for xy in points], float)


def drawn_colours(image):
    return set(map(tuple, image.reshape(-1, 3).tolist()))


def test_a_bitmap_is_cut_out_whole_and_small():
    masks = disks((20, 30, 5), (3, 2, 6), (79, 59, 9))
    crops = browse.instance_crops(BitmapMasks(masks, *SHAPE), boxes_of(masks))
    for crop, mask in zip(crops, masks, strict=True):
        np.testing.assert_array_equal(pasted(crop), mask)
    assert crops[0][2].size < 40 * 40


def test_a_mask_beside_its_box_is_still_shown():
    masks = disks((20, 30, 5))
    crops = browse.instance_crops(BitmapMasks(masks, *SHAPE), boxes_of(masks) + 10)
    np.testing.assert_array_equal(pasted(crops[0]), masks[0])


def test_a_polygon_of_several_parts_becomes_its_pixels():
    polygons = [[np.array([10, 10, 20, 10, 20, 20, 10, 20.]), np.array([30, 10, 35, 10, 35, 20, 30, 20.])],
                [np.array([70, 50, 90, 50, 90, 70, 70, 70.])], [np.array([100, 100, 110, 100, 110, 110.])]]
    crops = browse.instance_crops(PolygonMasks(polygons, *SHAPE), np.zeros((3, 4)))
    assert crops[0][:2] == (10, 10)
    expected = np.zeros((3, *SHAPE), np.uint8)
    expected[0, 10:20, 10:20] = expected[0, 10:20, 30:35] = 1
    expected[1, 50:, 70:] = 1
    for crop, mask in zip(crops, expected, strict=True):
        np.testing.assert_array_equal(pasted(crop), mask)


@pytest.mark.parametrize('kind', ['masks', 'boxes only', 'no cell'])
def test_the_picture_shows_what_there_is(kind):
    masks = disks((20, 30, 8), (50, 30, 8))[:0 if kind == 'no cell' else 2]
    boxes = boxes_of(masks).reshape(-1, 4)
    instances = InstanceData(labels=torch.tensor([0, 2][:len(masks)]), bboxes=torch.from_numpy(boxes))
    if kind != 'boxes only':
        instances.masks = BitmapMasks(masks, *SHAPE)
    page = browse.picture(torch.full((3, *SHAPE), 255, dtype=torch.uint8), instances, ('a', 'b', 'c'))
    above_legend = drawn_colours(page[:-90])
    colours = class_colours(3)
    assert [colour in above_legend for colour in colours] == [kind == 'masks', False, kind == 'masks']
    lightly = tuple(round(255 - 0.45 * (255 - part)) for part in colours[0])
    assert any(np.abs(np.subtract(lightly, colour)).max() <= 1 for colour in above_legend) == (kind != 'no cell')
