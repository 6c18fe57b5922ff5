import json
import os
from copy import deepcopy
from functools import cache
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, TINY_CONFIG

from cellseg_mm.engine.budget import apply_budget
from cellseg_mm.engine.config import load_config
from cellseg_mm.engine.config_check import CHECKS, check_config, check_pretrained, warnings_of
from cellseg_mm.engine.config_checks.finding import Finding
from cellseg_mm.engine.config_checks.memory import input_size, step_bytes
from cellseg_mm.engine.config_checks.monitors import metric_names
from cellseg_mm.engine.config_checks.subject import Subject
from cellseg_mm.engine.preflight import check_data
from cellseg_mm.errors import UserError

NAMES = {path.stem for path in (REPOSITORY / 'configs').glob('*.py')}
MASKRCNN, CASCADE = 'cell_maskrcnn_lite', 'cell_cascade_lite'
STEPS = 'dataset.pipeline'
Stopping = dict(type='EarlyStoppingHook', monitor='cells/AP50_dense', rule='greater', min_delta=0.001, patience=2)
Plateau = dict(type='ReduceOnPlateauLR', monitor='cells/AP50_dense', rule='greater', patience=3, end=100_000)


@cache
def loaded(name):
    return load_config(TINY_CONFIG if name == 'tiny' else REPOSITORY / f'configs/{name}.py')


@cache
def subject_of(name):
    return Subject(loaded(name))


def config_of(name):
    return deepcopy(loaded(name))


def lines(config, data=False):
    """Errors and warnings, as they are printed."""
    findings = check_config(config, None if data else {})
    return [f'{finding.level}: {finding}' for finding in findings if finding.level != 'note']


def change(config, key, value):
    """Set a dotted key, whose parts may be numbers, or take it away where the value is None."""
    node, *parts = config, *key.split('.')
    for part in parts[:-1]:
        node = node[int(part)] if isinstance(node, (list, tuple)) else node[part]
    if value is None:
        del node[parts[-1]]
    elif isinstance(node, list):
        node[int(parts[-1])] = value
    else:
        node[parts[-1]] = value


# Those with a light twin differ from it in widths alone.
@pytest.mark.parametrize('name', sorted(name for name in NAMES if f'{name}_lite' not in NAMES))
def test_no_config_has_an_error_and_no_check_fails(name):
    findings = [finding for check in CHECKS for finding in check.check(subject_of(name))]
    assert [str(finding) for finding in findings if finding.level == 'error'] == []


@pytest.mark.parametrize('name', ['tiny', CASCADE])
def test_a_good_config_has_nothing_to_mend_and_is_left_as_it_is(name):
    config = config_of(name)
    before = deepcopy(config.to_dict())
    assert lines(config) == []
    assert config.to_dict() == before


