"""The report of a training: one HTML page of what its work directory holds."""
from datetime import datetime
from itertools import chain
from pathlib import Path

import numpy as np
from markupsafe import Markup

from cellseg_mm.errors import CellDataError
from cellseg_mm.evaluation.coco_ap import FIGURES, SIZES
from cellseg_mm.evaluation.confusion import judge
from cellseg_mm.evaluation.evaluate import SAME_IMAGES
from cellseg_mm.evaluation.uncertainty import FEW_GROUPS
from cellseg_mm.io.files import write_text
from cellseg_mm.io.image import read_annotated_image
from cellseg_mm.visualization import charts
from cellseg_mm.visualization.charts import is_known
from cellseg_mm.visualization.overlay import count_of
from cellseg_mm.visualization.page import (
    MISSING,
    Section,
    beside,
    chart,
    css_colours,
    facts,
    folded,
    join,
    number,
    paragraph,
    render_page,
    swatch,
    table,
    tiles,
)
from cellseg_mm.visualization.training_run import read_run
from cellseg_mm.visualization.viewer import ViewerImage, compared, viewer

_TILES = {'AP50_dense': 'AP50, dense cap', 'AP50_cap100': 'AP50, cap 100', 'AP_dense': 'AP, dense cap',
          'bPQ': 'PQ, any class', 'AJI': 'AJI, any class', 'F1': 'F1, any class'}
_OF_IMAGES = 'AP50', 'PQ', 'AJI', 'Dice', 'F1'
_ERRORS = {
    'classification': 'The mask is on a cell (IoU 0.5 or more), but the class is wrong.',
    'localisation': 'The class is right, but the mask fits the cell badly (IoU 0.1 to 0.5).',
    'both': 'Wrong class, and a mask that fits badly.',
    'duplicate': 'The cell was found already, by a prediction of a higher score.',
    'background': 'There is no cell (IoU 0.1 or less with any).',
    'missed': 'A true cell that no prediction found, not even badly or as another class.',
}
_BEST, _WORST = 3, 4  # how many images are shown
_ENOUGH_CELLS = 10  # in an image of fewer, one cell decides AP50
_MANY_CLASSES = 8  # more take the page's whole width for their matrix
_LEVEL = 0.02  # a validation loss within this share of its minimum has not risen


def write_report(work_dir, path=None):
    """Write the report of a training: figures, curves, errors, images and how they came about, in one HTML file.

    Args:
        work_dir (str | Path): The training's work directory. What is missing in it is left out or named in the report.
        path (str | Path | None): The file to write; `report.html` in `work_dir` by default.

    Returns:
        Path: The file.

    Raises:
        UserError: If there is neither a training log nor an evaluation in it.
        CellDataError: If a file of it is broken.
    """
    run = read_run(work_dir)
    path = Path(path or run.work_dir / 'report.html')
    name = run.config_path.stem if run.config_path else run.work_dir.resolve().name
    sections = (make(run) for make in (_glance, _training, _classes, _curves_and_errors, _sizes, _images, _about))
    write_text(path, render_page(f'Training report: {name}', _subtitle(run), list(filter(None, sections))))
    return path


def _subtitle(run):
    parts = []
    if run.evaluation:
        parts.append(f'validated on {count_of(run.evaluation.get("images") or 0, "image")}')
    if run.best_epoch is not None:
        parts.append(f'best {run.history.unit if run.history else "epoch"} {run.best_epoch}')
    if run.record.get('started'):
        parts.append(f'started {_date(run.record["started"])}')
    return ' · '.join(parts)


