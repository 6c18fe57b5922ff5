from copy import deepcopy

import numpy as np
import pytest
import torch
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import MODELS, TRANSFORMS
from mmdet.structures.mask import BitmapMasks
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from scipy.ndimage import gaussian_filter
from skimage.measure import label

from cellseg_mm.datasets.transforms.loading import LoadCellAnnotations
from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.structures.local_masks import LocalMasks

HEIGHT, WIDTH = 90, 120
RESIZE = dict(type='Resize', scale=(200, 150), keep_ratio=True)


def blobs(seed=0):
    rng = np.random.default_rng(seed)
    return label(gaussian_filter(rng.normal(size=(HEIGHT, WIDTH)), 3) > 0.05)


def item(labels):
    masks = LocalMasks.from_label_map(labels)
    boxes = masks.get_bboxes().tensor.tolist()
    instances = [{'bbox': box, 'bbox_label': i % 4, 'mask': rle, 'ignore_flag': 0}
                 for i, (box, rle) in enumerate(zip(boxes, masks.to_rles(), strict=True))]
    image = np.random.default_rng(0).integers(0, 255, (*labels.shape, 3), np.uint8)
    return {'img': image, 'img_path': 'image.tif', 'img_id': 0, 'img_shape': labels.shape, 'ori_shape': labels.shape,
            'instances': [{**i, 'mask': {**i['mask'], 'counts': i['mask']['counts'].decode()}} for i in instances]}


def run(pipeline, results, load):
    init_default_scope('mmdet')
    set_random_seed(3)
    for transform in [dict(type=load, with_bbox=True, with_mask=True), *pipeline]:
        results = TRANSFORMS.build(transform)(results)
    return results


def test_masks_boxes_and_labels_are_those_that_mmdetection_loads():
    ours, stock = (load(with_mask=True)(item(blobs())) for load in (LoadCellAnnotations, LoadAnnotations))
    assert isinstance(ours['gt_masks'], LocalMasks)
    np.testing.assert_array_equal(ours['gt_masks'].to_ndarray(), stock['gt_masks'].to_ndarray())
    assert torch.equal(ours['gt_bboxes'].tensor, stock['gt_bboxes'].tensor)
    for key in ('gt_bboxes_labels', 'gt_ignore_flags'):
        np.testing.assert_array_equal(ours[key], stock[key])


def test_polygons_are_filled_as_mmdetection_fills_them():
    results = item(blobs())
    results['instances'] = [{'bbox': [1, 1, 9, 9], 'bbox_label': 0, 'ignore_flag': 0,
                             'mask': [[1, 1, 9, 1, 9, 9], [20, 20, 30, 20, 25, 28]]}]
    ours, stock = (load(with_mask=True)(deepcopy(results)) for load in (LoadCellAnnotations, LoadAnnotations))
    np.testing.assert_array_equal(ours['gt_masks'].to_ndarray(), stock['gt_masks'].to_ndarray())


def test_an_image_without_cells_has_no_masks():
    results = LoadCellAnnotations()(item(np.zeros((HEIGHT, WIDTH), int)))
    assert len(results['gt_masks']) == len(results['gt_bboxes']) == 0
    assert (results['gt_masks'].height, results['gt_masks'].width) == (HEIGHT, WIDTH)


@pytest.mark.parametrize(('mask', 'message'), [
    ({'size': [HEIGHT, WIDTH + 1], 'counts': '0'}, 'RLE 1: its size'),
    ({'size': [HEIGHT, WIDTH], 'counts': '11'}, 'RLE 1: its counts do not add up'),
    ({'size': [HEIGHT, WIDTH], 'counts': '\x7f'}, 'RLE 1: its counts cannot be decoded'),
    ([[1, 2, 3]], 'polygon 1: a polygon is not'),
])
def test_a_mask_that_cannot_be_is_named_with_its_image(mask, message):
    results = item(blobs())
    results['instances'][1]['mask'] = mask
    with pytest.raises(CellDataError, match=f'image.tif.*{message}'):
        LoadCellAnnotations()(results)


