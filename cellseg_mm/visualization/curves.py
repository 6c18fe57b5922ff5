"""Curves of a training run: losses, AP50 and learning rate, from the log that MMEngine keeps in its work directory."""
import json
import math
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cellseg_mm.errors import UserError
from cellseg_mm.io.files import atomic_path
from cellseg_mm.visualization.overlay import LINE_COLOURS, class_colours

_INK, _GREY, _LIGHT = '#222222', '#777777', '#dddddd'
_FAINT, _VALIDATION, _DASHED = '#bbbbbb', '#d55e00', (0, (3, 1.5))
_MAX_MARKS = 8


def read_log(work_dir):
    """Read what MMEngine logged under `work_dir`, the runs of a resumed training joined.

    A later run wins from the epoch it starts with (from the iteration, where the loop counts no epochs): what an
    earlier one logged from there on is left out. A run that trained nothing, such as a test, is no part of it.

    Args:
        work_dir (str | Path): The folder with `<timestamp>/vis_data/scalars.json`.

    Returns:
        tuple[list[dict], list[dict]]: Training records (`step` counts iterations from 1) and validation records
        (`step` is the epoch, or the iteration), each in order.

    Raises:
        UserError: If nothing has been logged there.
    """
    training, validation = [], []
    for run in _runs(work_dir):
        trained = [record for record in run if 'loss' in record]
        if trained:
            start = _position(trained[0])
            training = [record for record in training if _position(record) < start] + trained
            validation = [record for record in validation if record['step'] < start]
            validation += [record for record in run if _ap50(record)]
    if not training:
        raise UserError(f'{work_dir}: there is no training log (*/vis_data/scalars.json); name the work directory of a '
                        'training that got as far as its first loss')
    return training, validation


def read_epochs(work_dir):
    """Read the losses that `EpochLossHook` logged once an epoch, the runs of a resumed training joined.

    Args:
        work_dir (str | Path): The folder with `<timestamp>/vis_data/scalars.json`.

    Returns:
        list[dict]: Records in order, `step` being the epoch, with `epoch/train_loss`, `epoch/val_loss` (absent where it
        could not be computed) and their parts, such as `epoch/val_loss_cls`. Empty for logs without them.
    """
    epochs = []
    for run in _runs(work_dir):
        logged = [record for record in run if 'epoch/train_loss' in record]
        start = min((_position(record) for record in run if 'loss' in record), default=math.inf)
        epochs = [record for record in epochs if record['step'] < start] + logged
    return epochs


def _runs(work_dir):
    """Yield the records of each run, in order of time."""
    for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        yield [record for record in map(_parse, path.read_text(encoding='utf-8').splitlines()) if record]


def _parse(line):
    # A run that was killed may leave half a line.
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) and 'step' in record else None


def _position(record):
    return record.get('epoch', record['step'])


def _ap50(record):
    """AP50 values of a validation record by (cap, class), class '' for the mean; NaN, a class without cells, left out.

    The keys end in `AP50_<cap>` or `AP50_<cap>/<class>`, whatever the metric's prefix.
    """
    values = {}
    for key, value in record.items():
        _, found, tail = f'/{key}'.partition('/AP50_')
        if found and isinstance(value, (int, float)) and math.isfinite(value):
            cap, _, name = tail.partition('/')
            values[cap, name] = value
    return values


def iterations_per_epoch(training):
    """How many iterations an epoch has; one that the training ends with may have fewer.

    Args:
        training (list[dict]): Records of `read_log`, all with their `epoch`.

    Returns:
        float: As well as the log shows it.
    """
    first = {}
    for record in training:
        first.setdefault(record['epoch'], record['step'])
    epochs, steps = list(first), list(first.values())
    if len(epochs) > 1:
        # Every epoch but a short one logs first after the same number of iterations.
        return float(np.median(np.diff(steps) / np.diff(epochs)))
    return max(record['step'] for record in training) / epochs[0]