def _glance(run):
    if run.evaluation is None:
        steps = {key: xy for key, xy in run.history.scores.items() if run.best_epoch in xy[0]}
        figures = {key: y[x.index(run.best_epoch)] for key, (x, y) in steps.items()}
        note = ('There is no evaluation of the best epoch yet; this is what was logged while training.' if figures else
                'No validation has been logged yet.')
        return Section('At a glance', tiles(_tiles(figures, {})), note)
    metrics, intervals = (run.evaluation.get(key) or {} for key in ('metrics', 'intervals'))
    every = table(['figure', 'value', '95% interval'],
                  [[key, value, _interval(intervals.get(key))] for key, value in metrics.items()])
    return Section('At a glance', join(tiles(_tiles(metrics, intervals)), paragraph(_evidence(run)),
                                       folded('All figures', every)))


def _tiles(metrics, intervals):
    bounds = {key: _interval(intervals.get(key)) for key in _TILES}
    return [(name, number(metrics[key]), f'95%: {bounds[key]}' if bounds[key] else '')
            for key, name in _TILES.items() if key in metrics]


def _interval(bounds):
    return f'{bounds[0]:.3f} to {bounds[1]:.3f}' if bounds and all(map(is_known, bounds)) else ''


def _evidence(run):
    images, groups, cells = (run.evaluation.get(key) or 0 for key in ('images', 'groups', 'cells'))
    if not cells:
        return f'There is no true cell in the {count_of(images, "validation image")}: nothing could be scored.'
    checkpoint = run.evaluation.get('checkpoint')
    best = f'best_epoch_{run.best_epoch}.pth'
    views = ', '.join(run.evaluation.get('views') or [])
    text = (f'These figures of {checkpoint or "a checkpoint that is not known"}'
            f'{f" with test-time augmentation ({views})" if views else ""} rest on '
            f'{count_of(images, "validation image")} in {count_of(groups, "group")} with '
            f'{count_of(cells, "true cell")}.')
    if run.best_epoch is not None and checkpoint != best:
        text += f' They are not known to be of the best checkpoint, {best}.' if checkpoint is None else (
            f' They are not those of the best checkpoint, {best}.')
    if groups == 1:
        text += ' They have no intervals, since images of one group do not tell how others would differ.'
    elif run.evaluation.get('intervals'):
        text += (' The 95% intervals come from drawing whole groups anew, since images of one group are alike; a '
                 'difference smaller than they are wide may be chance.')
        if groups < FEW_GROUPS:
            text += ' With so few groups take them for too narrow.'
    source = run.evaluation.get('thresholds_from') or ''
    # Thresholds beside a checkpoint of this training are those of its validation images too.
    own = source == SAME_IMAGES or (run.work_dir / source).is_file()
    if source and not own:
        text += f' The score thresholds are those of {source}.'
    chosen = ['the best epoch'] * (checkpoint == best) + ['the score thresholds'] * own
    if chosen:
        text += (f' On these same images {" and ".join(chosen)} {"were" if own else "was"} chosen: expect a little '
                 'less of new ones.')
    return text


def _training(run):
    history = run.history
    if history is None:
        return None
    best, unit = run.best_epoch, history.unit
    total, validation = history.training.get(''), history.validation.get('')
    drawn = []
    if total or validation:
        drawn.append(charts.losses(total, validation, unit, best))
    if any(name.startswith('AP50') for name in history.scores):
        drawn.append(charts.ap50(history.scores, run.classes, unit, best))
    parts, validation_parts = ({name: xy for name, xy in losses.items() if name}
                               for losses in (history.training, history.validation))
    if parts or validation_parts:
        drawn.append(charts.loss_parts(parts, validation_parts, unit))
    if history.rate[0]:
        drawn.append(charts.learning_rate(*history.rate))
    return Section(
        'Training', join(paragraph(f'{loss_verdict(total, validation, unit)} {_best_ap50(history)}'),
                         beside(*map(chart, drawn))),
        'Drag over a chart to zoom in, double-click to zoom out; click a name below it to hide its line.')