HEAD, TRAIN, TEST = 'model.roi_head', 'model.train_cfg', 'model.test_cfg'
BROKEN = dict(classes=[
    (MASKRCNN, f'{HEAD}.bbox_head.num_classes', 80,
     f'error: {HEAD}.bbox_head.num_classes is 80, the classes are 4: set num_classes=len(_base_.classes)'),
    (CASCADE, f'{HEAD}.bbox_head.1.num_classes', 80, f'error: {HEAD}.bbox_head[1].num_classes is 80, the classes'),
    (MASKRCNN, f'{HEAD}.mask_head.num_classes', None, f'error: {HEAD}.mask_head.num_classes is 80 where nothing is'),
    (CASCADE, f'{HEAD}.bbox_head.2.num_classes', None, f'error: {HEAD}.bbox_head[2].num_classes is 80 where nothing'),
    (MASKRCNN, f'{HEAD}.bbox_head.loss_cls.class_weight', [1.0] * 4,
     f'error: {HEAD}.bbox_head.loss_cls.class_weight has 4 numbers, and 5 are needed for 4 classes and the background'),
    (MASKRCNN, 'train_dataloader.dataset.metainfo', dict(classes=('cell', )),
     "error: train_dataloader.dataset.metainfo.classes is ('cell',), the classes are"),
    ('cell_mask2former_lite', 'model.panoptic_head.num_stuff_classes', 53,
     'error: model.panoptic_head.num_stuff_classes is 53, and cells are things: set num_stuff_classes=0'),
    ('cell_mask2former_lite', 'model.panoptic_fusion_head.num_things_classes', 80,
     'error: model.panoptic_fusion_head.num_things_classes is 80, the classes are 4'),
], stages=[
    (CASCADE, f'{HEAD}.num_stages', 2, f'error: {HEAD}.bbox_head has 3 entries, and there are 2 stages'),
    (CASCADE, f'{HEAD}.stage_loss_weights', [1, 0.5], f'error: {HEAD}.stage_loss_weights has 2 entries'),
    (CASCADE, f'{TRAIN}.rcnn', [dict(assigner=dict(), sampler=dict(), mask_size=28, pos_weight=-1)] * 2,
     f'error: {TRAIN}.rcnn has 2 entries, and there are 3 stages'),
    (CASCADE, f'{TRAIN}.rcnn.1.sampler', None, f'error: {TRAIN}.rcnn[1] lacks sampler: derive the list'),
    (CASCADE, f'{TRAIN}.rcnn.1.mask_size', None, f'error: {TRAIN}.rcnn[1] lacks mask_size'),
    (CASCADE, f'{HEAD}.bbox_head.1.type', None, f'error: {HEAD}.bbox_head[1] lacks type: derive the list'),
    (CASCADE, f'{HEAD}.bbox_head.1.bbox_coder.target_stds', None,
     f'warning: {HEAD}.bbox_head[1].bbox_coder.target_stds is (1, 1, 1, 1), as where nothing is set'),
    (CASCADE, f'{HEAD}.bbox_head.1.bbox_coder', None,
     f'warning: {HEAD}.bbox_head[1].bbox_coder.target_stds is (0.1, 0.1, 0.2, 0.2) after (0.1, 0.1, 0.2, 0.2)'),
    (CASCADE, f'{TRAIN}.rcnn.2.assigner.pos_iou_thr', 0.5,
     f'warning: {TRAIN}.rcnn[2].assigner.pos_iou_thr is 0.5 after 0.6'),
], limits=[
    (MASKRCNN, f'{TEST}.rcnn.max_per_img', 100, f'warning: {TEST}.rcnn.max_per_img is 100, and max_dets is 1,000'),
    (MASKRCNN, f'{TEST}.rpn.nms_pre', 500, f'warning: {TEST}.rpn.nms_pre is 500, and max_dets is 1,000'),
    (MASKRCNN, f'{TRAIN}.rpn_proposal.max_per_img', 300, f'warning: {TRAIN}.rpn_proposal.max_per_img is 300: fewer'),
    (MASKRCNN, 'val_evaluator.max_dets', 300, 'warning: val_evaluator.max_dets is 300, and max_dets is 1,000'),
    ('cell_yolact_lite', f'{TEST}.top_k', 200, f'warning: {TEST}.top_k is 200, and max_dets is 1,000'),
    ('cell_mask2former_lite', f'{TEST}.max_per_image', None,
     f'warning: {TEST}.max_per_image is 100, and model.tiles.max_per_tile is 300'),
    ('cell_queryinst', 'model.rpn_head.num_proposals', 100,
     'warning: model.rpn_head.num_proposals is 100: no more cells of an image can be found'),
], monitors=[
    ('cell_maskrcnn', 'param_scheduler.monitor', 'coco/segm_mAP_50',
     'error: param_scheduler.monitor is coco/segm_mAP_50, which validation does not return: set it to'),
    ('cell_maskrcnn', 'param_scheduler.monitor', 'cells/AP50dense', 'set it to cells/AP50_dense'),
    ('cell_maskrcnn', 'param_scheduler.monitor', None, 'error: param_scheduler.monitor is loss, which validation does'),
    ('cell_maskrcnn', 'param_scheduler.rule', None,
     'warning: param_scheduler.rule is less, and the greater cells/AP50_dense is, the better'),
    ('cell_maskrcnn', 'param_scheduler.end', None, 'warning: param_scheduler.end is not set: it becomes max_epochs'),
    ('cell_maskrcnn', 'param_scheduler.end', 10, 'warning: param_scheduler.end is 10 of 20 epochs'),
    ('cell_maskrcnn', 'train_cfg.val_interval', 5,
     'warning: param_scheduler.patience is 3 validations, and there are 4 in 20 epochs: it never runs out: set '),
    (MASKRCNN, 'default_hooks.checkpoint.save_best', 'segm_mAP',
     'error: default_hooks.checkpoint.save_best is segm_mAP, which validation does not return'),
    (MASKRCNN, 'default_hooks.checkpoint.save_best', 'cells/ECE',
     'warning: default_hooks.checkpoint.rule is greater, and the less cells/ECE is, the better'),
    (MASKRCNN, 'custom_hooks', [{**Stopping, 'monitor': 'AP'}], 'error: custom_hooks[0].monitor is AP, which'),
    (MASKRCNN, 'custom_hooks', [{key: value for key, value in Stopping.items() if key != 'min_delta'}],
     'warning: custom_hooks[0].min_delta is 0.1 where nothing is set: an epoch counts as better only if it gains 10'),
    (MASKRCNN, 'custom_hooks', [{**Stopping, 'patience': 50}],
     'warning: custom_hooks[0].patience is 50 validations, and there are 6 in 12 epochs: it never runs out: set '),
    (MASKRCNN, 'custom_hooks', [{**Stopping, 'rule': None}], 'error: custom_hooks[0] cannot be built, .*set rule='),
], schedule=[
    (MASKRCNN, 'param_scheduler', dict(type='MultiStepLR', milestones=[8, 24], by_epoch=True),
     'warning: param_scheduler.milestones has 24, and the training ends after 12 epochs: never reached'),
    (MASKRCNN, 'param_scheduler', [dict(type='CosineAnnealingLR', T_max=10)], 'param_scheduler[0].T_max is 10 of 12'),
    (MASKRCNN, 'param_scheduler', [dict(type='CosineAnnealingLR', begin=30)], 'param_scheduler[0].begin is 30'),
    ('cell_maskrcnn', 'optim_wrapper.optimizer.lr', 0.02,
     'warning: optim_wrapper.optimizer.lr is 0.02 for batches of 4, and MMDetection'),
    (MASKRCNN, 'optim_wrapper.optimizer.lr', 0.02, 'warning: optim_wrapper.optimizer.lr is 0.02, much for AdamW'),
    ('cell_queryinst_lite', 'optim_wrapper.clip_grad', None, 'warning: optim_wrapper.clip_grad is not set'),
], pipelines=[
    (MASKRCNN, f'train_dataloader.{STEPS}.1', dict(type='Resize', scale_factor=1.0),
     f'error: train_dataloader.{STEPS} loads no cells, which the model learns from'),
    (MASKRCNN, f'train_dataloader.{STEPS}.1.with_mask', False, f'error: train_dataloader.{STEPS} loads no masks'),
    (MASKRCNN, f'val_dataloader.{STEPS}.1', dict(type='Resize', scale_factor=1.0),
     f'warning: val_dataloader.{STEPS} loads no cells: there will be no validation loss'),
    (MASKRCNN, f'test_dataloader.{STEPS}.1', dict(type='RandomFlip', prob=0.0),
     f'error: test_dataloader.{STEPS} has no Resize'),
    (MASKRCNN, f'test_dataloader.{STEPS}.2.meta_keys', ('img_id', 'ori_shape', 'img_shape'),
     f'error: test_dataloader.{STEPS} (PackDetInputs).meta_keys lacks scale_factor'),
    (MASKRCNN, f'train_dataloader.{STEPS}.4', dict(type='RandomErasing', n_patches=1, ratio=0.1),
     f'error: train_dataloader.{STEPS} has RandomErasing, which needs a canvas for each cell: leave it out'),
    (MASKRCNN, 'model.data_preprocessor.pad_mask', False, 'warning: model.data_preprocessor.pad_mask is not set'),
    (MASKRCNN, f'{HEAD}.mask_head.type', 'FCNMaskHead',
     f"warning: {HEAD}.mask_head.type is FCNMaskHead, which takes memory .*: set type='CellMaskHead'"),
], pretrained=[
    (MASKRCNN, 'model.data_preprocessor.mean', [123.675, 116.28, 103.53],
     'warning: model.data_preprocessor differs from what the backbone was pretrained on, data_preprocessor.mean is'),
    ('cell_maskrcnn', 'model.data_preprocessor.bgr_to_rgb', False, 'pretrained with [123.675, 116.28, 103.53]'),
    ('cell_maskrcnn', 'model.backbone.init_cfg.checkpoint', 'nowhere.pth',
     'error: model.backbone.init_cfg names nowhere.pth, and there is no such file'),
], parts=[
    (MASKRCNN, f'{HEAD}.mask_head.type', 'CellMaskHed',
     f'error: {HEAD}.mask_head.type is CellMaskHed, and no registry has it: did you mean CellMaskHead?'),
    (MASKRCNN, f'train_dataloader.{STEPS}.0.type', 'LoadTifImage',
     f'error: train_dataloader.{STEPS}[0].type is LoadTifImage, and no registry has it: did you mean LoadTiffImage?'),
    (MASKRCNN, 'model.neck.in_channels', [256, 512, 1024, 2048],
     r'error: model.neck.in_channels is [256, 512, 1024, 2048], and the backbone gives maps of [24, 40, 112, 320]'),
    (MASKRCNN, f'{HEAD}.mask_head.nonsense', 1, 'error: model cannot be built, '),
])


