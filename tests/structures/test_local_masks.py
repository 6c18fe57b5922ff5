import pickle
import time

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mmcv import rescale_size
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask

from cellseg_mm.errors import UserError
from cellseg_mm.structures.local_masks import LocalMasks, as_local_masks

SIDE = st.integers(1, 40)


@st.composite
def scenes(draw, min_count=0):
    """Masks of all kinds: none, empty, of one pixel, disconnected, cut by the border, overlapping, whole canvases."""
    count, height, width = draw(st.integers(min_count, 5)), draw(SIDE), draw(SIDE)
    masks = np.zeros((count, height, width), np.uint8)
    for mask in masks:
        for _ in range(draw(st.integers(0, 2))):
            y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
            part = mask[y:y + draw(st.integers(1, height)), x:x + draw(st.integers(1, width))]
            if draw(st.booleans()):
                part[:] = 1
            else:
                part |= draw(arrays(np.uint8, part.shape, elements=st.integers(0, 1)))
    return masks


def pair(masks):
    return BitmapMasks(masks, *masks.shape[1:]), LocalMasks.from_bitmaps(masks)


def assert_same(local, stock):
    stock = stock.to_ndarray() if isinstance(stock, BitmapMasks) else stock
    assert (len(local), local.height, local.width) == stock.shape
    np.testing.assert_array_equal(local.to_ndarray(), stock)
    for (_, _, w, h), (_, _, bitmap), mask in zip(local.boxes, local.crops(), stock, strict=True):
        assert bitmap.shape == (h, w)
        assert (w, h) == (mask.any(0).sum() and np.ptp(np.flatnonzero(mask.any(0))) + 1,
                          mask.any(1).sum() and np.ptp(np.flatnonzero(mask.any(1))) + 1), 'the box is not tight'


@given(scenes())
def test_areas_boxes_and_canvases_are_those_of_bitmap_masks(masks):
    stock, local = pair(masks)
    assert_same(local, masks)
    np.testing.assert_array_equal(local.areas, stock.areas)
    assert torch.equal(local.get_bboxes().tensor, stock.get_bboxes('hbox').tensor)
    np.testing.assert_array_equal(list(local), list(stock))
    assert torch.equal(local.to_tensor(torch.float32, 'cpu'), stock.to_tensor(torch.float32, 'cpu'))


@given(scenes(), SIDE, SIDE)
def test_resize_is_that_of_bitmap_masks(masks, height, width):
    stock, local = pair(masks)
    assert_same(local.resize((height, width)), stock.resize((height, width)))


@given(scenes(), st.one_of(st.floats(0.1, 4), st.tuples(st.integers(8, 90), st.integers(8, 90))))
def test_rescale_is_that_of_bitmap_masks(masks, scale):
    stock, local = pair(masks)
    assume(min(rescale_size((local.width, local.height), scale)) > 0)
    assert_same(local.rescale(scale), stock.rescale(scale))


@pytest.mark.parametrize('size', [(800, 800), (799, 1333), (1333, 1000), (251, 2999)])
def test_resize_is_that_of_bitmap_masks_at_true_sizes(size):
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 2, (2, 1771, 1760), np.uint8)
    stock, local = pair(masks)
    assert_same(local.resize(size), stock.resize(size))


@given(scenes(), st.sampled_from(['horizontal', 'vertical', 'diagonal']))
def test_flip_is_that_of_bitmap_masks(masks, direction):
    stock, local = pair(masks)
    assert_same(local.flip(direction), stock.flip(direction))
    assert_same(local.flip(direction).flip(direction), masks)


@given(scenes(), st.integers(-5, 5))
def test_quarter_turns_are_numpys(masks, k):
    assert_same(pair(masks)[1].rot90(k), np.rot90(masks, k, (1, 2)))


@given(scenes(), st.integers(0, 9), st.integers(0, 9))
def test_pad_is_that_of_bitmap_masks(masks, more_rows, more_columns):
    stock, local = pair(masks)
    shape = local.height + more_rows, local.width + more_columns
    assert_same(local.pad(shape), stock.pad(shape))