def loss_verdict(training, validation, unit='epoch'):
    """Whether the validation loss says that the training overfitted, in a sentence.

    Args:
        training (tuple | None): (x, y) of the training loss, lists of finite numbers.
        validation (tuple | None): The same of the validation loss.
        unit (str): What x counts.

    Returns:
        str: Text.
    """
    if not validation:
        return 'No validation loss was logged, so the losses cannot tell whether the training overfitted.'
    steps, losses = validation
    if len(losses) == 1:
        return f'Validation loss was {losses[0]:.3f} after the only {unit} so far: too few to see a trend.'
    least = int(np.argmin(losses))
    where = f'at {unit} {steps[least]} ({losses[least]:.3f})'
    if least == len(losses) - 1:
        return (f'Validation loss was least {where}, the last one: it still fell, nothing speaks of overfitting, and a '
                'longer training may do better.')
    if losses[-1] - losses[least] < _LEVEL * abs(losses[least]):
        return f'Validation loss was least {where} and has stayed level since: no clear sign of overfitting.'
    text = f'Validation loss was least {where} and has risen to {losses[-1]:.3f} since'
    before = [y for x, y in zip(*(training or ((), ())), strict=True) if x <= steps[least]]
    if not before:
        return f'{text}.'
    if training[1][-1] < before[-1] and least == len(losses) - 2:
        return (f'{text}, while training loss fell from {before[-1]:.3f} to {training[1][-1]:.3f}: overfitting may '
                f'have begun, or one {unit} is worse by chance.')
    if training[1][-1] < before[-1]:
        return (f'{text}, while training loss fell from {before[-1]:.3f} to {training[1][-1]:.3f}: judged by loss, the '
                'training overfitted from there on.')
    return f'{text}, but training loss has not fallen either: rather an unsteady training than overfitting.'


def _best_ap50(history):
    steps, scores = history.scores.get('AP50_dense', ((), ()))
    if not steps:
        return 'AP50 has not been validated yet.'
    best = int(np.argmax(scores))
    text = f'AP50 at the dense cap was best at {history.unit} {steps[best]} ({scores[best]:.3f})'
    validation = history.validation.get('')
    if validation and steps[best] > validation[0][int(np.argmin(validation[1]))]:
        text += ', later than the least validation loss'
    return f'{text}.'


def _classes(run):
    found = run.evaluation
    if not found or not run.classes:
        return None
    metrics, intervals, thresholds = (found.get(key) or {} for key in ('metrics', 'intervals', 'thresholds'))
    matrix = np.array(found.get('confusion') or np.zeros((len(run.classes) + 1, ) * 2, int))
    true, predicted = matrix[:-1].sum(1), matrix[:, :-1].sum(0)

    def row(label, cells, predictions, suffix, pq, threshold):
        bounds = intervals.get(f'AP50_dense{suffix}')
        return [label, int(cells), int(predictions), metrics.get(f'AP50_dense{suffix}'),
                (bounds[0] if bounds else None, _interval(bounds) or MISSING), metrics.get(f'AP50_cap100{suffix}'),
                metrics.get(f'AP_dense{suffix}'), metrics.get(pq),
                *(metrics.get(f'{name}{suffix}') for name in ('F1', 'precision', 'recall')), threshold]

    rows = [row(swatch(colour, name), *counts, f'/{name}', f'PQ/{name}', thresholds.get(name)) for name, colour, *counts
            in zip(run.classes, css_colours(len(run.classes)), true, predicted, strict=True)]
    rows.append(row(Markup('<b>all</b>'), true.sum(), predicted.sum(), '', 'mPQ', None))
    body = table(['class', 'true cells', 'predicted', 'AP50 dense', '95% interval', 'AP50 cap 100', 'AP dense', 'PQ',
                  'F1', 'precision', 'recall', 'threshold'], rows)
    if matrix.any():
        place = beside if len(run.classes) <= _MANY_CLASSES else join
        body = join(body, place(*(chart(draw(matrix, run.classes)) for draw in (charts.confusion, charts.fates))))
    return Section(
        'Classes', body, 'AP regards all predictions. All else regards those of a score at or above the threshold of '
        'their class, matched at a mask IoU above 0.5. In the last row AP is the mean of the classes; PQ is mPQ, '
        'their mean image by image; F1, precision and recall are of cells of any class.')