def of_check(check, subject):
    module = import_module(f'cellseg_mm.engine.config_checks.{check}')
    return [f'{finding.level}: {finding}' for finding in module.check(subject) if finding.level != 'note']


@pytest.mark.parametrize(('check', 'name', 'key', 'value', 'expected'), [
    pytest.param(check, *case, id=f'{check}-{case[1]}') for check, cases in BROKEN.items() for case in cases])
def test_what_breaks_a_config_is_found_and_nothing_else(check, name, key, value, expected):
    config = config_of(name)
    change(config, key, value)
    good = of_check(check, subject_of(name))
    found = [line for line in of_check(check, Subject(config)) if line not in good]
    start, _, end = expected.partition('.*')
    assert any(start in line and end in line for line in found), found
    # A number of stages is held against each list.
    assert len(found) == 1 or 'stages' in expected, found


def test_plateaus_and_early_stops_that_fit_are_left_alone():
    config = config_of(MASKRCNN)
    config.param_scheduler, config.custom_hooks = Plateau, [Stopping]
    assert of_check('monitors', Subject(config)) == []


def test_short_trials_are_asked_for_no_patience():
    config = config_of('cell_maskrcnn')
    config.train_cfg.max_epochs = 3
    assert of_check('monitors', Subject(config)) == []


def test_what_queries_cannot_find_is_told_once_for_one_class_too():
    from cellseg_mm.engine.config_checks.limits import check
    config = load_config(REPOSITORY / 'configs/cell_queryinst.py', {'classes': 'nucleus'})
    assert [finding.place for finding in check(Subject(config))] == ['model.rpn_head.num_proposals']


def test_words_that_parts_read_themselves_are_no_types():
    config = config_of('tiny')
    config.model.neck.adapt_cfg = dict(type='dilation')
    from cellseg_mm.engine.config_checks.parts import _unknown
    assert list(_unknown(config)) == []
    config.model.neck.adapt_cfg = dict(type='Dilation')
    assert [finding.place for finding in _unknown(config)] == ['model.neck.adapt_cfg.type']


def test_a_resize_in_a_wrapper_counts():
    config = config_of('tiny')
    config.test_dataloader.dataset.pipeline = [dict(type='LoadTiffImage'), dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale_factor=1.0, keep_ratio=True)], [dict(type='PackDetInputs')]])]
    assert of_check('pipelines', Subject(config)) == []


