"""Loss and AP50 curves of a training run, from the log that MMEngine keeps in its work directory."""
import json
import math
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cellseg_mm.errors import UserError
from cellseg_mm.io.files import atomic_path
from cellseg_mm.visualization.overlay import class_colours

_INK, _GREY, _LIGHT = '#222222', '#777777', '#dddddd'
_LINES = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#56b4e9', '#e69f00', '#8c6d31', '#7f7f7f')
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
    for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        run = [record for record in map(_parse, path.read_text(encoding='utf-8').splitlines()) if record]
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


def plot_curves(work_dir, path):
    """Plot a training's losses beside its AP50, at both detection caps and for each class.

    Args:
        work_dir (str | Path): The training's work directory.
        path (str | Path): The PNG to write.

    Raises:
        UserError: If nothing has been logged there.
    """
    training, validation = read_log(work_dir)
    by_epoch = all('epoch' in record for record in training)
    unit = _iterations_per_epoch(training) if by_epoch else 1
    figure = Figure(figsize=(14, 4.8), dpi=150, facecolor='white')
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, gridspec_kw={'wspace': 0.5})
    iterations = np.array([record['step'] for record in training]) / unit
    _plot_losses(left, iterations, training)
    _plot_ap50(right, validation, 'epoch' if by_epoch else 'iteration')
    end = max([iterations[-1], *(record['step'] for record in validation)])
    drops = _rate_drops(iterations, training)
    for axes, title in ((left, 'Training loss'), (right, 'Validation AP50')):
        axes.set_title(title, loc='left', fontsize=13, fontweight='bold', color=_INK, pad=20)
        axes.set_xlabel('epoch' if by_epoch else 'iteration', color=_INK)
        axes.set_xlim(0, end)
        axes.tick_params(colors=_GREY)
        axes.spines[['top', 'right']].set_visible(False)
        axes.spines[['left', 'bottom']].set_color(_GREY)
        axes.grid(axis='y', color=_LIGHT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        written = -end
        for x, rate in drops:
            axes.axvline(x, color=_GREY, linewidth=0.8, linestyle=(0, (1, 3)), zorder=0)
            if x - written > 0.13 * end:
                axes.annotate(f'lr {rate:.2g}', (x, 1), (0, 3), ('data', 'axes fraction'), 'offset points', ha='center',
                              fontsize=8, color=_GREY)
                written = x
    with atomic_path(path) as partial:
        figure.savefig(partial, format='png', bbox_inches='tight', pad_inches=0.25)


def _iterations_per_epoch(training):
    first = {}
    for record in training:
        first.setdefault(record['epoch'], record['step'])
    epochs = list(first)
    if len(epochs) > 1:
        # Every epoch logs first after the same number of iterations.
        return (first[epochs[-1]] - first[epochs[0]]) / (epochs[-1] - epochs[0])
    return max(record['step'] for record in training) / epochs[0]


def _rate_drops(iterations, training):
    """(x, new rate) wherever the learning rate falls by a step, to half or less; a smooth decline has no steps."""
    rates = [record.get('lr', math.nan) for record in training]
    steps = zip(iterations[1:], [math.nan, *rates], rates, rates[1:], strict=False)
    drops = [(x, rate) for x, earlier, before, rate in steps
             if earlier == before and 2 * rate <= before and rate < before]
    return drops if len(drops) <= _MAX_MARKS else []


def _plot_losses(axes, iterations, training):
    means = {}
    for key in {key: None for record in training for key in record if 'loss' in key and key != 'loss'}:
        values = np.array([record.get(key, math.nan) for record in training], float)
        if np.isfinite(values).any():
            means[key] = np.nanmean(values[np.isfinite(values)]), values
    largest = sorted(means, key=lambda key: -means[key][0])[:len(_LINES)]
    labels = []
    for key in largest:
        colour = _LINES[largest.index(key)]
        labels.append(_line(axes, iterations, means[key][1], key.replace('loss_', '').replace('_', ' '), colour, 1.1))
    total = np.array([record['loss'] for record in training], float)
    labels.append(_line(axes, iterations, total, 'total', _INK, 2.6))
    finite = total[np.isfinite(total)]
    # The first losses may be so large that they would press the rest flat.
    settled = finite[len(finite) // 20:].max(initial=0)
    axes.set_ylim(0, 1.05 * min(finite.max(initial=0), 1.5 * settled) or 1)
    _label_ends(axes, labels)


def _plot_ap50(axes, validation, unit):
    values = [_ap50(record) for record in validation]
    steps = np.array([record['step'] for record in validation])
    if not values:
        axes.text(0.5, 0.5, 'no validation yet', ha='center', va='center', transform=axes.transAxes, color=_GREY)
        axes.set_ylim(0, 1)
        return

    def series(cap, name):
        return np.array([value.get((cap, name), math.nan) for value in values])

    classes = list({name: None for value in values for cap, name in value if cap == 'dense' and name})
    labels = []
    for name, colour in zip(classes, class_colours(len(classes)), strict=True):
        # Half of the class's colour on the overlays is too light for a line on white.
        colour = tuple(0.85 * part / 255 for part in colour[::-1])
        labels.append(_line(axes, steps, series('dense', name), name, colour, 1.3, '.'))
    labels.append(_line(axes, steps, series('cap100', ''), 'mean, cap 100', _GREY, 2, '.', (0, (3, 1.5))))
    mean = series('dense', '')
    labels.append(_line(axes, steps, mean, 'mean, dense cap', _INK, 2.6, '.'))
    top = max(max(value.values(), default=0) for value in values)
    axes.set_ylim(0, min(1.02, 0.2 * math.floor(top / 0.2 + 1.2)))
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
    axes.plot(x[finite], y[finite], color=colour, linewidth=width, marker=marker, linestyle=style, clip_on=not marker)
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
        axes.text(1.04, place, f'{text} {end:.2f}', va='center', fontsize=9, color=_INK if bold else colour,
                  fontweight='bold' if bold else 'normal', transform=axes.get_yaxis_transform())
