"""Loading of configs."""
import argparse
import json
import re
from difflib import get_close_matches
from inspect import signature
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from cellseg_mm.datasets.wrappers import nested
from cellseg_mm.errors import UserError

# What a run reads: MMEngine's runner, and what this module carries on.
SETTINGS = ('data_root', 'classes', 'max_dets', *list(signature(Runner.__init__).parameters)[1:],
            'activation_checkpointing', 'compile', 'custom_imports', 'efficient_conv_bn_eval', 'find_unused_parameters',
            'model_wrapper_cfg', 'sync_bn')


def load_config(path, options=None):
    """Load a config, apply command-line options and carry `data_root`, `classes` and `max_dets` to where they count.

    Args:
        path (str | Path): A config file.
        options (dict, optional): Dotted keys and values, as `--cfg-options` gives them.

    Returns:
        Config: MMEngine's config, complete.

    Raises:
        UserError: If the file is missing, is not a config or an option does not fit.
    """
    config = _read(path, options or {})
    missing = [key for key in ('model', 'data_root', 'classes', 'max_dets') if key not in config]
    if missing:
        raise UserError(f'{path}: it does not set {", ".join(missing)}; start from _base_/cells.py as configs/'
                        'cell_maskrcnn.py does')
    return _carried(config, path)


def read_model_config(path):
    """Load a config for its model and its test pipeline alone: as `load_config`, but it may be MMDetection's, too."""
    config = _read(path, {})
    if 'model' not in config:
        raise UserError(f'{path}: it does not set model')
    return _carried(config, path) if {'data_root', 'classes', 'max_dets'} <= config.keys() else config


def _read(path, options):
    path = Path(path)
    if not path.is_file():
        known = {file.stem: str(file) for file in sorted(Path('configs').glob('*.py'))}
        close = ', '.join(known[stem] for stem in get_close_matches(path.stem, known, 3) or known)
        raise UserError(f'{path}: there is no such config{f"; there are {close}" if close else ""}')
    try:
        config = Config.fromfile(path)
        lay_out(config, False)
        for key in options:
            _check_option(config, key)
        config.merge_from_dict(options)
    except UserError:
        raise
    except Exception as error:  # a config is Python code: anything can go wrong in it
        raise UserError(f'{path}: {type(error).__name__}: {error}') from error
    return config


def _carried(config, path):
    try:
        propagate(config)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f'{path}: a setting has not the form that configs/_base_/cells.py gives it: {error}') from error
    return config


def _check_option(config, key):
    parts = key.split('.')
    if parts[0] not in SETTINGS:
        raise UserError(f'--cfg-options {key}: this would change nothing: {parts[0]} is no setting, or is read only '
                        'while the config is loaded; name the setting itself, such as train_dataloader.batch_size')
    node = config
    for number, part in enumerate(parts):
        if not isinstance(node, (dict, Config)):
            return
        if part not in node:
            close = ['.'.join([*parts[:number], name]) for name in get_close_matches(part, node.keys(), 1, 0.85)]
            if number and 'dataset' in node:  # meant for what is wrapped
                within = nested(node, '.'.join(parts[:number]))
                close += [f'{place}.{part}' for place, dataset in within if part in dataset]
            if close:
                raise UserError(f'--cfg-options {key}: there is no {part}; did you mean {close[0]}?')
        node = node.get(part)


def propagate(config):
    """Carry `data_root`, `classes` and `max_dets` to every place that repeats them.

    A config derives these values when it is read, so that a child config or `--cfg-options` that changes one would
    leave the others behind.

    Args:
        config (Config): Changed in place.
    """
    # --cfg-options classes=nucleus gives a word, not a tuple of one.
    classes = (config.classes, ) if isinstance(config.classes, str) else config.classes
    config.classes = tuple(str(name) for name in classes)
    config.data_root = str(config.data_root)
    if not isinstance(config.max_dets, int) or config.max_dets < 1:
        raise UserError(f'max_dets must be a whole number of 1 or more, not {config.max_dets!r}')
    for split in ('train', 'val', 'test'):
        if f'{split}_dataloader' not in config:
            continue
        dataset = dataset_config(config, split)
        dataset.data_root = config.data_root
        dataset.metainfo = dict(classes=config.classes)
        evaluator = config.get(f'{split}_evaluator')
        if evaluator:
            evaluator.ann_file = str(Path(config.data_root, dataset.ann_file))
            if 'max_dets' in evaluator:
                evaluator.max_dets = config.max_dets
    for head in ('roi_head', 'bbox_head', 'mask_head', 'panoptic_head', 'panoptic_fusion_head'):
        _set_num_classes(config.model.get(head), len(config.classes))
    _set_limits(config.model, len(config.classes), config.max_dets)