def test_the_reason_stands_before_the_model_that_cannot_be_built():
    config = config_of(CASCADE)
    config.model.train_cfg.rcnn = [dict(assigner=dict(pos_iou_thr=0.6))]
    first, *_, last = (finding for finding in check_config(config, {}) if finding.level == 'error')
    assert first.place == 'model.train_cfg.rcnn'
    assert str(last).startswith('model cannot be built, `cfg` or `default_args` must contain the key "type"')


def test_heads_with_queries_correct_boxes_alike_at_each_stage():
    assert of_check('stages', subject_of('cell_queryinst_lite')) == []


def test_names_of_metrics_are_what_a_validation_returns(tiny_config):
    tiny_config.classes = ('nucleus', 'debris')
    names = metric_names(tiny_config)
    assert {'cells/AP50_dense', 'cells/AP50_cap100/nucleus', 'cells/mPQ', 'cells/ECE'} <= names
    assert not {'cells/AP50_dense/class1', 'AP50_dense', 'cells/box_AP50_dense/nucleus'} & names
    tiny_config.val_evaluator = [dict(type='CocoMetric')]
    assert metric_names(tiny_config) is None


@pytest.mark.parametrize(('text', 'found'), [
    ('train_pipeline = []', ['train_pipeline']), ('crop = 128', ['crop']), ('data_root = "elsewhere"', []),
    ('crop = 128\ntrain_dataloader = dict(batch_size=crop // 64)', []), ('mine = 3', [])])
def test_variables_of_a_base_that_are_set_to_no_effect_are_named(tmp_path, text, found):
    path = tmp_path / 'mine.py'
    path.write_text(f'_base_ = {os.path.relpath(REPOSITORY / "configs/cell_maskrcnn_lite.py", tmp_path)!r}\n{text}\n')
    warned = of_check('variables', Subject(load_config(path)))
    assert [line.split()[1] for line in warned] == found
    assert all('read nowhere' in line for line in warned)


# With data


def test_a_config_that_fits_its_data_has_nothing_to_mend(tiny_data):
    config = load_config(TINY_CONFIG, {'data_root': str(tiny_data), 'max_dets': 150})
    assert lines(config, data=True) == []


def test_data_that_are_not_there_are_a_note(tiny_config):
    tiny_config.data_root = 'nowhere'
    assert lines(tiny_config, data=True) == []
    assert any(finding.level == 'note' and 'add --cfg-options data_root=FOLDER' in str(finding)
               for finding in check_config(tiny_config))


def test_data_of_other_classes_are_an_error(tiny_data):
    config = load_config(TINY_CONFIG, {'data_root': str(tiny_data), 'classes': ('a', 'b')})
    assert any(line.startswith('error: data_root ') and "its classes are ('class1'" in line
               for line in lines(config, data=True))


@pytest.fixture
def data_of(tmp_path, tiny_config):
    """Write annotations of images, each a list of boxes (x, y, w, h) without masks; return a config of them."""
    def write(images, **options):
        (tmp_path / 'annotations').mkdir(exist_ok=True)
        data = dict(images=[dict(id=i, file_name=f'{i}.tif', height=200, width=200) for i in range(len(images))],
                    categories=[dict(id=i, name=f'class{i}') for i in range(1, 5)], annotations=[])
        for i, boxes in enumerate(images):
            data['annotations'] += [dict(id=1000 * i + j, image_id=i, category_id=1, bbox=list(box))
                                    for j, box in enumerate(boxes)]
        for split in ('train', 'val'):
            (tmp_path / f'annotations/{split}.json').write_text(json.dumps(data))
        tiny_config.data_root = str(tmp_path)
        for key, value in options.items():
            change(tiny_config, key.replace('__', '.'), value)
        return tiny_config
    return write


def cells(count, side=16):
    return [(i * 2 % 180, i * 3 % 180, side, side) for i in range(count)]


def test_an_image_fuller_than_max_dets_is_told(data_of):
    assert lines(data_of([cells(50)]), data=True) == []
    found, = lines(data_of([cells(51)]), data=True)
    assert found == 'warning: max_dets is 50, and the fullest image has 51 cells: set max_dets=100'


def test_anchors_that_fit_few_cells_are_told_with_those_that_would(data_of):
    found, = lines(data_of([cells(9, side=5)]), data=True)
    assert found == ('warning: model.rpn_head.anchor_generator fits 0% of the cells, by an anchor of IoU 0.5 or more: '
                     'set scales=[1.4], which would fit 100%')


def test_anchors_are_held_against_cells_as_they_are_resized(data_of):
    config = data_of([cells(9, side=5)])
    for split in ('train', 'val', 'test'):
        config[f'{split}_dataloader'].dataset.pipeline = [
            dict(step, scale_factor=3.0) if step.type == 'Resize' else step
            for step in config[f'{split}_dataloader'].dataset.pipeline]
    assert lines(config, data=True) == []


def test_queries_are_enough_if_the_fullest_image_has_fewer_cells(data_of):
    config = data_of([cells(30)], model__rpn_head__num_proposals=40)  # read by no head of this model
    findings = [finding for finding in check_config(config) if finding.place.endswith('num_proposals')]
    assert [(finding.level, 'the fullest has 30' in finding.problem) for finding in findings] == [('note', True)]
    config.model.rpn_head.num_proposals = 20
    assert any('no more cells' in line and 'set num_proposals=30' in line for line in lines(config, data=True))


