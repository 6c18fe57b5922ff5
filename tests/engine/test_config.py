import pytest
from conftest import REPOSITORY, TINY_CONFIG

from cellseg_mm.engine.config import dataset_config, dataset_key, load_config, parse_options, propagate, settings_of
from cellseg_mm.engine.preflight import canvas_parts
from cellseg_mm.errors import UserError

CONFIGS = sorted((REPOSITORY / 'configs').glob('*.py'))


def num_classes(node):
    """What a part of a model says about the number of classes, at any depth."""
    if isinstance(node, dict):
        own = {value for key, value in node.items() if key in ('num_classes', 'num_things_classes')}
        return own.union(*map(num_classes, node.values()))
    return set().union(*map(num_classes, node)) if isinstance(node, (list, tuple)) else set()


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_complete_without_our_loader(path):
    """Who uses MMEngine's own Config gets the same values."""
    from mmengine.config import Config
    plain, ours = Config.fromfile(path), load_config(path)
    if 'data_root' not in path.read_text():  # a child that changes it, or the classes, relies on the loader
        assert plain.to_dict() == ours.to_dict()
    assert num_classes(plain.model) == {4}
    assert num_classes(ours.model) == {len(ours.classes)}


def test_classes_reach_every_place_that_depends_on_them():
    config = load_config(TINY_CONFIG, parse_options(['classes=nucleus,debris']))
    assert num_classes(config.model) == {2}
    for split in ('train', 'val', 'test'):
        assert config[f'{split}_dataloader'].dataset.metainfo.classes == ('nucleus', 'debris')


def test_one_class_given_as_a_word_is_one_class():
    config = load_config(TINY_CONFIG, parse_options(['classes=nucleus']))
    assert num_classes(config.model) == {1}


def test_the_data_root_reaches_data_sets_and_evaluators():
    config = load_config(TINY_CONFIG, {'data_root': 'elsewhere'})
    for split in ('train', 'val', 'test'):
        assert config[f'{split}_dataloader'].dataset.data_root == 'elsewhere'
    assert config.val_evaluator.ann_file == 'elsewhere/annotations/val.json'
    assert config.test_evaluator.ann_file == 'elsewhere/annotations/test.json'


def test_a_fold_given_to_the_data_loader_is_the_one_that_is_scored():
    config = load_config(TINY_CONFIG, {'val_dataloader.dataset.ann_file': 'annotations/fold1_val.json'})
    assert config.val_evaluator.ann_file.endswith('annotations/fold1_val.json')


def wrapping(folder, dataset):
    """A config whose training data set is this one, around that of the tiny config."""
    path = folder / 'wrapping.py'
    path.write_text(f'_base_ = {str(TINY_CONFIG)!r}\n'
                    'inner = _base_.train_dataloader.dataset\n'
                    f'train_dataloader = dict(dataset=dict(_delete_=True, {dataset}))')
    return path


MIXED = "type='MultiImageMixDataset', pipeline=[], dataset=dict(type='RepeatDataset', times=3, dataset=inner)"


def test_settings_reach_a_data_set_inside_several_wrappers(tmp_path):
    config = load_config(wrapping(tmp_path, MIXED), {'data_root': 'elsewhere', 'classes': 'nucleus'})
    found = dataset_config(config, 'train')
    assert config.train_dataloader.dataset.dataset.dataset is found
    assert dataset_key(config, 'train') == 'train_dataloader.dataset.dataset.dataset'
    assert (found.data_root, found.metainfo.classes) == ('elsewhere', ('nucleus', ))
    assert 'data_root' not in config.train_dataloader.dataset


def test_an_option_for_a_wrapped_data_set_is_led_to_it(tmp_path):
    path, inner = wrapping(tmp_path, MIXED), 'train_dataloader.dataset.dataset.dataset'
    for key in ('train_dataloader.dataset.ann_file', 'train_dataloader.ann_file'):
        with pytest.raises(UserError, match=f'{key}: there is no ann_file; did you mean {inner}.ann_file'):
            load_config(path, {key: 'other.json'})
    assert dataset_config(load_config(path, {f'{inner}.ann_file': 'other.json'}), 'train').ann_file == 'other.json'
    # What may be added to a wrapper is none of the data set's.
    assert load_config(path, {'train_dataloader.dataset.max_refetch': 3}).train_dataloader.dataset.max_refetch == 3