def dataset_config(config, split):
    """Return the config of the data set that has the images of a split, out of wrappers such as `RepeatDataset`.

    Args:
        config (Config): A config.
        split (str): `train`, `val` or `test`.

    Raises:
        UserError: If it has no annotation file, as `ConcatDataset` has none.
    """
    return _nested(config, split)[-1][1]


def dataset_key(config, split):
    """Return the dotted key of what `dataset_config` returns."""
    return _nested(config, split)[-1][0]


def _nested(config, split):
    return nested(config[f'{split}_dataloader'].dataset, f'{split}_dataloader.dataset')


def lay_out(config, is_for_reading):
    """Have yapf lay out the text of a config, or not: it takes a second, and logs and every checkpoint hold that text.

    `Config.fromfile` takes this as an argument, and loses it.
    """
    object.__setattr__(config, '_format_python_code', is_for_reading)


def settings_of(config):
    """The text of all that a run reads of a config, and of nothing that the config computed it with."""
    read = {key: value for key, value in config.to_dict().items() if key in SETTINGS}
    return json.dumps(read, sort_keys=True, default=str)


def seen_limit(model, max_dets):
    """Return how many cells are looked for in what a model sees at once: `max_dets` in an image, fewer in a tile.

    Args:
        model (dict): Its config.
        max_dets (int): What is looked for in an image.
    """
    return min((model.get('tiles') or {}).get('max_per_tile', max_dets), max_dets)


def findable(model, num_classes, wanted):
    """Return how many of the wanted cells a model can find in what it sees at once: all, or less with few queries.

    Args:
        model (dict): Its config.
        num_classes (int): For each, a query can name a cell of its own.
        wanted (int): How many.
    """
    queries = [model[head][key] for head, key in (('rpn_head', 'num_proposals'), ('panoptic_head', 'num_queries'))
               if key in (model.get(head) or {})]
    return min([wanted, *(number * num_classes for number in queries)])


def _set_num_classes(node, num_classes):
    if isinstance(node, list):
        for item in node:
            _set_num_classes(item, num_classes)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in ('num_classes', 'num_things_classes'):
                node[key] = num_classes
            # Alike for all classes, and last for no object; others are meant for the classes that they were set for.
            elif key == 'class_weight' and isinstance(value, list) and len(set(value[:-1])) == 1 and not node.get(
                    'use_sigmoid'):
                node[key] = [*value[:1] * num_classes, value[-1]]
            else:
                _set_num_classes(value, num_classes)


def _set_limits(model, num_classes, max_dets):
    """Let a model find `max_dets` cells, in a tile what is set for that, or as many as its queries can."""
    limits, wanted = model.get('test_cfg') or {}, seen_limit(model, max_dets)
    most = findable(model, num_classes, wanted)
    candidates = dict(nms_pre=2 * wanted, top_k=2 * wanted)  # of which NMS leaves some
    for part, values in ((limits, dict(max_per_img=most, max_per_image=most, **candidates)),
                         (limits.get('rcnn'), dict(max_per_img=most)), (model.get('tiles'), dict(max_per_img=max_dets)),
                         (limits.get('rpn'), dict(max_per_img=2 * wanted, nms_pre=2 * wanted))):
        if part:  # models with queries have None as rpn
            part.update({key: value for key, value in values.items() if key in part})


def parse_options(pairs):
    """Parse the `key=value` pairs of `--cfg-options` as MMDetection does.

    The command lines take them as plain text, since importing MMEngine takes longer than `--help` should.

    Args:
        pairs (list[str] | None): Such as `model.backbone.depth=18` or `a.b="[1,2]"`.

    Returns:
        dict: Dotted keys and their values.

    Raises:
        UserError: If a pair has no `=`, or brackets that do not match, or a dictionary, which MMEngine takes for text.
    """
    namespace = argparse.Namespace()
    for pair in pairs or []:
        key, equals, value = pair.partition('=')
        if not equals:
            raise UserError(f'--cfg-options: {pair!r} is not of the form key=value')
        if re.match(r'[\[(\s]*(\{|dict\()', value):
            raise UserError(f'--cfg-options {key}: a dictionary cannot be given here: set what is in it, as in '
                            f'{key}.NAME=VALUE, where a number is the place in a list, or write a config')
    try:
        DictAction(['--cfg-options'], 'cfg_options')(None, namespace, pairs or [])
    except AssertionError as error:
        raise UserError(f'--cfg-options: {error}') from error
    return namespace.cfg_options
