"""What a comparison of models says, column by column, for its tables in a terminal, in Markdown and on a page."""
from dataclasses import dataclass

import numpy as np

from cellseg_mm.evaluation.evaluate import SAME_IMAGES
from cellseg_mm.evaluation.uncertainty import FEW_GROUPS, holm
from cellseg_mm.visualization.charts import is_known
from cellseg_mm.visualization.page import number

SIGNIFICANT = 0.05
MAIN = 'AP50_dense'
_QUALITY = {MAIN: 'AP50 dense cap', 'AP50_cap100': 'AP50 cap 100', 'AP_dense': 'AP', 'bPQ': 'bPQ', 'mPQ': 'mPQ',
            'F1': 'F1'}
_WITH_INTERVAL = MAIN, 'AP50_cap100'


@dataclass(frozen=True)
class Column:
    """A figure of each of N models.

    Attributes:
        title (str): Its heading.
        values (list[float | None]): N of them, None where unknown.
        texts (list[str]): The same as a reader sees them, '' where unknown.
        details (list[str]): What stands in small print beside each, such as '[0.412, 0.508]'.
        better (int): 1 where higher is better, -1 where lower is, 0 where neither.
        with_previous (bool): Whether it belongs in one line with the column before.
    """

    title: str
    values: list
    texts: list
    details: list
    better: int = 0
    with_previous: bool = False

    @property
    def best(self):
        """Of each, a bool: whether it is the best, as far as decimals show; of none where all are alike."""
        shown = {text: value for text, value in zip(self.texts, self.values, strict=True) if text}
        if not self.better or len(shown) < 2:
            return [False] * len(self.texts)
        top = max(shown, key=lambda text: self.better * shown[text])
        return [text == top for text in self.texts]


def quality_columns(comparison):
    """How good the models are: AP, PQ, F1, how AP50 differs from that of the first one, AP50 of each class.

    Args:
        comparison (dict): Of several models, with its `rows`.

    Returns:
        list[Column]: Columns in which all is unknown are left out, but for that of AP50.
    """
    rows, classes = comparison['rows'], comparison['classes']
    columns = [_quality(rows, key, title, key in _WITH_INTERVAL) for key, title in _QUALITY.items()]
    if any(row.get('versus_first') for row in rows):
        columns += _differences(rows)
    if len(classes) > 1:
        columns += [_quality(rows, f'{MAIN}/{name}', f'AP50 {name}', interval=False) for name in classes]
    return columns[:1] + [column for column in columns[1:] if any(column.texts)]


def cost_columns(comparison):
    """What the models cost: size, time and memory.

    Args:
        comparison (dict): Of several models, with its `rows`.

    Returns:
        list[Column]: Columns in which all is unknown are left out.
    """
    costs, trainings = ([row.get(key) or {} for row in comparison['rows']] for key in ('cost', 'training'))
    sizes = ['x'.join(map(str, cost['input_size'])) if is_known(cost.get('gflops')) and cost.get('input_size') else ''
             for cost in costs]
    one_size = len(set(filter(None, sizes))) == 1
    devices = [str(cost.get('device') or '') for cost in costs]
    several = len(set(filter(None, devices))) > 1
    memories = [training.get('peak_memory_mb') or {} for training in trainings]
    on_gpu = [is_known(memory.get('gpu')) for memory in memories]
    columns = [
        _column('parameters (M)', [_scaled(cost.get('parameters'), 1e6) for cost in costs], 2, -1),
        _column('GFLOPs' + (f' at {max(sizes)}' if one_size else ''), [cost.get('gflops') for cost in costs], 1, -1,
                None if one_size else [size and f'at {size}' for size in sizes]),
        _column('images/s', [cost.get('images_per_second') for cost in costs], 2, 1,
                [f'on {device}' if several and device else '' for device in devices]),
        _column('prediction memory (GB)', [_scaled(cost.get('peak_memory_mb'), 1000) for cost in costs], 2, -1),
        _column('iterations', [training.get('iterations') for training in trainings]),
        _column('training (min)', [_scaled(training.get('seconds'), 60) for training in trainings], 1,
                with_previous=True),
        _column('training memory (GB)', [_scaled(memory.get('gpu' if gpu else 'cpu'), 1000) for memory, gpu
                                         in zip(memories, on_gpu, strict=True)], 2, -1,
                ['GPU' if gpu else '' for gpu in on_gpu], with_previous=True)]
    return [column for column in columns if any(column.texts)]


def adjusted_p(rows, figure=MAIN):
    """Of each row `holm` of its p value of a figure against the first row, across rows."""
    return holm([_versus(row, figure).get('p') for row in rows])


def is_significant(p):
    """Whether an adjusted p value is known and below `SIGNIFICANT`."""
    return is_known(p) and p < SIGNIFICANT


