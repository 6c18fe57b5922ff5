"""The same budget for every model: a training of so many iterations, in epochs of equal length."""
import math
import sys
import time
from copy import deepcopy
from inspect import signature

import torch
from mmdet.registry import HOOKS, MODELS
from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from cellseg_mm.datasets.wrappers import build_dataset, nested
from cellseg_mm.io.files import write_json

VALIDATIONS = 5  # over the whole budget
WARMED_UP, MEASURED = 4, 12  # iterations
_LONGEST_WARMUP = 5  # a fifth of the budget
_LARGEST_MOMENTUM = 0.99  # of an average: MMEngine refuses 1, which would be the last weights alone


def apply_budget(config, iterations, processes=1, validations=VALIDATIONS):
    """Let a config train for a number of iterations, with its own batch size, and validate a few times.

    Its learning rate goes through what the config plans for its own length. A warm-up that is given in iterations keeps
    them, up to a fifth of the budget; the rest is stretched or compressed, as are the patience of a plateau, which
    counts validations, and the length and the begin of an average of the weights. Early stopping is left out.

    Args:
        config (Config): From `load_config`, with data; changed in place.
        iterations (int): One or more.
        processes (int): That share the training.
        validations (int): At most so many, the last one at the end.

    Returns:
        list[str]: What changed that a reader of the comparison has to know.
    """
    own, per_own_epoch = own_iterations(config, processes)
    own_epochs = own / per_own_epoch
    if config.train_cfg.get('max_iters'):
        own_interval = config.train_cfg.get('val_interval', 1000)  # MMEngine's own, in iterations
    else:
        own_interval = config.train_cfg.get('val_interval', 1) * per_own_epoch
    own_validations = math.ceil(own / own_interval)
    per_epoch = math.ceil(iterations / validations)
    epochs = math.ceil(iterations / per_epoch)
    loader = config.train_dataloader
    loader.sampler = dict(type='BudgetSampler', iterations=iterations, per_epoch=per_epoch,
                          batch_size=loader.get('batch_size', 1))
    for other in ('batch_sampler', 'num_batch_per_epoch'):
        loader.pop(other, None)
    config.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=epochs, val_interval=1)
    schedulers = config.get('param_scheduler') or []
    schedulers = [schedulers] if isinstance(schedulers, dict) else schedulers
    warmup = max((one['end'] for one in schedulers if _is_warmup(one)), default=0)
    kept = min(warmup, max(1, iterations // _LONGEST_WARMUP))
    place, factor = _stretch(warmup, own, kept, iterations) if warmup < own else _stretch(0, own, 0, iterations)
    config.param_scheduler = [
        _rescaled_plateau(one, epochs / own_validations, epochs / own_epochs) if 'ReduceOnPlateau' in one['type'] else
        dict(one, end=min(one['end'], kept)) if _is_warmup(one) else
        _rescaled(one, per_own_epoch if one.get('by_epoch', True) else 1, place, factor) for one in schedulers]
    config.custom_hooks = [hook for hook in config.get('custom_hooks') or [] if 'EarlyStopping' not in hook['type']]
    for hook in config.custom_hooks:
        if 'switch_epoch' in hook:
            hook['switch_epoch'] = round(hook['switch_epoch'] * epochs / own_epochs)
        if hook['type'].split('.')[-1] == 'EMAHook':
            _rescale_average(hook, iterations / own, epochs / own_epochs)
    return [f'its warm-up of {warmup} iterations was shortened to {kept}'] if kept < warmup else []


def own_iterations(config, processes=1):
    """How long a config trains by itself.

    Args:
        config (Config): From `load_config`, with data.
        processes (int): That share the training.

    Returns:
        tuple[int, int]: Iterations of the whole training, and of an epoch.
    """
    sampler = config.train_dataloader.get('sampler') or {}
    if sampler.get('type') == 'BudgetSampler':
        return sampler.iterations, sampler.per_epoch
    per_epoch = iterations_per_epoch(config, epoch_images(config), processes)
    return config.train_cfg.get('max_iters') or config.train_cfg.max_epochs * per_epoch, per_epoch


def epoch_images(config):
    """Return how many images an epoch has: filters leave some out and wrappers repeat some, and only they know which.

    Args:
        config (Config): From `load_config`, with data.

    Raises:
        UserError: If there is none.
    """
    dataset = deepcopy(config.train_dataloader.dataset)
    for _, node in nested(dataset):
        if 'pipeline' in node:
            node.pipeline = []
    return len(build_dataset(dataset, 'train'))


def iterations_per_epoch(config, images, processes):
    """Iterations of an epoch, by a `DefaultSampler`.

    Args:
        config (Config): From `load_config`.
        images (int): Of an epoch, as `epoch_images` counts them.
        processes (int): That share the training.

    Returns:
        int: Of each process.
    """
    return math.ceil(math.ceil(images / processes) / config.train_dataloader.get('batch_size', 1))


def for_speed(config, path, processes=1):
    """A config that trains for a moment, as it would for long, and writes how long an iteration takes.

    Args:
        config (Config): From `load_config`, with data; left as it is.
        path (str | Path): The JSON file: seconds of an iteration.
        processes (int): That share the training.

    Returns:
        Config: The training ends with its last iteration: no validation, no checkpoint.
    """
    config = deepcopy(config)
    apply_budget(config, WARMED_UP + MEASURED, processes, validations=1)
    config.custom_hooks = [*config.custom_hooks, dict(type='SpeedHook', path=str(path))]
    return config


@HOOKS.register_module()
class SpeedHook(Hook):
    """Write how long an iteration takes, its data included, and end the process.

    The first iterations are left out, in which data loading processes start and memory is laid out.

    Args:
        path (str): The JSON file: seconds, the mean over some iterations.
    """

    priority = 'LOWEST'

    def __init__(self, path):
        self.path = path

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):  # noqa: ARG002 -- MMEngine's
        if batch_idx + 1 == WARMED_UP:
            self._start = _now()
        elif batch_idx + 1 == WARMED_UP + MEASURED:
            if is_main_process():
                write_json(self.path, (_now() - self._start) / MEASURED)
            sys.exit()


def _now():
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _is_warmup(scheduler):
    if scheduler.get('by_epoch', True) or scheduler.get('begin') or 'end' not in scheduler or not (
            scheduler['type'].startswith(('Linear', 'Constant'))):
        return False
    start = scheduler.get('start_factor', scheduler.get('factor', 1 / 3))  # by MMEngine's defaults
    return start < scheduler.get('end_factor', 1)  # else it is a decay


def _stretch(warmup, own, kept, iterations):
    """Where in the budget a place in a training of `own` iterations lies, and how long there an iteration becomes."""
    factor = (iterations - kept) / (own - warmup)

    def place(position):
        if position == math.inf:
            return iterations
        if position <= warmup:
            return round(position * kept / max(warmup, 1))
        return round(kept + (position - warmup) * factor)

    return place, factor


def _rescaled(scheduler, unit, place, factor):
    """A scheduler that counts iterations of the budget, for one that counts units of so many of its own iterations."""
    found = dict(scheduler, by_epoch=False)
    found.pop('convert_to_iter_based', None)
    begin = scheduler.get('begin', 0) * unit
    found['begin'] = place(begin)
    found['end'] = max(place(scheduler['end'] * unit if 'end' in scheduler else math.inf), found['begin'] + 1)
    for key in ('T_max', 'total_steps'):
        if scheduler.get(key):
            found[key] = max(1, place(begin + scheduler[key] * unit) - found['begin'])
    if 'milestones' in scheduler:
        found['milestones'] = [place(milestone * unit) for milestone in scheduler['milestones']]
    if 'step_size' in scheduler:
        found['step_size'] = max(1, round(scheduler['step_size'] * unit * factor))
    if 'periods' in scheduler:
        found['periods'] = [max(1, round(period * unit * factor)) for period in scheduler['periods']]
    if scheduler['type'].startswith('Exponential'):
        found['gamma'] = scheduler['gamma'] ** (1 / (unit * factor))
    return found


def _rescale_average(hook, iterations, epochs):
    """Let an average of the weights begin and reach back as far of the training as before, so many times as long."""
    if 'begin_iter' in hook:
        hook['begin_iter'] = round(hook['begin_iter'] * iterations)
    if 'begin_epoch' in hook:
        hook['begin_epoch'] = round(hook['begin_epoch'] * epochs)
    average = MODELS.get(hook.get('ema_type', 'ExponentialMovingAverage'))
    defaults = signature(average).parameters if average else {}  # MMEngine says of an unknown one
    for key in ('momentum', 'gamma'):
        if key in defaults:
            hook.setdefault(key, defaults[key].default)
    if 'momentum' in hook:
        hook['momentum'] = min(_LARGEST_MOMENTUM, hook['momentum'] / iterations)
    if 'gamma' in hook:
        hook['gamma'] = max(1, round(hook['gamma'] * iterations))


def _rescaled_plateau(scheduler, validations, epochs):
    """A plateau for so many times as many validations, which it waits for, and epochs, in which it is at work."""
    found = dict(scheduler)
    for key in ('patience', 'cooldown'):
        if scheduler.get(key):
            found[key] = max(1, round(scheduler[key] * validations))
    begin = round(scheduler.get('begin', 0) * epochs)
    if 'begin' in scheduler:
        found['begin'] = begin
    if 'end' in scheduler:
        found['end'] = max(begin + 1, round(scheduler['end'] * epochs))
    return found
