import json

import pytest
from mmdet.registry import DATASETS
from mmengine.registry import init_default_scope

import cellseg_mm.register  # noqa: F401
from cellseg_mm.errors import CellDataError

CATEGORIES = [dict(id=1, name='a'), dict(id=2, name='b')]
IMAGES = [dict(id=1, file_name='small.tif', height=5, width=4), dict(id=2, file_name='empty.tif', height=500, width=4)]
CELLS = [dict(id=1, image_id=1, category_id=2, iscrowd=0, area=1.0, bbox=[3, 4, 1, 1],
              segmentation=dict(size=[5, 4], counts='b01'))]


@pytest.fixture
def build(tmp_path):
    init_default_scope('mmdet')

    def build(classes=('a', 'b'), **parts):
        data = dict(dict(images=IMAGES, annotations=CELLS, categories=CATEGORIES), **parts)
        (tmp_path / 'train.json').write_text(json.dumps(data))
        return DATASETS.build(dict(type='CellDataset', data_root=str(tmp_path), ann_file='train.json', pipeline=[],
                                   metainfo=dict(classes=classes)))

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
    assert len(build(categories=CATEGORIES[::-1])) == 2


def test_the_pixel_size_is_known_to_what_is_trained(build):
    assert build().metainfo['mpp'] is None
    images = [dict(image, mpp=mpp) for image, mpp in zip(IMAGES, (0.25, 0.5), strict=True)]
    assert build(images=images).metainfo['mpp'] == 0.375


def test_no_image_at_all_is_an_error(build):
    with pytest.raises(CellDataError, match='no image in it'):
        build(images=[], annotations=[])


def test_the_training_pipeline_yields_the_masks_of_the_label_maps(tiny_config, tiny_data):
    import numpy as np

    from cellseg_mm.io.image import read_image, read_label_map
    config = tiny_config.train_dataloader.dataset
    config.pipeline = [step for step in config.pipeline if step.type in ('LoadTiffImage', 'LoadAnnotations')]
    init_default_scope('mmdet')
    dataset = DATASETS.build(config)
    for index in range(len(dataset)):
        sample = dataset[index]
        folder = tiny_data / 'train' / sample['img_path'].split('/')[-2]
        assert np.array_equal(sample['img'], read_image(folder / 'image.tif'))
        for label, name in enumerate(config.metainfo.classes):
            masks = sample['gt_masks'].masks[sample['gt_bboxes_labels'] == label]
            path = folder / f'{name}.tif'
            labels = read_label_map(path) if path.exists() else np.zeros(sample['ori_shape'], int)
            ids = [i for i in np.unique(labels) if i]
            assert len(masks) == len(ids)
            assert {mask.tobytes() for mask in masks} == {(labels == i).astype(np.uint8).tobytes() for i in ids}
