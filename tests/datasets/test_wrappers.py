import pytest

from cellseg_mm.datasets.wrappers import build_dataset, nested, pipeline_steps
from cellseg_mm.errors import UserError

IMAGES = dict(type='CellDataset', ann_file='train.json', pipeline=['load', 'crop'])
BALANCED = dict(type='ClassBalancedDataset', oversample_thr=0.1, dataset=IMAGES)
MIXED = dict(type='MultiImageMixDataset', dataset=BALANCED, pipeline=['paste', 'pack'])
KEY = 'train_dataloader.dataset'


def test_wrapped_data_sets_are_found_with_their_keys():
    assert nested(IMAGES, KEY) == [(KEY, IMAGES)]
    assert nested(MIXED, KEY) == [(KEY, MIXED), (f'{KEY}.dataset', BALANCED), (f'{KEY}.dataset.dataset', IMAGES)]


def test_transforms_come_in_order_each_with_the_pipeline_that_it_is_in():
    inner, outer = f'{KEY}.dataset.dataset.pipeline', f'{KEY}.pipeline'
    assert pipeline_steps(MIXED, KEY) == [(inner, 'load'), (inner, 'crop'), (outer, 'paste'), (outer, 'pack')]
    assert pipeline_steps(dict(IMAGES, pipeline=None)) == []


@pytest.mark.parametrize(('dataset', 'key'), [
    (dict(type='ConcatDataset', datasets=[IMAGES, IMAGES]), KEY),
    (dict(type='RepeatDataset', dataset=dict(type='ConcatDataset', datasets=[MIXED])), f'{KEY}.dataset')])
def test_several_data_sets_in_one_are_refused(dataset, key):
    with pytest.raises(UserError) as refusal:
        nested(dataset, KEY)
    assert str(refusal.value).startswith(f'{key} (ConcatDataset) has no ann_file')
    assert str(refusal.value).endswith('let one CellDataset have them all')


@pytest.mark.parametrize('cause', [dict(indices=0), dict(filter_cfg=dict(min_size=10_000))], ids=str)
def test_an_empty_data_set_is_refused_with_what_to_change(tiny_config, cause):
    dataset = dict(tiny_config.train_dataloader.dataset, **cause)
    with pytest.raises(UserError, match=r'the train data set is empty: .* lower min_size or set filter_cfg=None'):
        build_dataset(dataset, 'train')
