import json

import numpy as np
import pytest
from mmdet.registry import DATASETS
from mmengine.registry import init_default_scope
from pycocotools import mask as coco_mask

import cellseg_mm.register  # noqa: F401
from cellseg_mm.datasets.cell_dataset import read_cells
from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.structures.rle import encode, with_text_counts

CATEGORIES = [dict(id=1, name='a'), dict(id=2, name='b')]
IMAGES = [dict(id=1, file_name='small.tif', height=5, width=4), dict(id=2, file_name='empty.tif', height=500, width=4)]
CELLS = [dict(id=1, image_id=1, category_id=2, iscrowd=0, area=1.0, bbox=[3, 4, 1, 1],
              segmentation=dict(size=[5, 4], counts='c01'))]
DELETE = object()


@pytest.fixture
def build(tmp_path):
    init_default_scope('mmdet')

    def build(classes=('a', 'b'), filter_cfg=None, options=None, **parts):
        data = dict(dict(images=IMAGES, annotations=CELLS, categories=CATEGORIES), **parts)
        (tmp_path / 'train.json').write_text(json.dumps(data))
        return DATASETS.build(dict(type='CellDataset', data_root=str(tmp_path), ann_file='train.json', pipeline=[],
                                   metainfo=dict(classes=classes), filter_cfg=filter_cfg,
                                   **(options or {})))

    return build


def test_small_images_one_pixel_cells_and_images_without_cells_are_kept(build):
    dataset = build()
    assert len(dataset) == 2
    instance, = dataset.get_data_info(0)['instances']
    assert instance['bbox'] == [3, 4, 4, 5]
    assert instance['bbox_label'] == 1
    assert dataset.get_data_info(1)['instances'] == []


@pytest.mark.parametrize('classes', [('b', 'a'), ('a', ), ('a', 'b', 'c'), ('a', 'tumour')])
def test_classes_that_differ_from_the_annotations_are_refused(build, classes):
    with pytest.raises(CellDataError, match=r"its classes are \('a', 'b'\), those of the config are"):
        build(classes)


def test_categories_are_ordered_by_id(build):
    instance, = build(categories=CATEGORIES[::-1]).get_data_info(0)['instances']
    assert instance['bbox_label'] == 1


def build_with(build, **changes):
    """A data set of one cell of 2 x 2 pixels at (1, 1), changed; DELETE takes a field away."""
    cell = dict(CELLS[0], id=7, bbox=[1, 1, 2, 2], area=4.0, segmentation=dict(size=[5, 4], counts=[6, 2, 3, 2, 7]))
    cell = {key: value for key, value in (cell | changes).items() if value is not DELETE}
    return build(annotations=[cell])


def refused(problem):
    return pytest.raises(CellDataError, match=rf'train\.json: .*{problem}.*; run tools/prepare_data\.py again, or ')


@pytest.mark.parametrize(('changes', 'problem'), [
    (dict(segmentation=DELETE), 'it has no segmentation'),
    (dict(segmentation=None), 'it has no segmentation'),
    (dict(segmentation=[]), 'it has no segmentation'),
    (dict(segmentation=dict(counts='b01')), 'it has no segmentation'),
    (dict(segmentation=[[10**400] * 6]), 'a polygon is not a list'),
    (dict(segmentation=[[1, 1, 3, 1]]), 'a polygon is not a list'),
    (dict(segmentation=dict(size=[5, 4], counts=[6, 2])), 'its RLE counts do not add up to 5 x 4 pixels'),
    (dict(segmentation=dict(size=[5, 4], counts='b0')), 'its RLE counts do not add up to 5 x 4 pixels'),
    (dict(segmentation=dict(size=[5, 4], counts='ooo')), 'its RLE counts cannot be decoded'),
    (dict(segmentation=dict(size=[4, 5], counts='b01')), r'its RLE size is \[4, 5\], that of the image \[5, 4\]'),
    (dict(segmentation=dict(size=[5, 4], counts=[20])), 'its mask is empty'),
    (dict(segmentation=[[1.1, 1.1, 1.2, 1.1, 1.2, 1.2]]), 'its mask is empty'),
    (dict(category_id=-1), 'its category -1 is not listed'),
    (dict(category_id=3), 'its category 3 is not listed'),
    (dict(category_id=[1]), r'its category \[1\] is not listed'),
    (dict(category_id=DELETE), 'its category None is not listed'),
    (dict(bbox=[40, 1, 2, 2]), r'its box \[40, 1, 2, 2\] is not that of its mask, \[1, 1, 2, 2\]'),
    *((dict(bbox=bbox), 'is not that of its mask') for bbox in (
        [1, 1, 4, 2], [1, -0.1, 2, 2], [1, 1, -2, 2], [1, 1, 2], [1, 1, '2', 2], [1, 1, float('nan'), 2], {}, 5)),
])
def test_an_annotation_that_cannot_be_used_is_named(build, changes, problem):
    with refused(rf'annotation 7 of image small\.tif: .*{problem}'):
        build_with(build, **changes)