def test_several_data_sets_in_one_are_an_error_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r'^train_dataloader\.dataset \(ConcatDataset\) has no ann_file'):
        load_config(wrapping(tmp_path, "type='ConcatDataset', datasets=[inner, inner]"))


def test_max_dets_reaches_every_limit():
    config = load_config(TINY_CONFIG, {'max_dets': 700})
    assert config.model.test_cfg.rcnn.max_per_img == 700
    assert config.model.test_cfg.rpn.nms_pre == config.model.test_cfg.rpn.max_per_img == 1400
    assert config.val_evaluator.max_dets == 700


def propagated(**model):
    config = load_config(TINY_CONFIG)  # with 4 classes and 50 detections
    config.model = model
    propagate(config)
    return config.model


def test_limits_of_models_with_queries_are_what_these_can_find():
    model = propagated(rpn_head=dict(num_proposals=10), roi_head=dict(bbox_head=[dict(num_classes=80)] * 2),
                       test_cfg=dict(rpn=None, rcnn=dict(max_per_img=100)))
    assert [head.num_classes for head in model.roi_head.bbox_head] == [4, 4]
    assert model.test_cfg.to_dict() == dict(rpn=None, rcnn=dict(max_per_img=40))
    for queries, limit in ((10, 40), (100, 50)):
        model = propagated(
            panoptic_head=dict(num_queries=queries, num_things_classes=80, num_stuff_classes=0,
                               loss_cls=dict(class_weight=[1.0] * 80 + [0.1])),
            panoptic_fusion_head=dict(num_things_classes=80), test_cfg=dict(max_per_image=100))
        assert model.panoptic_head.num_things_classes == model.panoptic_fusion_head.num_things_classes == 4
        assert model.panoptic_head.loss_cls.class_weight == [1.0] * 4 + [0.1]
        assert model.test_cfg.max_per_image == limit


def test_what_a_run_reads_is_not_what_the_config_computed_it_with():
    config = load_config(TINY_CONFIG)
    before = settings_of(config)
    config.a_variable = 3
    assert settings_of(config) == before
    config.train_dataloader.batch_size += 1
    assert settings_of(config) != before


def test_tiles_are_limited_as_images_are_whatever_queries_find_in_one():
    def limits(queries, per_tile):
        model = propagated(rpn_head=dict(num_proposals=queries), test_cfg=dict(rpn=None, rcnn=dict(max_per_img=100)),
                           tiles=dict(size=64, overlap=16, max_per_tile=per_tile, max_per_img=100))
        return model.tiles.max_per_img, model.test_cfg.rcnn.max_per_img
    assert limits(10, 45) == (50, 40)
    assert limits(30, 45) == (50, 45)
    assert limits(30, 100) == (50, 50)


def test_weights_of_single_classes_are_left_as_they_are_set():
    def weights(classes, **loss):
        return propagated(bbox_head=dict(num_classes=classes, loss_cls=loss)).bbox_head.loss_cls.class_weight
    assert weights(4, class_weight=[1.0, 2.0, 1.0, 3.0, 0.1]) == [1.0, 2.0, 1.0, 3.0, 0.1]
    assert weights(4, class_weight=[2.0] * 4, use_sigmoid=True) == [2.0] * 4


def test_classes_and_limits_reach_models_without_proposals():
    model = propagated(bbox_head=dict(num_classes=80), mask_head=dict(num_classes=80),
                       test_cfg=dict(nms_pre=1000, max_per_img=100, score_thr=0.1))
    assert model.bbox_head.num_classes == model.mask_head.num_classes == 4
    assert model.test_cfg.to_dict() == dict(nms_pre=100, max_per_img=50, score_thr=0.1)
    assert propagated(mask_head=dict(num_classes=80)).mask_head.num_classes == 4


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_no_config_builds_canvases(path):
    assert canvas_parts(load_config(path)) == {}


