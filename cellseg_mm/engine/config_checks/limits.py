"""Whether `max_dets` reaches all that limits how many cells of an image are found or learned."""
from cellseg_mm.engine.config import findable, seen_limit
from cellseg_mm.engine.config_checks.finding import Finding, note, warning
from cellseg_mm.engine.config_checks.subject import dicts, listed
from cellseg_mm.evaluation.cell_metric import CellMetric

_KEYS = 'nms_pre', 'max_per_img', 'max_per_image', 'top_k'
_MASKFORMER_LIMIT = 100  # of MaskFormerFusionHead, where test_cfg sets no max_per_image


def check(subject):
    """Yield findings."""
    config, cells = subject.config, subject.cells
    wanted, fullest = config.max_dets, cells.fullest if cells else None
    if fullest is not None and wanted < fullest:
        yield warning('max_dets', f'is {wanted:,}, and the fullest image has {fullest:,} cells',
                      f'set max_dets={-(-fullest * 5 // 400) * 100}')
    seen = seen_limit(config.model, wanted)
    if cells and seen < wanted and seen < subject.fullest_view:
        fullest_tile = subject.fullest_view
        yield warning('model.tiles.max_per_tile', f'is {seen:,}, and the fullest tile has {fullest_tile:,} cells',
                      f'set max_per_tile={-(-fullest_tile * 5 // 400) * 100}')
    yield from _predicted(config.model, findable(config.model, len(config.classes), seen), seen)
    yield from _queries(subject, seen)
    yield from _trained(config.model, wanted, subject.fullest_crop if cells else None)
    for evaluator in listed(config.get('val_evaluator')):
        limit = evaluator.get('max_dets', 1000)
        if evaluator.get('type') == CellMetric.__name__ and limit != wanted:
            yield warning('val_evaluator.max_dets', f'is {limit:,}, and max_dets is {wanted:,}',
                          'set max_dets=_base_.max_dets')


def _predicted(model, most, wanted):
    limits = model.get('test_cfg') or {}
    places = {'model.test_cfg': limits, **{f'model.test_cfg.{part}': limits.get(part) for part in ('rpn', 'rcnn')}}
    if str((model.get('panoptic_fusion_head') or {}).get('type')).endswith('MaskFormerFusionHead'):
        places['model.test_cfg'] = {'max_per_image': _MASKFORMER_LIMIT, **limits}
    name, remedy = ('model.tiles.max_per_tile', wanted) if model.get('tiles') else ('max_dets', '_base_.max_dets')
    for place, node in places.items():
        for key in _KEYS:
            limit = node.get(key) if isinstance(node, dict) else None
            if isinstance(limit, int) and 0 < limit < most:  # 0 and -1 are none; queries are told of below
                yield warning(f'{place}.{key}', f'is {limit:,}, and {name} is {wanted:,}: cells of full '
                              'images are lost', f'set {key}={remedy} or more')


def _queries(subject, wanted):
    seen = 'a tile' if subject.config.model.get('tiles') else 'an image'
    fullest = subject.fullest_view if subject.cells else None
    for place, node in dicts(subject.config.model, 'model'):
        for key in ('num_queries', 'num_proposals'):
            number = node.get(key)
            if not isinstance(number, int) or number >= wanted:
                continue
            loses = number < fullest if subject.cells else seen == 'an image'
            data = f', and the fullest has {fullest:,}' if subject.cells else ''
            yield Finding('warning' if loses else 'note', f'{place}.{key}', f'is {number:,}: no more cells of {seen} '
                          f'can be found{data}',
                          f'set {key}={min(wanted, fullest or wanted)} or more, or let the model see less at once by '
                          'model.tiles' if loses else '')


def _trained(model, wanted, fullest):
    wanted = wanted if fullest is None else min(wanted, fullest)
    limits = (model.get('train_cfg') or {}).get('rpn_proposal') or {}
    for key in ('nms_pre', 'max_per_img'):
        if 0 < limits.get(key, 0) < wanted:
            yield warning(f'model.train_cfg.rpn_proposal.{key}', f'is {limits[key]:,}: fewer proposals than '
                          f'an image to train on may have cells ({wanted:,})', f'set {key}=_base_.max_dets or more')
    for place, node in dicts(model, 'model'):
        number = node.get('max_masks_to_train')
        if isinstance(number, int) and fullest is not None and 0 <= number < fullest:
            yield note(f'{place}.max_masks_to_train', f'is {number:,}: of an image as full as the fullest, '
                       f'with {fullest:,} cells, a sample teaches masks at each step')