@pytest.mark.parametrize(('parts', 'problem'), [
    (dict(annotations=[dict(CELLS[0], image_id=9)]), 'annotation 1 is of image 9, which is not listed'),
    (dict(annotations=[dict(CELLS[0], image_id=[1])]), r'annotation 1 is of image \[1\], which is not listed'),
    (dict(annotations=CELLS * 2), '2 of its annotations have the id 1'),
    (dict(images=IMAGES[:1] * 2), '2 of its images have the id 1'),
    (dict(images=[dict(IMAGES[0], height=0)]), r'images\[0\] lacks a usable'),
    (dict(images=[dict(IMAGES[0], file_name=None)]), r'images\[0\] lacks a usable'),
    (dict(images=[dict(id=1)]), r'images\[0\] lacks a usable'),
    (dict(images=[dict(IMAGES[0], width=10**30)]), r'images\[0\] lacks a usable'),
    *((dict(images=[dict(IMAGES[0], mpp=mpp)]), r'images\[0\] has the pixel size') for mpp in ('0.5', 0, float('nan'))),
    *((dict(categories=[CATEGORIES[0], category]), r'categories\[1\] lacks a usable id or name')
      for category in ({}, dict(id=2), dict(name='b'), dict(id='2', name='b'), dict(id=[2], name='b'))),
    (dict(categories=[dict(id=1, name='a'), dict(id=1, name='b')]), '2 of its categories have the id 1'),
])
def test_annotations_and_images_that_do_not_fit_together_are_refused(build, parts, problem):
    with refused(problem):
        build(**parts)


@pytest.mark.parametrize('parts', [dict(images=[1]), dict(annotations={}), dict(categories=None)])
def test_lists_of_something_else_are_not_coco(build, parts):
    with pytest.raises(CellDataError, match='not an annotation file in COCO form'):
        build(**parts)


@pytest.mark.parametrize('text', ['{', '[' * 10**5, '\0', ''])
def test_what_is_not_json_is_refused(build, tmp_path, text):
    build()
    (tmp_path / 'train.json').write_text(text)
    with pytest.raises(CellDataError, match=r'train\.json: this is not JSON'):
        read_cells(tmp_path / 'train.json')


def test_a_byte_order_mark_is_no_matter(build, tmp_path):
    build()
    path = tmp_path / 'train.json'
    path.write_text(path.read_text(), encoding='utf-8-sig')
    assert len(read_cells(path)['annotations']) == 1


@pytest.mark.parametrize('segmentation', [
    [[1, 1, 3, 1, 3, 3, 1, 3]], dict(size=[5, 4], counts=[6, 2, 3, 2, 7]), dict(size=[5.0, 4.0], counts='62304'),
    [1, 1, 3, 1, 3, 3, 1, 3]])
def test_polygons_and_both_forms_of_rle_give_the_same_instance(build, segmentation):
    instance, = build_with(build, segmentation=segmentation).get_data_info(0)['instances']
    mask = instance.pop('mask')
    assert instance == dict(bbox=[1, 1, 3, 3], bbox_label=1, ignore_flag=0)
    np.testing.assert_array_equal(np.argwhere(coco_mask.decode(mask)), [[1, 1], [1, 2], [2, 1], [2, 2]])


@pytest.mark.parametrize('bbox', [[1, 1, 2, 2], [0.6, 1.2, 2.4, 1.9], DELETE, None])
def test_boxes_are_those_of_the_masks(build, bbox):
    instance, = build_with(build, bbox=bbox, area=DELETE).get_data_info(0)['instances']
    assert instance['bbox'] == [1, 1, 3, 3]