def test_the_published_recipe_is_kept():
    config = load_config(REPOSITORY / 'configs/cell_maskrcnn.py')
    assert config.model.backbone.depth == 50
    assert config.model.backbone.init_cfg.checkpoint == 'torchvision://resnet50'
    assert config.model.rpn_head.loss_bbox.type == config.model.roi_head.bbox_head.loss_bbox.type == 'SmoothL1Loss'
    assert config.model.roi_head.bbox_head.loss_cls.type == config.model.roi_head.mask_head.loss_mask.type == \
        'CrossEntropyLoss'
    assert config.optim_wrapper.optimizer.to_dict() == dict(
        type='SGD', lr=0.005, momentum=0.9, weight_decay=0.0005)
    scheduler = config.param_scheduler
    assert (scheduler.type, scheduler.factor, scheduler.patience) == ('ReduceOnPlateauLR', 0.1, 3)
    assert config.train_dataloader.batch_size == 4
    assert config.train_cfg.max_epochs == 20
    assert [step.type for step in config.train_dataloader.dataset.pipeline] == [
        'LoadTiffImage', 'LoadCellAnnotations', 'Resize', 'PackDetInputs']
    assert config.train_dataloader.dataset.pipeline[2].scale == (1333, 800)


def test_the_text_of_a_config_is_made_at_once_and_reads_as_the_same_config(tmp_path, monkeypatch):
    monkeypatch.setattr('yapf.yapflib.yapf_api.FormatCode', None)
    config = load_config(TINY_CONFIG)
    config.dump(tmp_path / 'written.py')
    assert load_config(tmp_path / 'written.py').to_dict() == config.to_dict()


def test_an_unknown_config_is_named_with_those_there_are(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(UserError, match=r'nothing\.py: there is no such config; there are .*configs/cell_maskrcnn\.py'):
        load_config('nothing.py')
    with pytest.raises(UserError, match=r'there are configs/cell_maskrcnn\.py, configs/[^,]*, configs/[^,]*$'):
        load_config('configs/cell_maskrcn.py')


def test_a_config_that_is_no_python_is_an_error_in_one_line(tmp_path):
    path = tmp_path / 'broken.py'
    path.write_text('model = dict(')
    with pytest.raises(UserError, match=r'broken\.py: SyntaxError'):
        load_config(path)


def test_a_config_without_the_basic_settings_says_which_are_missing(tmp_path):
    path = tmp_path / 'empty.py'
    path.write_text('classes = ("a", )')
    with pytest.raises(UserError, match='does not set model, data_root, max_dets'):
        load_config(path)


def test_options_are_parsed_as_mmdetection_does():
    assert parse_options(['a.b=3', 'c=[1,2]', 'd=None', 'e=x,y']) == {
        'a.b': 3, 'c': [1, 2], 'd': None, 'e': ['x', 'y']}
    assert parse_options(None) == {}


@pytest.mark.parametrize(('option', 'message'), [
    ('max_dets', 'key=value'),
    ('a.b=[1,(2]', 'brackets'),
    ('a.b=[{"type":"RandomFlip"}]', r'dictionary cannot .* a\.b\.NAME=VALUE'),
    ('a.b=[dict(type="RandomFlip")]', 'dictionary cannot'),
    ('a.b={"type":"RandomFlip"}', 'dictionary cannot')])
def test_an_option_that_cannot_be_parsed_is_an_error(option, message):
    with pytest.raises(UserError, match=message):
        parse_options([option])


@pytest.mark.parametrize(('option', 'message'), [
    ('batch_size=2', 'batch_size is no setting, or is read only while the config is loaded'),
    ('train_pipeline.0.type=Other', 'train_pipeline is no setting'),
    ('model.backbon.depth=18', r'there is no backbon; did you mean model\.backbone\?'),
    ('train_cfg.max_epoch=3', r'did you mean train_cfg\.max_epochs\?'),
    ('max_dets=many', 'max_dets must be a whole number'),
    ('classes=5', 'a setting has not the form'),
])
def test_an_option_that_would_be_ignored_or_does_not_fit_is_refused(option, message):
    with pytest.raises(UserError, match=message):
        load_config(TINY_CONFIG, parse_options([option]))


@pytest.mark.parametrize('option', ['optim_wrapper.clip_grad.max_norm=5', 'model.backbone.init_cfg=None',
                                    'train_dataloader.persistent_workers=False', 'load_from=a.pth', 'data_root=2024'])
def test_an_option_may_add_what_the_config_leaves_out(option):
    load_config(TINY_CONFIG, parse_options([option]))
