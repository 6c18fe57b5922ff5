"""Whether the stages of a cascade have kept what differs between them: lists in a config replace those of its base."""
from itertools import pairwise

from cellseg_mm.engine.config_checks.finding import error, warning
from cellseg_mm.engine.config_checks.subject import listed

_REMEDY = 'derive the list from the one of the base, as configs/cell_cascade.py does'
_UNSET_STDS = 1.0, 1.0, 1.0, 1.0  # DeltaXYWHBBoxCoder's
_HEAD_STDS = 0.1, 0.1, 0.2, 0.2  # those of a BBoxHead without bbox_coder
_NEEDED = 'type', 'assigner', 'sampler'
_TRAINING_KEYS = 'assigner', 'sampler', 'mask_size', 'pos_weight'


def check(subject):
    """Yield findings."""
    model = subject.config.model
    head = model.get('roi_head') or {}
    count = head.get('num_stages')
    if not isinstance(count, int):
        return
    lists = {f'model.roi_head.{key}': value for key, value in head.items() if isinstance(value, (list, tuple))}
    training = (model.get('train_cfg') or {}).get('rcnn')
    if isinstance(training, (list, tuple)):
        lists['model.train_cfg.rcnn'] = training
    elif training is not None:
        yield error('model.train_cfg.rcnn', f'is one setting, and there are {count} stages', _REMEDY)
    for place, values in lists.items():
        if len(values) != count and (place.endswith('stage_loss_weights') or all(map(_is_dict, values))):
            yield error(place, f'has {len(values)} entries, and there are {count} stages '
                        '(model.roi_head.num_stages)', _REMEDY)
        yield from _entries(place, values)
    yield from _stds(head)
    yield from _thresholds(listed(training))


def _is_dict(value):
    return isinstance(value, dict)


def _entries(place, values):
    """What no stage can do without."""
    if not all(map(_is_dict, values)):
        return
    for number, value in enumerate(values):
        for key in ('type', ) if '.roi_head.' in place else _TRAINING_KEYS:
            if key not in value and (key in _NEEDED or any(key in other for other in values)):
                yield error(f'{place}[{number}]', f'lacks {key}', _REMEDY)


def _stds(head):
    """Each stage corrects less than the one before, and its targets are scaled to that (Cascade R-CNN, Cai 2018)."""
    boxes = head.get('bbox_head')
    stages = []
    for value in listed(boxes):
        coder = value.get('bbox_coder') or {}
        if coder.get('type', 'DeltaXYWHBBoxCoder') != 'DeltaXYWHBBoxCoder':
            return
        stages.append(tuple(coder.get('target_stds', _UNSET_STDS if coder else _HEAD_STDS)))
    place = 'model.roi_head.bbox_head'
    lost = [number for number, stds in enumerate(stages) if stds == _UNSET_STDS]
    for number in lost:
        yield warning(f'{place}[{number}].bbox_coder.target_stds', 'is (1, 1, 1, 1), as where nothing is '
                      'set, and boxes are hardly corrected', _REMEDY)
    # Heads with queries correct by as much at each stage.
    if lost or 'Sparse' in str(head.get('type')) or any('DII' in str(value.get('type')) for value in listed(boxes)):
        return
    if len(stages) == 1:
        yield warning(f'{place}.bbox_coder.target_stds', f'is {stages[0]} in all stages, and each should '
                      'correct less than the one before', _REMEDY)
    for number, (before, after) in enumerate(pairwise(stages), 1):
        if not all(a < b for a, b in zip(after, before, strict=False)):
            yield warning(f'{place}[{number}].bbox_coder.target_stds', f'is {after} after {before}, and each '
                          'stage should correct less than the one before', _REMEDY)


def _thresholds(training):
    overlaps = [(stage.get('assigner') or {}).get('pos_iou_thr') for stage in training]
    for number, (before, after) in enumerate(pairwise(overlaps), 1):
        if before is not None and after is not None and after <= before:
            yield warning(f'model.train_cfg.rcnn[{number}].assigner.pos_iou_thr', f'is {after} after '
                          f'{before}, and each stage should be trained on better boxes than the one before', _REMEDY)
