import cv2
import numpy as np
import pytest
import torch
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.structures import InstanceData

from cellseg_mm.structures.local_masks import LocalMasks
from cellseg_mm.visualization import browse
from cellseg_mm.visualization.overlay import class_colours

SHAPE = (60, 80)


def disks(*circles):
    return np.stack([cv2.circle(np.zeros(SHAPE, np.uint8), (x, y), radius, 1, -1) for x, y, radius in circles])


def boxes_of(masks):
    points = [np.argwhere(mask.T) for mask in masks]
    return np.array([[*xy.min(axis=0), *(xy.max(axis=0) + 1)] for xy in points], float)


def drawn_colours(image):
    return set(map(tuple, image.reshape(-1, 3).tolist()))


def squares_as_polygons(masks):
    return PolygonMasks([[np.array([x1, y1, x2, y1, x2, y2, x1, y2])] for x1, y1, x2, y2 in boxes_of(masks)], *SHAPE)


@pytest.mark.parametrize('form', [LocalMasks.from_bitmaps, torch.from_numpy, squares_as_polygons])
def test_masks_of_any_form_are_drawn_alike(form):
    masks = np.zeros((2, *SHAPE), np.uint8)
    masks[0, 25:35, 15:25] = masks[1, 25:35, 45:55] = 1
    pages = []
    for shown in (BitmapMasks(masks, *SHAPE), form(masks)):
        instances = InstanceData(labels=torch.tensor([0, 2]), bboxes=torch.from_numpy(boxes_of(masks)), masks=shown)
        pages.append(browse.picture(torch.full((3, *SHAPE), 255, dtype=torch.uint8), instances, ('a', 'b', 'c')))
    np.testing.assert_array_equal(*pages)


def test_a_mask_beside_its_box_is_still_shown():
    masks = disks((20, 30, 5))
    instances = InstanceData(labels=torch.tensor([0]), bboxes=torch.tensor([[40, 5, 60, 20.]]),
                             masks=BitmapMasks(masks, *SHAPE))
    page = browse.picture(torch.full((3, *SHAPE), 255, dtype=torch.uint8), instances, ('a', ))
    assert class_colours(1)[0] in drawn_colours(page[:-90])


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
