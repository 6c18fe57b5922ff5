"""Whether the learning rate fits the optimizer and the batch, and its schedule the length of the training."""
import os

from torch.nn import MultiheadAttention

from cellseg_mm.engine.budget import own_iterations
from cellseg_mm.engine.config_checks.finding import note, warning
from cellseg_mm.engine.config_checks.subject import listed

# MMDetection's rule for SGD: 0.02 for 16 images, in proportion to others (docs, "Learning rate automatically scale").
_SGD_RATE = 0.02 / 16
_ADAM_RATE = 5e-3  # above all that MMDetection trains with: RTMDet's 0.004


def check(subject):
    """Yield findings."""
    config = subject.config
    if not config.get('train_dataloader') or not config.get('optim_wrapper'):
        return
    processes = int(os.environ.get('WORLD_SIZE', '1'))
    yield from _rate(config, (config.train_dataloader.get('batch_size') or 1) * processes * config.optim_wrapper.get(
        'accumulative_counts', 1))
    yield from _clipping(subject)
    yield from _lengths(config, subject.cells, processes)


def _rate(config, batch):
    optimizer = config.optim_wrapper.get('optimizer') or {}
    rate, kind = optimizer.get('lr'), optimizer.get('type')
    place = 'optim_wrapper.optimizer.lr'
    scaling = config.get('auto_scale_lr') or {}
    base = scaling.get('base_batch_size')
    if base and scaling.get('enable') and isinstance(rate, (int, float)):
        rate *= batch / base
    if isinstance(rate, (int, float)):
        if kind == 'SGD' and optimizer.get('momentum', 0) >= 0.9 and rate > 2 * _SGD_RATE * batch:
            yield warning(place, f"is {rate:g} for batches of {batch}, and MMDetection's rule says "
                          f'{_SGD_RATE * batch:g}: the loss may diverge', f'set lr={_SGD_RATE * batch:g}')
        if kind in ('Adam', 'AdamW') and rate > _ADAM_RATE:
            yield warning(place, f'is {rate:g}, much for {kind}: the loss may diverge', 'set lr=0.0001 to 0.0005')
    if base and not scaling.get('enable') and not 0.5 <= batch / base <= 2:
        yield note(place, f'was set for batches of {base} (auto_scale_lr.base_batch_size), and these are of '
                   f'{batch}', 'train with --auto-scale-lr')


def _clipping(subject):
    if subject.config.optim_wrapper.get('clip_grad') or subject.model is None:
        return
    if any(isinstance(module, MultiheadAttention) and not name.startswith('backbone')
           for name, module in subject.model.named_modules()):
        yield warning('optim_wrapper.clip_grad', 'is not set, and a model with attention in its heads '
                      'diverges easily', 'set clip_grad=dict(max_norm=0.1)')


def _lengths(config, cells, processes):
    epochs = config.train_cfg.get('max_epochs')
    if not epochs:
        return
    schedulers = listed(config.get('param_scheduler'))
    several = isinstance(config.get('param_scheduler'), (list, tuple))
    steps = None
    if cells is not None and not all(scheduler.get('by_epoch', True) for scheduler in schedulers):
        steps = own_iterations(config, processes)[0]
    for number, scheduler in enumerate(schedulers):
        place = f'param_scheduler[{number}]' if several else 'param_scheduler'
        by_epoch = scheduler.get('by_epoch', True)
        length, unit = (epochs, 'epochs') if by_epoch else (steps, 'iterations')
        if not length:
            continue
        late = [milestone for milestone in listed(scheduler.get('milestones')) if milestone >= length]
        if late:
            yield warning(f'{place}.milestones', f'has {", ".join(map(str, late))}, and the training ends '
                          f'after {length:,} {unit}: never reached', 'set earlier ones')
        if scheduler.get('begin', 0) >= length:
            yield warning(f'{place}.begin', f'is {scheduler.begin}, and the training ends after {length:,} '
                          f'{unit}: it never begins', 'set an earlier one')
        elif scheduler.get('type') == 'LinearLR' and scheduler.get('end', 0) >= length and scheduler.get(
                'start_factor', 1 / 3) < 1:
            yield warning(f'{place}.end', f'is {scheduler.end}, and the training ends after {length:,} '
                          f'{unit}: the rate never warms up', f'set end={max(1, length // 10)}')
        if scheduler.get('type') == 'CosineAnnealingLR' and scheduler.get('T_max', length) < length - scheduler.get(
                'begin', 0) and scheduler.get('end', length) >= length:
            yield warning(f'{place}.T_max', f'is {scheduler.T_max} of {length:,} {unit}: the rate rises again '
                          'thereafter', 'leave T_max out, so that it spans the training')
