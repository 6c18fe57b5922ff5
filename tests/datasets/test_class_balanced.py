import json
from collections import Counter
from math import ceil, sqrt

import numpy as np
import pytest
from mmdet.registry import DATASETS
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed

import cellseg_mm.register  # noqa: F401
from cellseg_mm.datasets.budget_sampler import BudgetSampler
from cellseg_mm.io.image import write_image

CLASSES = ('common', 'rare', 'rarest')
# Of 10 images; the last has no cell.
PRESENT = [{0}] * 5 + [{0, 1}, {1}, {0, 1, 2}, {0}, set()]
THRESHOLD = 0.8


@pytest.fixture
def config(tmp_path):
    init_default_scope('mmdet')
    image = np.random.default_rng(0).integers(100, 200, (8, 8, 3), np.uint8)
    images = [dict(id=i, file_name=f'{i}.png', height=8, width=8) for i in range(10)]
    for record in images:
        write_image(tmp_path / record['file_name'], image)
    cells = [dict(image_id=i, category_id=c + 1, segmentation=[[1, 1, 4, 1, 4, 4]]) for i, classes in enumerate(PRESENT)
             for c in sorted(classes) for _ in range(2)]
    (tmp_path / 'train.json').write_text(json.dumps(dict(
        images=images, annotations=[dict(cell, id=i) for i, cell in enumerate(cells)],
        categories=[dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)])))
    inner = dict(type='CellDataset', data_root=str(tmp_path), ann_file='train.json', metainfo=dict(classes=CLASSES),
                 serialize_data=False,  # which collects garbage, for seconds
                 pipeline=[dict(type='LoadTiffImage'), dict(type='LoadCellAnnotations'), dict(type='StainJitter')])
    return dict(type='ClassBalancedDataset', oversample_thr=THRESHOLD, dataset=inner)


def repeats():
    """As Gupta et al., 'LVIS', CVPR 2019, but rounded up instead of at random."""
    frequencies = [np.mean([c in classes for classes in PRESENT]) for c in range(3)]
    factors = [max(1, sqrt(THRESHOLD / frequency)) for frequency in frequencies]
    return [ceil(max([factors[c] for c in classes], default=1)) for classes in PRESENT]


def test_images_are_repeated_as_their_rarest_class_asks(config):
    dataset = DATASETS.build(config)
    found = Counter(dataset.get_data_info(i)['img_id'] for i in range(len(dataset)))
    assert [found[i] for i in range(10)] == repeats() == [1] * 5 + [2, 2, 3, 1, 1]
    assert set(dataset.get_cat_ids(5)) == {0, 1}
    assert dataset.metainfo == dataset.dataset.metainfo
    assert dataset.metainfo['classes'] == CLASSES


def test_a_repeated_image_is_augmented_anew(config):
    dataset = DATASETS.build(config)
    set_random_seed(0)
    samples = [dataset[i] for i in range(len(dataset)) if dataset.get_data_info(i)['img_id'] == 7]
    assert len({sample['img'].tobytes() for sample in samples}) == 3


def test_repeated_images_go_through_our_sampler_and_mixing(config):
    mixed = DATASETS.build(dict(type='MultiImageMixDataset', dataset=config, pipeline=[
        dict(type='CellCopyPaste', margin=1), dict(type='PackDetInputs')]))
    assert sorted(BudgetSampler(mixed, iterations=1, per_epoch=1, batch_size=len(mixed), seed=0)) == list(range(14))
    assert mixed[13]['data_samples'].metainfo['img_id'] == 9