def test_filters_that_drop_images_or_cells_are_told(data_of):
    config = data_of([cells(4, side=16), []], train_dataloader__dataset__filter_cfg=dict(
        filter_empty_gt=True, min_size=300))
    config.train_dataloader.dataset.pipeline.insert(-1, dict(type='FilterAnnotations', min_gt_bbox_wh=(20, 20)))
    found = lines(config, data=True)
    assert len(found) == 3
    assert 'min_size is 300 and drops 2 of 2 images' in found[0]
    assert 'filter_empty_gt drops 1 of 2 images' in found[1]
    assert 'min_gt_bbox_wh is (20, 20) and drops 100% of the cells' in found[2]


def test_a_warm_up_longer_than_the_training_is_told(tiny_data):
    config = load_config(TINY_CONFIG, {'data_root': str(tiny_data), 'max_dets': 150})  # 3 epochs of 3 iterations
    config.param_scheduler = dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=8)
    assert lines(config, data=True) == []
    config.param_scheduler.end = 9
    found, = lines(config, data=True)
    assert 'param_scheduler.end is 9, and the training ends after 9 iterations' in found
    wrapped = deepcopy(config)
    wrapped.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=config.train_dataloader.dataset)
    assert lines(wrapped, data=True) == []
    budget = deepcopy(config)
    apply_budget(budget, 100)
    budget.param_scheduler[0].end = 99
    assert lines(budget, data=True) == []
    budget.param_scheduler[0].end = 100
    assert 'the training ends after 100 iterations' in lines(budget, data=True)[0]
    config.param_scheduler.end = 8
    config.optim_wrapper.accumulative_counts = 3  # batches for a step of the optimizer, not of the schedule
    assert lines(config, data=True) == []


def test_findings_name_the_pipeline_that_is_meant_of_wrapped_data_sets(data_of):
    inner, outer = 'train_dataloader.dataset.dataset.dataset', 'train_dataloader.dataset'
    config = data_of([cells(4, side=16), []])
    images = config.train_dataloader.dataset
    images.filter_cfg = dict(filter_empty_gt=True, min_size=300)
    images.pipeline = [dict(type='LoadTiffImage'), dict(type='CopyPaste')]
    config.train_dataloader.dataset = dict(
        type='MultiImageMixDataset', dataset=dict(type='RepeatDataset', times=2, dataset=images),
        pipeline=[dict(type='RandomErasing', n_patches=1, ratio=0.1),
                  dict(type='FilterAnnotations', min_gt_bbox_wh=(20, 20)), dict(type='PackDetInputs')])
    found = [(line.split()[1], line) for line in lines(config, data=True) if 'train_' in line]
    assert sorted(place for place, _ in found) == sorted([
        f'{inner}.pipeline', f'{outer}.pipeline', f'{inner}.pipeline', f'{inner}.filter_cfg.min_size',
        f'{inner}.filter_cfg.filter_empty_gt', f'{outer}.pipeline'])
    by_word = {word: place for word in ('CopyPaste', 'RandomErasing', 'loads no cells', 'min_gt_bbox_wh')
               for place, line in found if word in line}
    assert by_word == {'CopyPaste': f'{inner}.pipeline', 'RandomErasing': f'{outer}.pipeline',
                       'loads no cells': f'{inner}.pipeline', 'min_gt_bbox_wh': f'{outer}.pipeline'}


def test_findings_name_the_pipeline_that_is_meant_of_wrapped_images_to_predict(tiny_config):
    steps = tiny_config.test_dataloader.dataset.pipeline
    tiny_config.test_dataloader.dataset.pipeline = steps[:1]
    tiny_config.test_dataloader.dataset = dict(
        type='MultiImageMixDataset', dataset=tiny_config.test_dataloader.dataset,
        pipeline=[dict(type='PackDetInputs', meta_keys=('img_id', ))])
    assert [line.split()[1] for line in lines(tiny_config) if 'test_dataloader' in line] == [
        'test_dataloader.dataset.dataset.pipeline', 'test_dataloader.dataset.pipeline']


def with_cells(config):
    return Subject(config, check_data(config, ('train', 'val')))


def solo(data_of, boxes, **head):
    from cellseg_mm.engine.config_checks.priors import check
    config = data_of([boxes])
    config.model = dict(type='CellSOLO', mask_head=dict(scale_ranges=[(1, 64)], num_grids=[10], **head))
    return [str(finding) for finding in check(with_cells(config))]


def test_cells_that_share_a_square_of_a_grid_are_counted(data_of):
    # Squares of 20 px: two of four cells have their centres in one.
    assert solo(data_of, [(0, 0, 10, 10), (30, 0, 10, 10), (50, 0, 10, 10), (70, 0, 10, 10)]) == []
    found, = solo(data_of, [(0, 0, 10, 10), (5, 5, 10, 10), (50, 0, 10, 10), (70, 0, 10, 10)])
    assert '25% of the cells have their centre in the square of another' in found