@pytest.mark.parametrize('pipeline', [
    [RESIZE],
    [dict(type='Resize', scale=(77, 200), keep_ratio=False)],
    [dict(type='RandomResize', scale=(200, 150), ratio_range=(0.3, 2), keep_ratio=True)],
    [dict(type='RandomChoiceResize', scales=[(100, 70), (300, 200)], keep_ratio=True)],
    [dict(type='FixShapeResize', width=64, height=96, keep_ratio=True)],
    *[[dict(type='RandomFlip', prob=1.0, direction=direction)] for direction in ('horizontal', 'vertical', 'diagonal')],
    [dict(type='Pad', size_divisor=32)],
    [dict(type='RandomCrop', crop_size=(40, 50), recompute_bbox=True, bbox_clip_border=True)],
    [dict(type='RandomCrop', crop_size=(0.5, 0.9), crop_type='relative_range', allow_negative_crop=True)],
    [dict(type='MinIoURandomCrop', min_ious=(0.1, 0.3))],
    [dict(type='Expand', prob=1, ratio_range=(1, 2))],
    [dict(type='TranslateX', prob=1, level=10, max_mag=0.2)],
    [dict(type='TranslateY', prob=1, level=10, max_mag=0.2)],
    [dict(type='FilterAnnotations', min_gt_bbox_wh=(6, 6), by_mask=True, min_gt_mask_area=40)],
    [dict(type='PhotoMetricDistortion'), dict(type='RandomCrop', crop_size=(60, 60)), RESIZE,
     dict(type='RandomFlip', prob=0.5), dict(type='Pad', size=(160, 200))],
], ids=lambda pipeline: '-'.join(step['type'] for step in pipeline))
def test_mmdetections_transforms_give_what_they_give_for_bitmap_masks(pipeline):
    assert_same_packed(*(run([*pipeline, dict(type='PackDetInputs')], item(blobs()), load)
                         for load in ('LoadCellAnnotations', 'LoadAnnotations')))


@pytest.mark.parametrize('transform', ['CachedMosaic', 'CachedMixUp'])
def test_mixing_images_gives_what_it_gives_for_bitmap_masks(transform):
    packed = []
    for load in ('LoadCellAnnotations', 'LoadAnnotations'):
        init_default_scope('mmdet')
        mix = TRANSFORMS.build(dict(type=transform, img_scale=(80, 80), max_cached_images=8, random_pop=False))
        set_random_seed(3)
        for seed in range(6):  # the first calls only fill the cache
            mixed = mix(TRANSFORMS.build(dict(type=load, with_mask=True))(item(blobs(seed))))
        packed.append(TRANSFORMS.build(dict(type='PackDetInputs'))(mixed))
    assert len(packed[0]['data_samples'].gt_instances) > blobs(5).max()
    assert_same_packed(*packed)


def assert_same_packed(ours, stock):
    assert torch.equal(ours['inputs'], stock['inputs'])
    ours, stock = (packed['data_samples'].gt_instances for packed in (ours, stock))
    assert isinstance(ours.masks, LocalMasks)
    assert isinstance(stock.masks, BitmapMasks)
    assert len(stock) > 0
    np.testing.assert_array_equal(ours.masks.to_ndarray(), stock.masks.to_ndarray())
    assert torch.equal(ours.bboxes.tensor, stock.bboxes.tensor)
    assert torch.equal(ours.labels, stock.labels)


@pytest.mark.parametrize('transform', [
    dict(type='Rotate', prob=1, level=8), dict(type='ShearX', prob=1, level=8), dict(type='ShearY', prob=1, level=8)])
def test_rotating_and_shearing_differ_from_bitmap_masks_in_one_pixel_a_cell_at_most(transform):
    ours, stock = (run([transform], item(blobs()), load)['gt_masks'].to_ndarray()
                   for load in ('LoadCellAnnotations', 'LoadAnnotations'))
    assert (ours != stock).sum((1, 2)).max() <= 1


@pytest.mark.parametrize('transform', [
    dict(type='RandomErasing', n_patches=2, ratio=0.3, bbox_erased_thr=1.1),
    dict(type='Albu', transforms=[], keymap={'img': 'image', 'gt_masks': 'masks'}),
])
def test_transforms_that_work_on_canvases_are_refused_by_name(transform):
    if transform['type'] == 'Albu':
        pytest.importorskip('albumentations')
    with pytest.raises(UserError, match=transform['type']):
        run([transform], item(blobs()), 'LoadCellAnnotations')


def test_copy_paste_is_refused_by_name():
    results = run([], item(blobs()), 'LoadCellAnnotations')
    results['mix_results'] = [run([], item(blobs(1)), 'LoadCellAnnotations')]
    with pytest.raises(UserError, match='CopyPaste'):
        TRANSFORMS.build(dict(type='CopyPaste'))(results)


@pytest.mark.parametrize('options', [
    dict(pad_size_divisor=64), dict(batch_augments=[dict(type='BatchFixedSizePad', size=(160, 256), pad_mask=True)])])
def test_the_data_preprocessor_pads_masks_as_it_pads_bitmap_masks(options):
    init_default_scope('mmdet')
    preprocessor = MODELS.build(dict(type='DetDataPreprocessor', pad_mask=True, **options))
    batches = []
    for load in ('LoadCellAnnotations', 'LoadAnnotations'):
        packed = [run([dict(type='PackDetInputs')], item(blobs(seed)), load) for seed in (0, 1)]
        batch = {'inputs': [p['inputs'] for p in packed], 'data_samples': [p['data_samples'] for p in packed]}
        batches.append(preprocessor(batch, training=True)['data_samples'])
    for ours, stock in zip(*batches, strict=True):
        assert ours.gt_instances.masks.height == 160 if 'batch_augments' in options else 128
        np.testing.assert_array_equal(ours.gt_instances.masks.to_ndarray(), stock.gt_instances.masks.to_ndarray())