@pytest.mark.parametrize('field', ['iscrowd', 'ignore'])
def test_crowds_are_kept_to_be_ignored(build, field):
    instance, = build_with(build, **{field: 1}).get_data_info(0)['instances']
    assert instance['ignore_flag'] == 1


def test_images_without_cells_can_be_left_out(build):
    dataset = build(filter_cfg=dict(filter_empty_gt=True))
    assert [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))] == [1]
    assert dataset.get_cat_ids(0) == [1]


@pytest.mark.parametrize('serialized', [True, False])
def test_an_epoch_has_an_image_as_often_as_crops_cover_it(build, serialized):
    images = [dict(id=n, file_name=f'{n}.tif', width=width, height=height)
              for n, (width, height) in enumerate([(10, 5), (11, 5), (4, 3), (35, 16)])]
    expected = [0, 1, 1, 2, *[3] * 4 * 4]
    options = dict(crop_size=(10, 5), serialize_data=serialized)
    dataset = build(images=images, annotations=[], options=options)
    assert len(dataset) == len(expected)
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    assert [info['img_id'] for info in infos] == dataset.places.tolist() == expected
    assert [info['sample_idx'] for info in infos] == list(range(len(expected)))
    assert dataset.get_data_info(-1) == infos[-1]
    assert dataset[2]['img_id'] == 1
    part = build(images=images, annotations=[], options=dict(options, indices=[1, 2]))
    for subset in (dataset.get_subset([1, 2]), part):
        assert [subset.get_data_info(index)['img_id'] for index in range(len(subset))] == [1, 1, 2]
    dataset.get_subset_(2)
    assert dataset.places.tolist() == [0, 1, 1]
    assert len(build(images=images, annotations=[], filter_cfg=dict(min_size=5), options=options)) == 3 + 4 * 4
    assert build(images=images, annotations=[]).places.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize('size', [10, (0, 5), (2.5, 5)])
def test_a_crop_size_that_is_none_is_refused(build, size):
    with pytest.raises(UserError, match='CellDataset: crop_size is'):
        build(options=dict(crop_size=size))


def test_70000_instances_of_one_image_are_all_there(build):
    images = [dict(id=1, file_name='dense.tif', height=300, width=400)]
    rles = encode(np.ones(70_000, np.uint8), [[i // 300, i % 300, 1, 1] for i in range(70_000)], 300, 400)
    cells = [dict(id=i, image_id=1, category_id=1, segmentation=with_text_counts(rle)) for i, rle in enumerate(rles)]
    instances = build(images=images, annotations=cells).get_data_info(0)['instances']
    assert len(instances) == 70_000
    assert [instances[i]['bbox'][:2] for i in (0, 255, 65_536, 69_999)] == [[0, 0], [0, 255], [218, 136], [233, 99]]


def test_the_pixel_size_is_known_to_what_is_trained(build):
    assert build().metainfo['mpp'] is None
    images = [dict(image, mpp=mpp) for image, mpp in zip(IMAGES, (0.25, 0.5), strict=True)]
    assert build(images=images).metainfo['mpp'] == 0.375


def test_no_image_at_all_is_an_error(build):
    with pytest.raises(CellDataError, match='no image in it'):
        build(images=[], annotations=[])


def test_the_training_pipeline_yields_the_masks_of_the_label_maps(tiny_config, tiny_data):
    from cellseg_mm.io.image import read_image, read_label_map
    config = tiny_config.train_dataloader.dataset
    config.pipeline = [step for step in config.pipeline if step.type in ('LoadTiffImage', 'LoadCellAnnotations')]
    init_default_scope('mmdet')
    dataset = DATASETS.build(config)
    for index in range(len(dataset)):
        sample = dataset[index]
        folder = tiny_data / 'train' / sample['img_path'].split('/')[-2]
        assert np.array_equal(sample['img'], read_image(folder / 'image.tif'))
        for label, name in enumerate(config.metainfo.classes):
            masks = sample['gt_masks'].to_ndarray()[sample['gt_bboxes_labels'] == label]
            path = folder / f'{name}.tif'
            labels = read_label_map(path) if path.exists() else np.zeros(sample['ori_shape'], int)
            ids = [i for i in np.unique(labels) if i]
            assert len(masks) == len(ids)
            assert {mask.tobytes() for mask in masks} == {(labels == i).astype(np.uint8).tobytes() for i in ids}