def test_squares_of_a_grid_are_as_small_as_tiles_make_them(data_of):
    from cellseg_mm.engine.config_checks.priors import check
    config = data_of([[(0, 0, 10, 10), (5, 5, 10, 10), (50, 0, 10, 10), (70, 0, 10, 10)]])
    config.model = dict(type='CellSOLO', mask_head=dict(scale_ranges=[(1, 64)], num_grids=[10]))
    assert len(list(check(with_cells(config)))) == 1
    config.model.tiles = dict(size=40, overlap=0)
    assert list(check(with_cells(config))) == []
    config.model.tiles.size = 200
    found, = check(with_cells(config))
    assert 'for a whole tile' in found.problem


def test_queries_are_enough_if_the_fullest_tile_has_fewer_cells(data_of):
    from cellseg_mm.engine.config_checks.limits import check
    config = data_of([cells(30)])
    config.model.tiles = dict(size=50, overlap=0, max_per_tile=30, max_per_img=50)
    for number, level in ((12, 'warning'), (14, 'note')):
        config.model.rpn_head.num_proposals = number
        finding, = (finding for finding in check(with_cells(config)) if finding.place.endswith('num_proposals'))
        assert finding.level == level
        assert finding.problem == f'is {number}: no more cells of a tile can be found, and the fullest has 14'
    config.model.tiles.max_per_tile = 13
    found = [str(finding) for finding in check(with_cells(config))]
    assert 'model.tiles.max_per_tile is 13, and the fullest tile has 14 cells: set max_per_tile=100' in found


@pytest.mark.parametrize('seed', range(5))
def test_proposals_are_to_suffice_for_what_is_cut_from_images(data_of, seed):
    rng = np.random.default_rng(seed)
    boxes = [[(*rng.integers(0, 180, 2).tolist(), 10, 20) for _ in range(count)] for count in (0, 1, 60)]
    steps = data_of(boxes).train_dataloader.dataset.pipeline
    cut = [{**step, 'crop_size': (50, 30)} if step.type == 'RandomCrop' else step for step in steps]
    centres = np.array(boxes[2])[:, :2] + [5, 10]

    def fullest(width, height):
        inside = [((centres >= (x, y)) & (centres < (x + width, y + height))).all(1).sum()
                  for x in range(-width, 200) for y in range(-height, 200)]
        return max(inside)

    crop = with_cells(data_of(boxes, train_dataloader__dataset__pipeline=cut)).fullest_crop
    assert fullest(50, 30) <= crop <= fullest(50 + 2 * 8, 30 + 2 * 8)
    whole = [step for step in steps if step.type != 'RandomCrop']
    assert with_cells(data_of(boxes, train_dataloader__dataset__pipeline=whole)).fullest_crop == 60


@pytest.mark.parametrize(('steps', 'expected'), [
    ([dict(type='RandomCellCrop', crop_size=(60, 40))], (60, 40)),
    ([dict(type='StainJitter', scale=0.3), dict(type='RandomCellCrop', crop_size=(60, 40))], (60, 40)),
    ([dict(type='RandomCellCrop', crop_size=(60, 40), margin=10)], (80, 60)),
    ([dict(type='RandomCellCrop', crop_size=(60, 40), margin=90),
      dict(type='RandomCellAffine', scale_range=(0.5, 1), crop_size=(60, 40))], (120, 80)),
    ([dict(type='RandomCellAffine', crop_size=(60, 40))], (75, 50)),
    ([dict(type='RandomCellAffine', scale_range=(2, 3), crop_size=(60, 40))], (30, 20)),
    ([dict(type='RandomCellAffine', scale_range=(2, 3), crop_size=(60, 40), prob=0.5)], (60, 40)),
    ([dict(type='RandomApply', transforms=dict(type='RandomCellAffine', scale_range=(0.5, 2), crop_size=(60, 40))),
      dict(type='RandomCellCrop', crop_size=(50, 50))], (100, 100)),
    ([dict(type='RandomApply', transforms=[dict(type='RandomBlur')]),
      dict(type='RandomCellCrop', crop_size=(50, 50))], (50, 50)),
    ([dict(type='Mosaic', img_scale=(640, 640)), dict(type='RandomCrop', crop_size=(50, 50))], None),
    ([dict(type='Resize', scale_factor=2.0), dict(type='RandomCrop', crop_size=(50, 50))], None)])
def test_what_is_cut_from_an_image_is_told_in_its_own_pixels(steps, expected):
    from cellseg_mm.engine.config_checks.subject import crop_size
    found = crop_size(steps)
    assert found is None if expected is None else found.tolist() == list(expected)


def test_large_images_of_which_an_epoch_shows_little_are_told(data_of):
    def found(config):
        return [str(finding) for finding in check_config(config) if finding.place.endswith('dataset.crop_size')]

    config = data_of([cells(5)])  # 200 x 200 px, and crops of 96 px
    dataset = config.train_dataloader.dataset
    line, = found(config)
    assert line == ('train_dataloader.dataset.crop_size is not set: an epoch shows one crop of 96 x 96 pixels of each '
                    'image, and the largest is 9 such crops: set crop_size=(96, 96)')
    config.train_dataloader.dataset = dict(type='RepeatDataset', times=9, dataset=dataset)
    assert found(config) == []
    config.train_dataloader.dataset = dict(dataset, crop_size=(96, 96))
    assert found(config) == []
    dataset.pipeline[2].crop_size = (128, 128)
    config.train_dataloader.dataset = dataset
    assert found(config) == []  # 4 of them