@given(scenes(), st.data())
def test_crop_is_that_of_bitmap_masks(masks, data):
    stock, local = pair(masks)
    corner = [data.draw(st.integers(-5, side - 1)) for side in (local.width, local.height)]
    box = np.array([*corner, *(data.draw(st.integers(start, 50)) for start in corner)])
    assert_same(local.crop(box), stock.crop(box))


@given(scenes(), *[st.integers(0, 9)] * 4)
def test_expand_is_that_of_bitmap_masks(masks, top, left, below, right):
    stock, local = pair(masks)
    canvas = top + local.height + below, left + local.width + right
    assert_same(local.expand(*canvas, top, left), stock.expand(*canvas, top, left))


@given(scenes(), SIDE, SIDE, st.integers(-45, 45), st.integers(-45, 45))
def test_whole_pixel_translate_is_that_of_bitmap_masks(masks, height, width, dx, dy):
    stock, local = pair(masks)
    for direction, offset in (('horizontal', dx), ('vertical', dy), ('both', (dx, dy))):
        moved = local.translate((height, width), offset, direction)
        assert_same(moved, stock.translate((height, width), offset, direction))


@given(scenes(min_count=1), st.floats(-45, 45), st.sampled_from(['horizontal', 'vertical']))
def test_translate_by_parts_of_a_pixel_differs_in_one_boundary_pixel_at_most(masks, offset, direction):
    stock, local = pair(masks)
    shape = masks.shape[1:]
    assert_nearly_same(local.translate(shape, offset, direction), stock.translate(shape, offset, direction), masks)


@given(scenes(min_count=1), st.floats(-1, 1), st.sampled_from(['horizontal', 'vertical']))
def test_shear_differs_in_one_boundary_pixel_at_most(masks, magnitude, direction):
    stock, local = pair(masks)
    shape = masks.shape[1:]
    assert_nearly_same(local.shear(shape, magnitude, direction), stock.shear(shape, magnitude, direction), masks)


@given(scenes(min_count=1), st.floats(-180, 180), st.floats(0.5, 2))
def test_rotate_differs_in_one_boundary_pixel_at_most(masks, angle, scale):
    stock, local = pair(masks)
    shape = masks.shape[1:]
    turned = local.rotate(shape, angle, scale=scale)
    assert_nearly_same(turned, stock.rotate(shape, angle, scale=scale), masks)


def assert_nearly_same(local, stock, before):
    # A field of noise is nothing but boundary: what may differ grows with it.
    edges = np.abs(np.diff(np.pad(before, ((0, 0), (1, 1), (1, 1))).astype(np.int8), axis=2)).sum((1, 2))
    differing = (local.to_ndarray() != stock.to_ndarray()).sum((1, 2))
    assert (differing <= 1 + edges // 50).all()


@pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason='there is no CUDA device'))])
def test_cropped_to_proposals_they_are_as_bitmap_masks_on_every_device(device):
    rng = np.random.default_rng(0)
    stock, local = pair(rng.random((5, 40, 50)) < 0.7)
    corners = rng.uniform(-5, 40, (30, 2))
    boxes = torch.from_numpy(np.hstack([corners, corners + rng.uniform(1, 30, (30, 2))])).float().to(device)
    inds = torch.from_numpy(rng.integers(0, 5, 30)).to(device)
    for places in (boxes, inds), (boxes.cpu().numpy(), inds.cpu().numpy()):
        ours, theirs = (each.crop_and_resize(places[0], (14, 9), places[1], device) for each in (local, stock))
        shares, expected = (each.crop_and_resize(places[0], (14, 9), places[1], device, binarize=False).masks
                            for each in (local, stock))
        assert isinstance(ours, BitmapMasks)
        assert ours.masks.dtype == theirs.masks.dtype == bool
        assert theirs.masks.any()
        np.testing.assert_allclose(shares, expected, rtol=0, atol=1e-5)
        assert np.abs(expected[ours.masks != theirs.masks] - 0.5).max(initial=0) < 1e-4


