"""Cross-validation: a model is trained and tested once for each fold of the data, and all is said about it at the end.

Figures of a single validation split hang on which images came into it. Here each image is predicted once, by a model
that did not train on it or on others of its group. One thing still flatters: a fold's epoch is the one with the best
AP50 on the fold's own validation images. (Its score thresholds would too; so they come from the other folds.)
"""
import csv
import hashlib
import io
import json
import math
import re
import shutil
import sys
from itertools import chain
from pathlib import Path

from cellseg_mm.datasets.cell_dataset import read_cells
from cellseg_mm.datasets.folds import fold_file, read_folds
from cellseg_mm.engine.child_process import run_child
from cellseg_mm.engine.config import dataset_key, load_config, parse_options, settings_of
from cellseg_mm.engine.preflight import check_data, check_work_dir
from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.evaluation.evaluate import write_evaluation
from cellseg_mm.evaluation.instances import pair_images, read_results
from cellseg_mm.evaluation.out_of_fold import evaluate_folds, format_folds, summarise
from cellseg_mm.io.files import alone_in, write_json, write_text
from cellseg_mm.io.work_dir import RESULTS_NAME, best_checkpoint, last_checkpoint
from cellseg_mm.visualization.cross_validation_report import write_page

NAME = 'cross-validation'
RECORD_NAME = f'{NAME}.json'
_WRITTEN = '-results.json', '-annotations.json', '-evaluation.json', '.csv', '.html'


def cross_validate(config_path, work_dir, train_tool, folds=None, options=(), amp=False, processes=None):
    """Train each fold that is not done yet in a process of its own, then evaluate all; prints what it does.

    Args:
        config_path (str | Path): The config.
        work_dir (str | Path): Takes `fold<k>`, the work dir of each training, and what is written at the end:
            `cross-validation-results.json` and `-annotations.json` with the predictions and the true cells of all
            images, `-evaluation.json`, `.csv` and `.html`. `cross-validation.json` keeps what it was started with, and
            which folds are done.
        train_tool (str | Path): tools/train.py.
        folds (int, optional): How many folds there have to be.
        options (Sequence[str]): `--cfg-options`, as texts.
        amp (bool): Train in mixed precision.
        processes (int, optional): Train each fold by so many processes, under torchrun.

    Returns:
        int: 0, or the exit status of a training that failed.

    Raises:
        UserError: Before any work is done, for all that the user can mend; if the config, the options or the data
            changed since the cross-validation in `work_dir` began.
    """
    config = load_config(config_path, parse_options(options))
    keys = {part: f'{dataset_key(config, part)}.ann_file' for part in ('train', 'val')}
    check_data(config, keys)
    found = read_folds(config.data_root, config.classes, folds)
    if found.groups == 1:
        print('warning: all images are of one group: its folds are no independent images, and all figures flatter')
    work_dir = Path(work_dir)
    check_work_dir(work_dir)
    plan = {'options': list(options), 'amp': amp, 'processes': processes,
            'config': hashlib.sha256(settings_of(config).encode()).hexdigest(), 'folds': found.digests}
    launch, flags = [sys.executable], ['--amp'] if amp else []
    if processes:
        launch += ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', processes]
        flags += ['--launcher', 'pytorch']
    with alone_in(work_dir, 'a cross-validation') as lock:
        done = _take_up(work_dir, plan)
        for fold in range(found.count):
            folder, place = work_dir / f'fold{fold}', f'fold {fold + 1} of {found.count}'
            if fold in done and (folder / RESULTS_NAME).is_file():
                print(f'{place}: done, in {folder}', flush=True)
                continue
            if folder.exists() and last_checkpoint(folder) is None:
                shutil.rmtree(folder)  # killed in its first epoch
            print(f'{place}: training in {folder}, log: {folder}/<time>/<time>.log', flush=True)
            exchange = [f'{key}={fold_file(fold, part)}' for part, key in keys.items()]
            status, problem = run_child([*launch, train_tool, config_path, '--work-dir', folder, *flags, '--resume',
                                         '--cfg-options', *options, *exchange], lock)
            if problem:
                log = max(folder.glob('*/*.log'), default=None)
                print(f'{place} failed: {problem}; its messages are above{f" and in {log}" if log else ""}; the same '
                      'command goes on from there', file=sys.stderr)
                return status
            if not (folder / RESULTS_NAME).is_file():
                raise CellDataError(folder, f'its training left no {RESULTS_NAME}',
                                    'see to it that the config validates after some epoch (train_cfg.val_interval)')
            done.add(fold)
            write_json(work_dir / RECORD_NAME, plan | {'done': sorted(done)}, indent=1)
        if read_folds(config.data_root, config.classes, found.count) != found:
            raise UserError(_changed(work_dir, 'the folds were prepared anew while it ran'))
        _conclude(config, work_dir, found.count)
    return 0