def metric(row, key):
    """A row's metric; None where it is unknown."""
    return _known((_evaluation(row).get('metrics') or {}).get(key))


def bounds(row, key):
    """(low, high) of a row's 95% interval; (None, None) where it is unknown."""
    return _ends((_evaluation(row).get('intervals') or {}).get(key))


def interval_text(ends, sign=''):
    """'[0.412, 0.508]', with `sign` '+' as '[-0.021, +0.043]'; '' where an end is unknown."""
    return '[{:{sign}.3f}, {:{sign}.3f}]'.format(*ends, sign=sign) if None not in _ends(ends) else ''


def notes(comparison):
    """Sentences that a reader of the figures has to know.

    Args:
        comparison (dict): Of several models.

    Returns:
        list[str]: Plain text.
    """
    rows, groups, images = comparison['rows'], comparison.get('groups'), comparison.get('images')
    evaluations = [row['evaluation'] for row in rows if row.get('evaluation')]
    found = []
    if comparison.get('class_agnostic'):
        found.append('Class-agnostic: all cells count as of one class, whatever class they are of. Of a cell that a '
                     'model predicts as of two classes, one is wrong.')
    found.append(f'AP50 and AP are of masks; the dense cap is {comparison.get("max_dets", "the")} detections for each '
                 'image and class; AP is at the dense cap. bPQ and F1 take all classes for one, mPQ is the mean over '
                 "classes; these three are at the model's score thresholds.")
    if any(evaluation.get('thresholds_from') == SAME_IMAGES for evaluation in evaluations):
        found.append('Score thresholds that were chosen on these same images flatter bPQ, mPQ and F1 a little.')
    if groups == 1:
        found.append('There are no intervals, and no test can come out, since all images are of one group.')
    elif any(None not in bounds(row, MAIN) for row in rows):
        what = 'images, each a group of its own' if groups == images else 'groups of images'
        few = ', which is few: take them for too narrow' if groups and groups < FEW_GROUPS else ''
        found.append(f'In brackets 95% intervals, from resampling {groups} {what}{few}.')
    if any(is_known((row.get('cost') or {}).get('gflops')) for row in rows):
        found.append('GFLOPs: 10^9 multiply-adds for one image of the size given.')
    tests = sum(p is not None for p in adjusted_p(rows))
    if tests:
        # Of all swaps of groups, two make as large a difference as that observed: itself and its opposite.
        least = 2 / 2**(groups or 1)
        if groups != 1 and least * tests >= SIGNIFICANT:
            found.append(f'{groups} groups are too few for any test to come out: p cannot be below {least:.3g}.')
        many = f" after Holm's correction for {tests} tests" if tests > 1 else ''
        found.append(f'p: paired test against the first row, predictions swapped group by group. *: AP50 differs from '
                     f'that of the first row by more than chance, p < {SIGNIFICANT}{many}.')
    return found


def title_of(row):
    """A row's name as one line."""
    return ' '.join(str(row['name']).split())


def shortened(text, width):
    """A text of at most so many characters, its middle left out, since names differ at their ends."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f'{text[:width - 1 - tail]}…{text[len(text) - tail:]}'


def _quality(rows, key, title, interval):
    return _column(title, [metric(row, key) for row in rows], 3, 1,
                   [interval_text(bounds(row, key)) if interval else '' for row in rows])


def _differences(rows):
    versus = [_versus(row, MAIN) for row in rows]
    differences, p_values = ([_known(one.get(key)) for one in versus] for key in ('difference', 'p'))
    marks = ['*' if is_significant(p) else '' for p in adjusted_p(rows)]
    return [
        Column('AP50 vs. first', differences, ['' if d is None else f'{d:+.3f}' for d in differences],
               [interval_text(one.get('interval'), '+') for one in versus]),
        Column('p', p_values, [p_text(p) + mark for p, mark in zip(p_values, marks, strict=True)], [''] * len(rows),
               with_previous=True)]


def p_text(p):
    """'0.0123', '<0.0001'; '' where unknown."""
    return '' if not is_known(p) else f'{p:.4f}' if p >= 0.0001 else '<0.0001'


def _versus(row, figure):
    return (row.get('versus_first') or {}).get(figure) or {}


def _column(title, values, decimals=0, better=0, details=None, with_previous=False):
    values = [_known(value) for value in values]
    texts = ['' if value is None else number(value, decimals) for value in values]
    return Column(title, values, texts, details or [''] * len(values), better, with_previous)


def _evaluation(row):
    return row.get('evaluation') or {}


def _known(value):
    return value if is_known(value) else None


def _scaled(value, unit):
    return value / unit if is_known(value) else None


def _ends(pair):
    return tuple(map(_known, pair)) if isinstance(pair, (list, tuple, np.ndarray)) and len(pair) == 2 else (None, None)