@given(scenes())
def test_rles_are_those_of_pycocotools_and_come_back(masks):
    local = LocalMasks.from_bitmaps(masks)
    rles = local.to_rles()
    assert rles == [coco_mask.encode(np.asfortranarray(mask)) for mask in masks]
    back = LocalMasks.from_rles(rles, local.height, local.width)
    assert_same(back, masks)


@given(scenes(min_count=1), st.data())
def test_indexing_is_that_of_bitmap_masks(masks, data):
    stock, local = pair(masks)
    count = len(local)
    chosen = data.draw(st.lists(st.integers(-count, count - 1), max_size=7))
    flags = data.draw(arrays(bool, count))
    for index in (np.array(chosen, int), flags, slice(*data.draw(st.tuples(*[st.integers(-6, 6)] * 2))),
                  slice(None, None, 2), slice(None, None, -1), np.int64(0), -1):
        assert_same(local[index], np.atleast_3d(stock.masks[index]).reshape(-1, *masks.shape[1:]))
    assert_same(local[chosen], masks[np.array(chosen, int)])
    assert_same(local[torch.tensor(chosen, dtype=torch.long)], masks[np.array(chosen, int)])
    assert_same(local[torch.from_numpy(flags)], masks[flags])


def test_an_index_beyond_the_instances_is_refused():
    with pytest.raises(IndexError):
        LocalMasks.random(3)[3]
    with pytest.raises(IndexError):
        LocalMasks.random(3)[np.array([True, False])]


@given(scenes(min_count=1))
def test_instance_data_indexes_and_concatenates_them(masks):
    local = LocalMasks.from_bitmaps(masks)
    instances = InstanceData(masks=local, labels=torch.arange(len(local)))
    assert_same(InstanceData.cat([instances, instances]).masks, np.concatenate([masks, masks]))
    keep = torch.arange(len(local)) % 2 == 0
    assert_same(instances[keep].masks, masks[keep.numpy()])
    assert_same(instances[torch.zeros(0, dtype=torch.long)].masks, masks[:0])


@given(arrays(np.int64, st.tuples(SIDE, SIDE),
              elements=st.sampled_from([0, 0, 0, 1, 2, 3, 255, 256, 70_000, -4, 2**40, 2**63 - 1])))
def test_label_maps_become_one_mask_for_each_id_in_order(labels):
    ids = np.unique(labels[labels != 0])
    local = LocalMasks.from_label_map(labels)
    assert_same(local, (labels == ids[:, None, None]).astype(np.uint8))
    numbered = np.searchsorted(ids, labels) + 1 if len(ids) else labels
    np.testing.assert_array_equal(local.to_label_map(), np.where(labels != 0, numbered, 0))


def test_in_a_label_map_later_instances_cover_earlier_ones():
    local = LocalMasks.from_bitmaps(np.uint8([[[1, 1, 0]], [[0, 1, 1]]]))
    np.testing.assert_array_equal(local.to_label_map(), [[1, 2, 2]])


def test_concatenating_keeps_order_and_refuses_other_canvases():
    first, second = LocalMasks.random(2, 5, 6, rng=0), LocalMasks.random(3, 5, 6, rng=1)
    assert_same(LocalMasks.cat([first, second]), np.concatenate([first.to_ndarray(), second.to_ndarray()]))
    with pytest.raises(ValueError, match='several canvases'):
        LocalMasks.cat([first, LocalMasks.random(1, 6, 5)])
    with pytest.raises(ValueError, match='no masks'):
        LocalMasks.cat([])


def test_random_masks_are_those_of_bitmap_masks():
    assert_same(LocalMasks.random(4, 7, 9, rng=3), BitmapMasks.random(4, 7, 9, rng=3))


def test_repr_is_that_of_bitmap_masks():
    assert repr(LocalMasks.random(2, 7, 9)) == 'LocalMasks(num_masks=2, height=7, width=9)'