def _take_up(work_dir, plan):
    """Folds that are done, if what is in the folder was started with the same plan."""
    path = work_dir / RECORD_NAME
    if not path.is_file():
        if used := sorted(fold.name for fold in work_dir.glob('fold*') if re.fullmatch(r'fold\d+', fold.name)):
            raise UserError(f'{work_dir}: there is {used[0]} in it already, of no cross-validation; name another '
                            'folder with --work-dir')
        write_json(path, plan | {'done': []}, indent=1)
        return set()
    try:
        record = json.loads(path.read_text(encoding='utf-8'))
        done, before = set(record['done']), {key: record[key] for key in plan}
    except (ValueError, KeyError, TypeError) as error:
        raise CellDataError(path, 'this is no record of a cross-validation', 'name another folder with --work-dir'
                            ) from error
    for key, change in (('options', f'its --cfg-options were: {" ".join(before["options"] or ["none"])}'),
                        ('amp', f'it was started with{"" if before["amp"] else "out"} --amp'),
                        ('processes', f'its --nproc-per-node was {before["processes"] or "not given"}'),
                        ('config', 'its config has changed since'),
                        ('folds', 'its folds have been prepared anew since')):
        if before[key] != plan[key]:
            raise UserError(_changed(work_dir, change))
    return done


def _changed(work_dir, what):
    return (f'{work_dir}: the cross-validation in it cannot go on, since {what}; undo that, or start another with '
            '--work-dir')


def _conclude(config, work_dir, count):
    folders = [work_dir / f'fold{fold}' for fold in range(count)]
    truth = [read_cells(Path(config.data_root, fold_file(fold, 'val'))) for fold in range(count)]
    results = [read_results(folder / RESULTS_NAME) for folder in folders]
    alone, pooled = evaluate_folds([pair_images(*pair) for pair in zip(truth, results, strict=True)], config.classes,
                                   config.val_evaluator.get('max_dets', config.max_dets))
    rows = summarise(alone, pooled)
    everything = {name: list(chain(*(part[name] for part in truth))) for name in ('images', 'annotations')}
    of_folds = [{name: evaluation[name] for name in ('images', 'groups', 'cells', 'thresholds', 'metrics')}
                for evaluation in alone]
    best = [best_checkpoint(folder) for folder in folders]
    epochs = [int(path.stem.rpartition('_')[2]) if path else None for path in best]
    files = [work_dir / f'{NAME}{end}' for end in _WRITTEN]
    write_json(files[0], list(chain(*results)))
    write_json(files[1], truth[0] | everything)
    write_evaluation(files[2], pooled | {'folds': of_folds})
    write_text(files[3], _csv(rows))
    write_page(files[4], rows, alone, pooled, list(zip(folders, epochs, strict=True)))
    print(f'\n{format_folds(rows, pooled)}\n\nwritten:', *files, sep='\n')


def _csv(rows):
    table = io.StringIO()
    writer = csv.writer(table, lineterminator='\n')
    writer.writerow(['metric', *(f'fold{fold}' for fold in range(len(rows[0].folds))),
                     'mean', 'sd', 'pooled', 'low', 'high'])
    for row in rows:
        values = *row.folds, row.mean, row.deviation, row.pooled, *row.interval
        writer.writerow([row.name, *('' if math.isnan(value) else value for value in values)])
    return table.getvalue()