def _curves_and_errors(run):
    found = run.evaluation
    if not found or not found.get('cells'):
        return None
    calibration_error, costs = (found.get('metrics') or {}).get('ECE'), found.get('errors') or {}
    parts, curves = [], []
    if found.get('precision_recall'):
        curves.append(charts.precision_recall(found['precision_recall'], found.get('metrics') or {}))
    if any((found.get('calibration') or {}).get('count') or ()):
        curves.append(charts.calibration(found['calibration']))
    if curves:
        parts.append(beside(*map(chart, curves)))
    if is_known(calibration_error):
        parts.append(paragraph('Calibration: below the dotted line the model is surer than it is right. On average '
                               f'score and share lie {calibration_error:.3f} apart (expected calibration error).'))
    if any(map(is_known, costs.values())):
        explained = table(['error', 'AP50 lost', 'what it is'],
                          [[name, costs[name], text] for name, text in _ERRORS.items() if name in costs])
        note = paragraph('Each type costs what AP50 at the dense cap would gain if it alone were mended; the costs do '
                         'not add up.')
        parts.append(beside(chart(charts.errors(costs)), join(explained, note)))
    return Section('Curves and errors', join(*parts)) if parts else None


def _sizes(run):
    metrics = (run.evaluation or {}).get('metrics') or {}
    pairs = [pair for pair in run.pairs.values() if len(pair.truth)]
    areas = np.concatenate([pair.truth.masks.areas for pair in pairs]) if pairs else np.zeros(0)
    rows = []
    for size, (low, high) in SIZES.items():
        if f'AP50_dense_{size}' in metrics:
            limits = (f'up to {high**.5:.0f}² px' if not low else f'from {low**.5:.0f}² px' if high >= 1e10 else
                      f'{low**.5:.0f}² to {high**.5:.0f}² px')
            cells = int(((areas >= low) & (areas < high)).sum()) if pairs else None
            rows.append([size, limits, cells, *(metrics.get(f'{name}_{cap}_{size}')
                                                for cap in ('dense', 'cap100') for name in FIGURES)])
    parts = []
    if rows:
        parts.append(table(['size', 'area of the mask', 'true cells', *(f'{name} {cap}' for cap in ('dense', 'cap 100')
                                                                        for name in FIGURES)], rows))
    if pairs:
        statuses = list(chain.from_iterable(judge(pair)[0] for pair in pairs))
        parts.append(chart(charts.found_by_size(2 * np.sqrt(areas / np.pi), statuses)))
    return Section('Sizes', join(*parts), "COCO's three sizes were made for everyday objects; cells may all be of one."
                   ) if parts else None


def _images(run):
    records = (run.evaluation or {}).get('per_image')
    if not records:
        return None
    shown, parts = [], []
    for title, record in _telling(records):
        pair = run.pairs.get(record['image_id'])
        if pair is None:
            continue
        try:
            image = read_annotated_image(Path(run.config.get('data_root', ''), pair.name), (pair.height, pair.width))
        except (CellDataError, OSError) as error:
            parts.append(paragraph(f'{title} is not shown: {error}'))
            continue
        figures = ', '.join(f'{name} {number(record.get(name))}' for name in _OF_IMAGES)
        shown.append(ViewerImage(title, f'{pair.name}: {figures}', image, compared(pair), pair.mpp))
    if shown:
        parts.append(viewer(shown, run.classes))
    elif not parts:
        parts.append(paragraph(f'The images cannot be shown: {"; ".join(run.problems) or "none has cells"}.'))
    parts.append(table(
        ['image', 'group', 'true cells', 'predicted', *_OF_IMAGES],
        [[str(record.get('name')), str(record.get('group')), record.get('cells'), record.get('predictions'),
          *map(record.get, _OF_IMAGES)] for record in records],
        f'{count_of(len(records), "image")}, sorted at a click on a heading', sortable=True))
    return Section('Images', join(*parts), 'The best and the worst images by AP50, then PQ, of those with '
                   f'{_ENOUGH_CELLS} true cells or more, where there are enough of them. Predictions are those of a '
                   'score at or above the threshold of their class. AP50 is the mean of the classes at the dense cap; '
                   'PQ, AJI, Dice and F1 take all classes for one.')