def many_cells(count=1500, side=1800, size=25):
    rng = np.random.default_rng(0)
    boxes = np.stack([*rng.integers(0, side - size, (2, count)), *rng.integers(size // 2, size, (2, count))], axis=1)
    return LocalMasks(rng.integers(0, 4, (boxes[:, 2] * boxes[:, 3]).sum()), boxes, side, side)


def test_1500_cells_are_small_and_quick_to_pickle():
    local = many_cells()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        text = pickle.dumps(local, protocol=pickle.HIGHEST_PROTOCOL)
        back = pickle.loads(text)
        seconds.append(time.perf_counter() - start)
    assert len(text) < 2e6
    assert min(seconds) < 0.005
    assert back.to_rles() == local.to_rles()


def test_more_instances_than_sixteen_bits_count():
    labels = np.arange(1, 300 * 300 + 1).reshape(300, 300)
    local = LocalMasks.from_label_map(labels)
    assert len(local) == 90_000
    np.testing.assert_array_equal(LocalMasks.from_rles(local.to_rles(), 300, 300).to_label_map(), labels)


def test_tensors_and_other_masks_are_taken_as_they_are():
    stock, local = pair(np.uint8([[[1, 1, 0], [1, 1, 0], [0, 0, 0]]]))
    for masks in (local, stock, stock.masks, torch.from_numpy(stock.masks), torch.from_numpy(stock.masks).bool(),
                  stock.masks * 200, local.to_rles(), PolygonMasks([[np.float64([0, 0, 2, 0, 2, 2, 0, 2])]], 3, 3)):
        assert_same(as_local_masks(masks, 3, 3), stock)
    for nothing in ([], torch.zeros(0, 3, 3), np.zeros((0, 3, 3)), torch.zeros(0, 28, 28)):
        assert_same(as_local_masks(nothing, 3, 3), np.zeros((0, 3, 3)))


@pytest.mark.parametrize(('box', 'message'), [
    ([2, 0, 3, 1], 'instance 0 reaches outside the canvas of 4 x 4'),
    ([-1, 0, 3, 1], 'instance 0 reaches outside'),
    ([0, 2**31 - 1, 3, 1], 'instance 0 reaches outside'),
    ([2**62, 0, 2**62, 1], 'instance 0 reaches outside'),
    (np.uint64([0, 0, 2**64 - 3, 1]), 'instance 0 reaches outside'),
    ([0, 0, 2, 1], 'there are 3 pixels for boxes of 2'),
    ([[[0]]], r'of the shape \(1, 1, 1, 1\), not int \(N, 4\)'),
    ([0.5, 0, 3, 1], 'boxes are float64'),
    ([float('nan'), 0, 3, 1], 'boxes are float64'),
])
def test_boxes_that_cannot_be_are_refused(box, message):
    with pytest.raises(ValueError, match=message):
        LocalMasks(np.ones(3), [box], 4, 4)


@pytest.mark.parametrize('call', [
    lambda m: m.pad((9, 9), pad_val=1),
    lambda m: m.pad((3, 9)),
    lambda m: m.resize((9, 9), interpolation='bilinear'),
    lambda m: m.flip('sideways'),
    lambda m: m.crop(np.float32([0, 0, 2, 2])),
    lambda m: m.expand(5, 9, 0, 0),
    lambda m: m.translate((6, 6), 1, border_value=1),
    lambda m: m.translate((6, 6), 1, direction='sideways'),
    lambda m: m.shear((6, 7), 0.5),
    lambda m: m.shear((6, 6), 0.5, direction='both'),
    lambda m: m.rotate((6, 6), 30, border_value=255),
])
def test_what_would_give_other_masks_than_asked_for_is_refused(call):
    with pytest.raises(ValueError, match=r'\w'):
        call(LocalMasks.random(2, 6, 6))


def test_reaching_for_the_array_of_canvases_says_which_transforms_do():
    with pytest.raises(UserError, match='CopyPaste'):
        LocalMasks.random(2).masks  # noqa: B018 -- a property that raises
    assert not hasattr(LocalMasks.random(2), 'masks')