def test_pasted_cells_count_among_those_of_a_crop(data_of):
    config = data_of([cells(30)])
    before = with_cells(config).fullest_crop
    inner = config.train_dataloader.dataset
    config.train_dataloader.dataset = dict(type='MultiImageMixDataset', dataset=inner, pipeline=[
        dict(type='CellCopyPaste', max_cells=7)])
    assert with_cells(config).fullest_crop == before + 7


@pytest.mark.parametrize('step', [
    dict(type='RandomCellCrop', crop_size=(32, 32), class_weights=[1, 2]),
    dict(type='RandomApply', transforms=[dict(type='CellCopyPaste', class_weights=[1] * 5)])])
def test_weights_of_classes_are_to_be_as_many_as_the_classes(tiny_config, step):
    steps = tiny_config.train_dataloader.dataset.pipeline
    tiny_config.train_dataloader.dataset.pipeline = [*steps[:2], step, *steps[2:]]
    found, = (line for line in lines(tiny_config) if 'class_weights' in line)
    assert found.startswith('error: train_dataloader.dataset.pipeline[2]')
    assert found.endswith(' numbers, the classes are 4: give each class one')


def test_models_that_know_cells_by_their_place_are_told_to_see_whole_images_as_crops(data_of):
    def warned(config):
        return [line for line in lines(config, data=True) if 'model.tiles' in line]
    config = data_of([cells(30)])
    assert warned(config) == []
    config.model.rpn_head.num_proposals = 40
    line, = warned(config)
    assert 'by model.rpn_head.num_proposals the model knows cells by where they lie in 96 x 96 pixels; ' in line
    assert 'predictions are for 224 x 224: set tiles=dict(size=96, overlap=24' in line
    config.train_dataloader.dataset.pipeline = [
        step for step in config.train_dataloader.dataset.pipeline if step.type != 'RandomCrop']
    assert warned(config) == []


def test_cells_beyond_all_ranges_are_counted(data_of):
    found, = solo(data_of, [(0, 0, 10, 10), (30, 30, 100, 100)])
    assert 'scale_ranges leaves out 50% of the cells' in found


def test_cells_smaller_than_points_lie_apart_are_told(data_of):
    from cellseg_mm.engine.config_checks.priors import check
    subject = with_cells(data_of([cells(9, side=4)]))
    generator = SimpleNamespace(strides=[(8, 8), (16, 16)])
    subject._built = SimpleNamespace(bbox_head=SimpleNamespace(prior_generator=generator)), None
    found = [finding for finding in check(subject) if finding.place == 'model.bbox_head']
    assert 'points 8 pixels apart, of which 25% of the cells' in str(found[0])


def test_a_batch_larger_than_memory_is_told_as_an_estimate(tiny_config, monkeypatch):
    monkeypatch.setattr('cellseg_mm.engine.config_checks.memory._memory', lambda: (1_000_000, 'of memory'))
    found, = (line for line in lines(tiny_config, data=True) if 'train_dataloader' in line)
    assert found.startswith('warning: train_dataloader gives batches of 2 x 96 x 96 pixels, for which a step needs')
    assert 'by estimate, of 0.0 GB of memory: set a smaller batch_size' in found


@pytest.mark.parametrize(('steps', 'expected'), [
    ([dict(type='RandomCrop', crop_size=(100, 120)), dict(type='Resize', scale_factor=2.0)], (256, 224)),
    ([dict(type='Resize', scale=(400, 300), keep_ratio=True)], (416, 384)),
    ([], (320, 256)), ([dict(type='Mosaic')], None), ([dict(type='RandomAffine')], None),
    ([dict(type='RandomQuarterTurn')], (320, 320)),
    ([dict(type='RandomCellCrop', crop_size=(100, 120), margin=20), dict(type='Resize', scale_factor=2.0)], (320, 288)),
    ([dict(type='RandomCellCrop', crop_size=(100, 120), margin=20), dict(type='StainJitter'),
      dict(type='RandomCellAffine', crop_size=(100, 120))], (128, 128))])
def test_the_size_of_a_batch_is_that_of_its_largest_sides(steps, expected):
    state = np.random.get_state()[1].copy()  # noqa: NPY002 -- MMDetection's transforms draw from it
    Subject(config_of('tiny')).model  # noqa: B018 -- sets the scope
    steps = [dict(step, allow_negative_crop=True) if step['type'] == 'RandomCrop' else step for step in steps]
    assert input_size(steps, [(300, 200), (200, 250)]) == expected
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


def test_memory_grows_with_the_batch_and_is_no_more_than_a_step_keeps():
    config = config_of('tiny')
    subject = Subject(config)
    one, two = (step_bytes(subject.model, config.model, (count, 3, 96, 96)) for count in (1, 2))
    weights = 4 * sum(parameter.nbytes for parameter in subject.model.parameters())
    assert two - weights == pytest.approx(2 * (one - weights), rel=0.01)
    # What the backbone and the neck keep, counted on real tensors.
    kept = {}
    from mmdet.registry import MODELS
    real = MODELS.build(deepcopy(config.model)).train()
    names = {parameter.data_ptr() for parameter in real.parameters()}
    alive = []

    def keep(tensor):
        alive.append(tensor)
        if tensor.data_ptr() not in names:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        real.extract_feat(torch.zeros(1, 3, 96, 96))
    assert sum(kept.values()) <= one - weights <= 4 * sum(kept.values())


# Pretrained weights