def _telling(records):
    """(title, record) of the best and the worst images."""
    with_cells = [record for record in records if record.get('cells')]
    many = [record for record in with_cells if record['cells'] >= _ENOUGH_CELLS]
    ranked = sorted(many if len(many) >= _BEST + _WORST else with_cells, key=lambda record: [
        record[name] if is_known(record.get(name)) else -1 for name in ('AP50', 'PQ')])
    worst = ranked[:min(_WORST, (len(ranked) + 1) // 2)]
    best = ranked[len(worst):][::-1][:_BEST]
    return [(f'{word} {rank}', record) for word, chosen in (('Best', best), ('Worst', worst))
            for rank, record in enumerate(chosen, 1)]


def _about(run):
    told = run.record
    data, hardware, memory = (told.get(key) or {} for key in ('data', 'hardware', 'peak_memory_mb'))
    machine = [hardware.get('processor'), _count(hardware, 'cores', 'core'),
               _gigabytes(hardware, 'memory_gb', 1, 'memory'),
               ', '.join(hardware.get('gpus') or ['no GPU'])] if hardware else []
    rows = {
        'Command': told.get('command'),
        'Started': _date(told['started']) if told.get('started') else None,
        'Training time': _duration(told['seconds']) if is_known(told.get('seconds')) else None,
        'Epochs': told.get('epochs'),
        'Seed': told.get('seed'),
        'Parameters': number(told['parameters']) if is_known(told.get('parameters')) else None,
        'Hardware': ', '.join(filter(None, machine)),
        'Processes': told.get('processes'),
        'Peak memory': ', '.join(filter(None, (_gigabytes(memory, 'cpu', 1000, 'main memory'),
                                               _gigabytes(memory, 'gpu', 1000, 'GPU memory')))),
        'Versions': ', '.join(f'{name} {version}' for name, version in (told.get('versions') or {}).items()),
        'Data': data.get('root') or run.config.get('data_root'),
        'Training data': _images_and_cells(data, 'train'),
        'Validation data': _images_and_cells(data, 'val'),
        'Grouping': data.get('grouping'),
        'Dense cap': (run.evaluation or {}).get('max_dets') or run.config.get('max_dets'),
    }
    parts = [facts([(name, str(text)) for name, text in rows.items() if text not in (None, '')])]
    if run.config_path:
        text = run.config_path.read_text(encoding='utf-8', errors='replace')
        parts.append(folded(f'Config: {run.config_path.name}', Markup('<pre>{}</pre>').format(text)))
    notes = [] if told else ['there is no run.json, which would tell of time, memory, hardware and versions']
    return Section('The run', join(*parts), ' '.join(f'{text[0].upper()}{text[1:]}.' for text in notes + run.problems))


def _date(text):
    try:
        return f'{datetime.fromisoformat(text):%d %B %Y, %H:%M %Z}'.strip().lstrip('0')
    except (TypeError, ValueError):
        return str(text)


def _duration(seconds):
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f'{minutes // 60} h {minutes % 60:02} min'
    return f'{minutes} min' if minutes else f'{seconds:.0f} s'


def _count(record, key, noun):
    return count_of(record[key], noun) if is_known(record.get(key)) else None


def _gigabytes(record, key, per_gb, noun):
    return f'{record[key] / per_gb:.1f} GB {noun}' if is_known(record.get(key)) else None


def _images_and_cells(data, split):
    return ', '.join(filter(None, (_count(data, f'{split}_{noun}s', noun) for noun in ('image', 'cell'))))
