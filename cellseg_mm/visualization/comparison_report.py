"""What a comparison of models leaves behind: a table for programs, one for papers, a page, and lines for a terminal."""
import csv
import io
import re
from pathlib import Path
from textwrap import wrap

from cellseg_mm.io.files import write_text
from cellseg_mm.visualization.charts import is_known
from cellseg_mm.visualization.comparison_columns import (
    MAIN,
    adjusted_p,
    cost_columns,
    notes,
    quality_columns,
    shortened,
    title_of,
)
from cellseg_mm.visualization.comparison_page import comparison_page

NAME = 'comparison'
_TERMINAL = 120  # characters a line
_NAME = 32
_FIGURES = MAIN, 'AP50_cap100', 'AP_dense', 'bPQ', 'mPQ', 'AJI', 'Dice', 'F1'


def write_comparison_report(comparison, evidences, out_dir, image_root=None):
    """Write `comparison.csv`, `comparison.md` and `comparison.html`.

    Args:
        comparison (dict): As in `comparison.json`; what is unknown may be None or NaN.
        evidences (dict[str, Evidence]): By name of the row, of those that have predictions of the same images.
        out_dir (str | Path): The folder, that of `comparison.json`.
        image_root (str | Path, optional): What names of images are relative to; without it none are shown.

    Returns:
        list[Path]: The files.
    """
    texts = {'csv': comparison_csv(comparison), 'md': comparison_markdown(comparison),
             'html': comparison_page(comparison, evidences, out_dir, image_root)}
    paths = [Path(out_dir, f'{NAME}.{suffix}') for suffix in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_text(path, text)
    return paths


def comparison_csv(comparison):
    """All figures as CSV, a row a model, empty where unknown.

    Columns are `name, kind, source, results, problem`; counts of the evaluation; its main figures, each with `_low` and
    `_high`, the ends of its 95% interval, and against the first row `_difference`, `_difference_low`,
    `_difference_high`, `_p` and `_p_holm`, corrected across rows; then cost and training; then all other metrics. Up to
    these, the columns follow from the classes alone.

    Args:
        comparison (dict): Of several models.

    Returns:
        str: CSV.
    """
    rows = comparison['rows']
    main = [*_FIGURES, *(f'{MAIN}/{name}' for name in comparison['classes'])]
    adjusted = {figure: adjusted_p(rows, figure) for figure in main}
    others = dict.fromkeys(key for row in rows for key in (row.get('evaluation') or {}).get('metrics') or ()
                           if key not in main)
    records = [_record(row, main, others, {figure: p[index] for figure, p in adjusted.items()})
               for index, row in enumerate(rows)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(_record({}, main, others, {}))
    for record in records:
        writer.writerow([_plain(value) for value in record.values()])
    return text.getvalue()


def _record(row, main, others, adjusted):
    evaluation, versus, cost, training = (row.get(key) or {} for key in (
        'evaluation', 'versus_first', 'cost', 'training'))
    metrics, intervals = (evaluation.get(key) or {} for key in ('metrics', 'intervals'))
    record = {key: row.get(key) for key in ('name', 'kind', 'source', 'results', 'problem')}
    record |= {key: evaluation.get(key) for key in ('images', 'groups', 'cells', 'predictions', 'max_dets')}
    for figure in main:
        test = versus.get(figure) or {}
        low, high = intervals.get(figure) or (None, None)
        least, most = test.get('interval') or (None, None)
        record |= {figure: metrics.get(figure), f'{figure}_low': low, f'{figure}_high': high,
                   f'{figure}_difference': test.get('difference'), f'{figure}_difference_low': least,
                   f'{figure}_difference_high': most, f'{figure}_p': test.get('p'),
                   f'{figure}_p_holm': adjusted.get(figure)}
    height, width = cost.get('input_size') or (None, None)
    memory = training.get('peak_memory_mb') or {}
    record |= {'parameters': cost.get('parameters'), 'gflops': cost.get('gflops'), 'input_height': height,
               'input_width': width, 'images_per_second': cost.get('images_per_second'),
               'prediction_peak_memory_mb': cost.get('peak_memory_mb'), 'device': cost.get('device'),
               'training_iterations': training.get('iterations'), 'training_epochs': training.get('epochs'),
               'training_seconds': training.get('seconds'), 'training_peak_memory_mb_cpu': memory.get('cpu'),
               'training_peak_memory_mb_gpu': memory.get('gpu')}
    return record | {key: metrics.get(key) for key in others}


def _plain(value):
    return '' if value is None or (isinstance(value, float) and not is_known(value)) else value


def comparison_markdown(comparison):
    """Two tables in GitHub's Markdown, of quality and of cost, the best value of each column in bold; notes below.

    Args:
        comparison (dict): Of several models.

    Returns:
        str: Markdown.
    """
    rows, said = comparison['rows'], notes(comparison)
    names = [_escaped(title_of(row)) for row in rows]
    parts = [said.pop(0)] if comparison.get('class_agnostic') else []
    parts.append(_markdown_table(names, quality_columns(comparison)))
    parts += [f'- {name}: {_escaped(" ".join(row["problem"].split()))}' for name, row in zip(names, rows, strict=True)
              if row.get('problem')]
    if cost := cost_columns(comparison):
        parts.append(_markdown_table(names, cost))
    said += map(str, comparison.get('notes') or ())
    return '\n\n'.join([*parts, '\n'.join(f'- {_escaped(text)}' for text in said)]) + '\n'


def _markdown_table(names, columns):
    cells = [['model', *names]]
    for column in columns:
        texts = [f'**{text}**' if best else _escaped(text) or '-'
                 for text, best in zip(column.texts, column.best, strict=True)]
        cells.append([_escaped(column.title), *(f'{text} {detail}'.rstrip()
                                                for text, detail in zip(texts, column.details, strict=True))])
    widths = [max(3, *map(len, column)) for column in cells]
    lines = [[text.ljust(widths[0]) if not place else text.rjust(widths[place]) for place, text in enumerate(line)]
             for line in zip(*cells, strict=True)]
    rule = [f'{"-" * (width - 1)}:' if place else '-' * width for place, width in enumerate(widths)]
    return '\n'.join(f'| {" | ".join(line)} |' for line in [lines[0], rule, *lines[1:]])


def _escaped(text):
    return re.sub(r'([\\`*\[\]<>|&~$])', r'\\\1', text)


def format_comparison_table(comparison):
    """Lines to print: quality, then cost, at most 120 characters wide, and what the marks mean.

    Args:
        comparison (dict): Of several models.

    Returns:
        str: Some lines.
    """
    rows, said = comparison['rows'], notes(comparison)
    names = [shortened(title_of(row), _NAME) for row in rows]
    problems = [shortened(' '.join((row.get('problem') or '').split()), _TERMINAL - _NAME - 2) for row in rows]
    parts = [said.pop(0)] if comparison.get('class_agnostic') else []
    parts += _blocks(names, problems, quality_columns(comparison))
    parts += _blocks(names, [''] * len(rows), cost_columns(comparison))
    said += map(str, comparison.get('notes') or ())
    return '\n\n'.join([*parts, '\n'.join(line for text in said for line in wrap(text, _TERMINAL))])


def _blocks(names, problems, columns):
    """Tables of as many columns each as fit beside the names, the first with the problems of rows."""
    names = ['model', *names]
    widest = max(map(len, names))
    names, blocks, room = [name.ljust(widest) for name in names], [], 0
    for lines in _printed(columns):
        width = len(lines[0])
        if not blocks or width > room:
            blocks.append([names])
            room = _TERMINAL - widest
        blocks[-1].append(lines)
        room -= width
    tables = [[''.join(line) for line in zip(*block, strict=True)] for block in blocks]
    for index, problem in enumerate(problems, 1):
        if problem:
            tables[0][index] = f'{names[index]}  {problem}'
    return ['\n'.join(line.rstrip() for line in lines) for lines in tables]


def _printed(columns):
    """Lines of columns, of one width each; those that belong together as one."""
    found = []
    for column in columns:
        texts = [text or '-' for text in column.texts]
        widths = [max(map(len, parts)) for parts in (texts, column.details)]
        lines = [column.title, *(f'{text:>{widths[0]}} {detail:<{widths[1]}}' if widths[1] else text
                                 for text, detail in zip(texts, column.details, strict=True))]
        width = max(map(len, lines)) + 2
        lines = [line.rjust(width) for line in lines]
        if column.with_previous and found:
            lines = [before + line for before, line in zip(found.pop(), lines, strict=True)]
        found.append(lines)
    return found