def resnet_config(path, depth=18):
    config = config_of('tiny')
    config.model.backbone = dict(type='ResNet', depth=depth, init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    config.model.neck.in_channels = [64, 128, 256, 512]
    return config


@pytest.fixture(scope='module')
def resnet_weights():
    from torchvision.models import resnet18
    return resnet18().state_dict()


def test_weights_that_fit_are_a_note_with_their_number(tmp_path, resnet_weights):
    torch.save(resnet_weights, tmp_path / 'r18.pth')
    finding, = (one for one in check_pretrained(resnet_config(tmp_path / 'r18.pth')) if one.level == 'note')
    assert str(finding) == 'model.backbone.init_cfg fits: 100 of 100 tensors are in r18.pth'


def test_weights_of_another_depth_are_a_warning_with_what_they_lack(tmp_path, resnet_weights):
    torch.save({name: value for name, value in resnet_weights.items() if not name.startswith('layer4')},
               tmp_path / 'r18.pth')
    finding, = check_pretrained(resnet_config(tmp_path / 'r18.pth'))
    assert finding.level == 'warning'
    assert 'fits 75 of 100 tensors; r18.pth lacks 25, such as layer4.0.conv1.weight' in str(finding)


def test_weights_of_which_none_fits_are_an_error(tmp_path, resnet_weights):
    torch.save({f'encoder.{name}': value for name, value in resnet_weights.items()}, tmp_path / 'r18.pth')
    finding, = check_pretrained(resnet_config(tmp_path / 'r18.pth'))
    assert finding.level == 'error'
    assert 'does not fit: none of the 100 tensors is in r18.pth' in str(finding)
    config = resnet_config(tmp_path / 'r18.pth')
    config.model.backbone.init_cfg.prefix = 'encoder.'
    assert check_pretrained(config)[0].level == 'note'


def test_a_file_that_is_not_weights_is_an_error(tmp_path):
    (tmp_path / 'r18.pth').write_text('nonsense')
    finding, = check_pretrained(resnet_config(tmp_path / 'r18.pth'))
    assert finding.level == 'error'
    assert 'this is not a checkpoint' in finding.problem


def test_weights_that_a_training_downloads_are_a_note_with_where_they_go(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    finding, = (one for one in check_pretrained(resnet_config('torchvision://resnet18')) if one.level == 'note')
    assert f'put that file at {tmp_path}/checkpoints/resnet18-' in finding.remedy


def test_weights_of_timm_are_counted(tmp_path):
    config = config_of('tiny')
    config.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'timm.pth'))
    import timm
    weights = timm.create_model('test_efficientnet').state_dict()
    torch.save(weights, tmp_path / 'timm.pth')
    notes = [finding for finding in check_pretrained(config) if finding.place.endswith('init_cfg')]
    assert [finding.level for finding in notes] == ['note']
    name = next(name for name in weights if name.endswith('weight'))
    torch.save({**weights, name: torch.zeros(1)}, tmp_path / 'timm.pth')
    findings = [finding for finding in check_pretrained(config) if finding.place.endswith('init_cfg')]
    assert [finding.level for finding in findings] == ['error']
    assert f'lacks 1, such as {name}' in str(findings[0])


@pytest.mark.parametrize(('model_name', 'named'), [
    ('convnext_tiny.in12k_ft_in1k', None), ('convnextv2_base', 'cc-by-nc-4.0, for non-commercial use alone'),
    ('convnext_tiny.eupe_lvd1689m', 'fair-noncommercial-research-license, for non-commercial use alone'),
    ('regnety_320.seer', 'seer-license')])
def test_licences_that_do_not_allow_every_use_are_named(model_name, named):
    from cellseg_mm.engine.config_checks.pretrained import _licence
    assert [finding.problem for finding in _licence('here', model_name)] == (
        [f'names weights of the licence {named}'] if named else [])


def test_weights_of_detectron2_are_held_against_their_own_colours():
    from cellseg_mm.engine.config_checks.pretrained import _normalisation
    model = dict(data_preprocessor=dict(mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395]))
    found = {name: list(_normalisation(model, dict(type='ResNet'), dict(checkpoint=f'open-mmlab://detectron2/{name}')))
             for name in ('resnext101_32x8d', 'resnet50_caffe')}
    assert not found['resnext101_32x8d']
    assert 'with [103.53, 116.28, 123.675] and [1.0, 1.0, 1.0] of BGR' in str(found['resnet50_caffe'][0])


# What a training makes of it


def test_errors_refuse_a_training_with_the_first_and_their_number():
    config = config_of('tiny')
    findings = [Finding('error', place, 'is wrong', 'mend it') for place in 'ab']
    with pytest.raises(UserError, match=r'tiny\.py: a is wrong: mend it; and 1 more: python tools/check_config\.py'):
        warnings_of(config, findings)
    assert warnings_of(config, [Finding('warning', 'c', 'is odd', 'look'), Finding('note', 'd', 'is so')]) == [
        'c is odd: look']


def test_a_check_that_fails_stops_nothing(tiny_config, monkeypatch):
    def fail(subject):
        raise KeyError('oddity')
    monkeypatch.setattr('cellseg_mm.engine.config_checks.limits.check', fail)
    note, = (finding for finding in check_config(tiny_config, {}) if finding.place == 'limits')
    assert str(note) == 'limits could not be checked, KeyError: oddity'
