"""Whether what schedulers and hooks look at after each validation exists, and what they take for better."""
from difflib import get_close_matches

from mmdet.registry import HOOKS, METRICS

from cellseg_mm.engine.config_checks.finding import error, warning
from cellseg_mm.engine.config_checks.subject import listed
from cellseg_mm.errors import one_line
from cellseg_mm.evaluation.cell_metric import CellMetric

_MUCH = 0.05  # of metrics from 0 to 1, more than an epoch gains late in training
_FEW = 3  # validations of a trial, which needs no patience


def check(subject):
    """Yield findings."""
    config = subject.config
    names = metric_names(config)
    for place, scheduler in _numbered('param_scheduler', config.get('param_scheduler')):
        if str(scheduler.get('type')).startswith('ReduceOnPlateau'):
            yield from _plateau(place, scheduler, names, config.train_cfg)
    hooks = {f'default_hooks.{name}': hook for name, hook in (config.get('default_hooks') or {}).items()}
    for place, hook in [*hooks.items(), *_numbered('custom_hooks', config.get('custom_hooks'))]:
        if not isinstance(hook, dict):
            continue
        for name in listed(hook.get('save_best')):
            if name != 'auto':
                yield from _known(f'{place}.save_best', name, names)
                yield from _direction(place, name, 'greater' if hook.get('type') == 'EpochCheckpointHook' else hook.get(
                    'rule'))
        is_stopping = hook.get('type') == 'EarlyStoppingHook'
        if is_stopping:
            yield from _stopping(place, hook, names, config.train_cfg)
        if is_stopping or hook.get('save_best'):
            yield from _built(place, hook)


def metric_names(config):
    """Names of what validation returns: the metrics themselves are asked.

    Args:
        config (Config): A config from `load_config`.

    Returns:
        set[str] | None: None where there is a metric that is not ours.
    """
    names = set()
    for evaluator in listed(config.get('val_evaluator')):
        cls = METRICS.get(evaluator['type'])
        if not isinstance(cls, type) or not issubclass(cls, CellMetric):
            return None
        metric = METRICS.build({**evaluator, 'results_file': None})
        # Of one image without any cell: metrics are undefined, and named.
        metric.annotations = {'images': [dict(id=1, file_name='', height=1, width=1)], 'annotations': [],
                              'categories': [dict(id=i, name=name) for i, name in enumerate(config.classes, 1)]}
        metric.dataset_meta = {'classes': config.classes}
        names |= {f'{metric.prefix}/{name}' for name in metric.compute_metrics([(1, [])])}
    return names


def _numbered(place, value):
    if isinstance(value, (list, tuple)):
        return [(f'{place}[{number}]', one) for number, one in enumerate(value)]
    return [(place, value)] if value else []


def _known(place, name, names):
    if names is None or name in names:
        return
    if not names:
        yield error(place, f'is {name}, and there is no val_evaluator', 'set val_evaluator, as '
                    'configs/_base_/cells.py does')
        return
    close = get_close_matches(name, names, 1, 0.6) or [one for one in names if one.endswith('/AP50_dense')]
    yield error(place, f'is {name}, which validation does not return', f'set it to {close[0]}')


def _direction(place, name, rule):
    right = 'less' if name.rpartition('/')[2].startswith('ECE') else 'greater'
    if rule is not None and rule != right:
        yield warning(f'{place}.rule', f'is {rule}, and the {right} {name} is, the better', f'set rule={right!r}')


def _plateau(place, scheduler, names, loop):
    monitor = scheduler.get('monitor', 'loss')
    yield from _known(f'{place}.monitor', monitor, names)
    yield from _direction(place, monitor, scheduler.get('rule', 'less'))
    epochs, interval = loop.get('max_epochs'), loop.get('val_interval', 1)
    if not epochs or not scheduler.get('by_epoch', True):
        return
    if scheduler.get('end', 0) < epochs:
        yield warning(f'{place}.end', 'is not set: it becomes max_epochs, and a training resumed with more '
                      'epochs keeps its rate' if 'end' not in scheduler else f'is {scheduler.end} of {epochs} epochs: '
                      'the rate stays as it is thereafter', 'set end=100_000')
    yield from _patience(place, scheduler.get('patience', 10), 1, epochs, interval)


def _stopping(place, hook, names, loop):
    monitor = hook.get('monitor', '')
    yield from _known(f'{place}.monitor', monitor, names)
    yield from _direction(place, monitor, hook.get('rule'))
    gain = hook.get('min_delta', 0.1)
    if gain >= _MUCH:
        yield warning(f'{place}.min_delta', f'is {gain}{"" if "min_delta" in hook else " where nothing is set"}'
                      f': an epoch counts as better only if it gains {100 * gain:g} points', 'set min_delta=0.001')
    if loop.get('max_epochs'):
        yield from _patience(place, hook.get('patience', 5), 0, loop.max_epochs, loop.get('val_interval', 1))


def _patience(place, patience, more, epochs, interval):
    validations = epochs // interval
    if _FEW < validations <= patience + more:
        yield warning(f'{place}.patience', f'is {patience} validations, and there are {validations} in {epochs} '
                      'epochs: it never runs out', f'set patience={validations // 2 - more}, or '
                      'train_cfg.val_interval=1' if interval > 1 else f'set patience={validations // 2 - more}')


def _built(place, hook):
    try:
        HOOKS.build(dict(hook))
    except Exception as caught:  # of any hook
        reason = one_line(caught)
        yield error(place, f'cannot be built, {reason}',
                    "set rule='greater'" if 'rule' in reason else 'correct it')