def plot_curves(work_dir, path):
    """Plot a training's losses beside those of validation, its AP50 at both detection caps, and its learning rate.

    Args:
        work_dir (str | Path): The training's work directory.
        path (str | Path): The PNG to write.

    Raises:
        UserError: If nothing has been logged there.
    """
    training, validation = read_log(work_dir)
    epochs = read_epochs(work_dir)
    by_epoch = all('epoch' in record for record in training)
    unit = iterations_per_epoch(training) if by_epoch else 1
    figure = Figure(figsize=(14, 9.6), dpi=130, facecolor='white')
    FigureCanvasAgg(figure)
    (losses, scores), (parts, rates) = figure.subplots(2, 2, gridspec_kw={'wspace': 0.5, 'hspace': 0.42})
    iterations = np.array([record['step'] for record in training]) / unit
    _plot_losses(losses, iterations, training, epochs)
    _plot_ap50(scores, validation, 'epoch' if by_epoch else 'iteration')
    _plot_parts(parts, iterations, training, epochs)
    _plot_rates(rates, iterations, training)
    end = max([iterations[-1], *(record['step'] for record in validation)])
    drops = _rate_drops(iterations, training)
    for axes, title in ((losses, 'Loss'), (scores, 'Validation AP50'), (parts, 'Parts of the loss'),
                        (rates, 'Learning rate')):
        axes.set_title(title, loc='left', fontsize=13, fontweight='bold', color=_INK, pad=20)
        axes.set_xlabel('epoch' if by_epoch else 'iteration', color=_INK)
        axes.set_xlim(0, end)
        axes.tick_params(colors=_GREY)
        axes.spines[['top', 'right']].set_visible(False)
        axes.spines[['left', 'bottom']].set_color(_GREY)
        axes.grid(axis='y', color=_LIGHT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if axes.get_yscale() == 'linear':
            axes.yaxis.set_major_locator(MaxNLocator(5))
        written = -end
        for x, rate in drops if axes is not rates else ():
            axes.axvline(x, color=_GREY, linewidth=0.8, linestyle=(0, (1, 3)), zorder=0)
            if x - written > 0.13 * end:
                axes.annotate(f'lr {rate:.2g}', (x, 1), (0, 3), ('data', 'axes fraction'), 'offset points', ha='center',
                              fontsize=8, color=_GREY)
                written = x
    with atomic_path(path) as partial:
        figure.savefig(partial, format='png', bbox_inches='tight', pad_inches=0.25)


def _rate_drops(iterations, training):
    """(x, new rate) wherever the learning rate falls by a step, to half or less; a smooth decline has no steps."""
    rates = [record.get('lr', math.nan) for record in training]
    steps = zip(iterations[1:], [math.nan, *rates], rates, rates[1:], strict=False)
    drops = [(x, rate) for x, earlier, before, rate in steps
             if earlier == before and 2 * rate <= before and rate < before]
    return drops if len(drops) <= _MAX_MARKS else []


def _plot_losses(axes, iterations, training, epochs):
    total = _values(training, 'loss')
    if not epochs:
        _limit_losses(axes, [total], len(total) // 20)
        _label_ends(axes, [_line(axes, iterations, total, 'training', _INK, 2.6)])
        return
    steps, means = _values(epochs, 'step'), [_values(epochs, f'epoch/{split}_loss') for split in ('train', 'val')]
    _limit_losses(axes, means, 1)
    _line(axes, iterations, total, '', _FAINT, 0.8)
    _label_ends(axes, [_line(axes, steps, mean, name, colour, 2.6, '.') for mean, name, colour in zip(
        means, ('training', 'validation'), (_INK, _VALIDATION), strict=True)])


def _plot_parts(axes, iterations, training, epochs):
    """The parts of the training loss, an epoch's means where there are any, and dashed those of the validation loss."""
    records, prefix, x = (epochs, 'epoch/train_', _values(epochs, 'step')) if epochs else (training, '', iterations)
    parts = {}
    for key in {key: None for record in records for key in record if key.startswith(prefix) and 'loss' in key}:
        values, name = _values(records, key), key.removeprefix(prefix)
        if name != 'loss' and np.isfinite(values).any():
            parts[name] = values
    largest = sorted(parts, key=lambda name: -np.nanmean(parts[name][np.isfinite(parts[name])]))[:len(LINE_COLOURS)]
    validated = {name: _values(epochs, f'epoch/val_{name}') for name in largest}
    _limit_losses(axes, [curves[name] for name in largest for curves in (parts, validated)],
                  1 if epochs else len(x) // 20)
    labels = []
    for name, colour in zip(largest, LINE_COLOURS, strict=False):
        text = name.replace('loss_', '').replace('_', ' ')
        labels.append(_line(axes, x, parts[name], text, colour, 1.3, '.' if epochs else ''))
        if epochs:
            labels.append(_line(axes, x, validated[name], f'{text}, val.', colour, 1.3, '.', _DASHED))
    _label_ends(axes, labels)
    if epochs:
        axes.set_title('dashed: validation', loc='right', fontsize=10, color=_INK, pad=20)


def _plot_rates(axes, iterations, training):
    rates = _values(training, 'lr')
    known = rates[np.isfinite(rates)]
    if not len(known):
        axes.text(0.5, 0.5, 'not logged', ha='center', va='center', transform=axes.transAxes, color=_GREY)
    # Steps to a tenth would all lie on the axis.
    elif known.min() > 0 and known.max() > 20 * known.min():
        axes.set_yscale('log')
    else:
        axes.set_ylim(0, 1.05 * known.max() or 1)
    axes.yaxis.set_major_formatter(lambda rate, _: f'{rate:.2g}')
    _line(axes, iterations, rates, '', _INK, 2)


def _values(records, key):
    return np.array([record.get(key, math.nan) for record in records], float)


def _limit_losses(axes, curves, first):
    """Let the axis hold the losses from the index `first` on; those before may be so large that all else looks flat."""
    highest, settled = (max((curve[np.isfinite(curve)].max(initial=0) for curve in part), default=0)
                        for part in (curves, [curve[first:] for curve in curves]))
    axes.set_ylim(0, 1.05 * (min(highest, 2 * settled) or highest) or 1)


def _plot_ap50(axes, validation, unit):
    values = [_ap50(record) for record in validation]
    steps = np.array([record['step'] for record in validation])
    if not values:
        axes.text(0.5, 0.5, 'no validation yet', ha='center', va='center', transform=axes.transAxes, color=_GREY)
        axes.set_ylim(0, 1)
        return

    top = max(max(value.values(), default=0) for value in values)
    axes.set_ylim(0, min(1.02, 0.2 * math.floor(top / 0.2 + 1.2)))

    def series(cap, name):
        return np.array([value.get((cap, name), math.nan) for value in values])

    classes = list({name: None for value in values for cap, name in value if cap == 'dense' and name})
    labels = []
    for name, colour in zip(classes, class_colours(len(classes)), strict=True):
        # Half of the class's colour on the overlays is too light for a line on white.
        colour = tuple(0.85 * part / 255 for part in colour[::-1])
        labels.append(_line(axes, steps, series('dense', name), name, colour, 1.3, '.'))
    labels.append(_line(axes, steps, series('cap100', ''), 'mean, cap 100', _GREY, 2, '.', _DASHED))
    mean = series('dense', '')
    labels.append(_line(axes, steps, mean, 'mean, dense cap', _INK, 2.6, '.'))
    if np.isfinite(mean).any():
        best = int(np.nanargmax(mean))
        axes.plot(steps[best], mean[best], 'o', markersize=9, markerfacecolor='white', markeredgecolor=_INK,
                  markeredgewidth=2, zorder=5, clip_on=False)
        axes.set_title(f'best {mean[best]:.3f} at {unit} {steps[best]}', loc='right', fontsize=10, color=_INK, pad=20)
    _label_ends(axes, labels)


def _line(axes, x, y, text, colour, width, marker='', style='-'):
    """Draw a line through the finite values; return (height of its end, text, colour, bold), None where it has none."""
    finite = np.isfinite(y)
    if not finite.any():
        return None
    # Marks on the edge are drawn whole.
    clip_on = not marker or y[finite].max() > axes.get_ylim()[1]
    axes.plot(x[finite], y[finite], color=colour, linewidth=width, marker=marker, linestyle=style, clip_on=clip_on)
    return y[finite][-1], text, colour, width > 2


def _label_ends(axes, labels):
    """Write each line's name and last value to the right of its end, moved apart where they would overlap."""
    labels = sorted(filter(None, labels))
    low, high = axes.get_ylim()
    gap = (high - low) * 13 / (axes.get_window_extent().height / axes.figure.dpi * 72)
    places = []
    for end, *_ in labels:
        places.append(max(min(end, high), places[-1] + gap if places else low))
    ceiling = high
    for index in reversed(range(len(places))):
        places[index] = min(places[index], ceiling)
        ceiling = places[index] - gap
    for place, (end, text, colour, bold) in zip(places, labels, strict=True):
        axes.plot((1, 1.03), (min(end, high), place), color=colour, linewidth=0.8, transform=axes.get_yaxis_transform(),
                  clip_on=False)
        axes.text(1.04, place, f'{text} {end:.2f}', va='center', fontsize=9, color=colour,
                  fontweight='bold' if bold else 'normal', transform=axes.get_yaxis_transform())
