"""Models side by side: trained with one budget where they are not, evaluated and measured alike on one split."""
import hashlib
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellseg_mm.datasets.cell_dataset import check_classes, read_cells
from cellseg_mm.engine.budget import VALIDATIONS, apply_budget, for_speed, iterations_per_epoch, own_iterations
from cellseg_mm.engine.child_process import run_child
from cellseg_mm.engine.comparison_items import LABEL_MAPS, TRAINED, parse_items
from cellseg_mm.engine.config import dataset_config, load_config, parse_options, settings_of
from cellseg_mm.engine.model_cost import measure_costs
from cellseg_mm.engine.preflight import check_data, check_work_dir
from cellseg_mm.engine.run_record import hardware, versions
from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.evaluation.evaluate import evaluate_evidence, write_evaluation
from cellseg_mm.evaluation.evidence import compare, gather
from cellseg_mm.evaluation.instances import group_of, pair_images, read_results
from cellseg_mm.evaluation.label_map_results import read_label_maps
from cellseg_mm.io.files import alone_in, read_json, write_json
from cellseg_mm.io.work_dir import RECORD_NAME, RESULTS_NAME, best_checkpoint, last_checkpoint
from cellseg_mm.visualization.comparison_report import format_comparison_table, write_comparison_report

NAME = 'comparison'
PLAN_NAME = f'{NAME}-plan.json'
MAX_DETS = 1000  # where no config says
ANY_CLASS = 'cell'
_COST_IMAGES = 5  # evenly spread over the split
_CONFIG_NAME = 'config.py'


@dataclass(frozen=True)
class Terms:
    """What is the same for all models.

    Attributes:
        iterations (int | None): Of each training.
        minutes (float | None): Or what each training may take, at the speed that is measured before.
        validations (int): During each training with a budget, at most; the best one's weights are compared.
        seed (int): Of each training.
        max_dets (int | None): The dense cap of the evaluation; None for the first config's.
        options (Sequence[str]): `--cfg-options`, as texts.
        amp (bool): Train in mixed precision.
        processes (int | None): Train and predict by so many processes, under torchrun.
        class_agnostic (bool): Take all cells for one class.
        cost (bool): Measure what predictions cost.
    """

    iterations: int | None = None
    minutes: float | None = None
    validations: int = VALIDATIONS
    seed: int = 0
    max_dets: int | None = None
    options: tuple = ()
    amp: bool = False
    processes: int | None = None
    class_agnostic: bool = False
    cost: bool = True


def compare_models(texts, out, tools, ground_truth=None, terms=None):
    """Compare; prints what it does.

    What a killed comparison has trained, predicted and measured is kept in `out`, and so is what has failed, to be
    tried again; the same call goes on from there. The score thresholds that PQ, F1 and others need are, for each model,
    those of its best F1 on the images compared on.

    Args:
        texts (list[str]): As of `parse_items`.
        out (str | Path): Takes `<name>`, the work dir of each training or prediction, `comparison.json`, `.csv`, `.md`
            and `.html`. `comparison-plan.json` keeps what has been done, and how.
        tools (str | Path): The folder of train.py and test.py.
        ground_truth (str | Path, optional): The split, in COCO form; that which the first config validates on if not
            given.
        terms (Terms, optional): What is the same for all.

    Returns:
        int: 0, or 1 where a row has a problem.

    Raises:
        UserError: Before any work is done, for all that the user can mend; if what is in `out` was made on other terms.
    """
    terms, out = terms or Terms(), Path(out)
    items = parse_items(texts)
    split = _Split.of(items, ground_truth, terms)
    for item in items:
        if item.config is not None:
            _prepare(item, split, terms)
    foreign = {item.name: read_label_maps(item.source, split.truth) for item in items if item.kind == LABEL_MAPS}
    agnostic = terms.class_agnostic or not all(has_classes for _, has_classes in foreign.values())
    for item in items:
        if item.results is not None:
            _read_pairs(item, split, agnostic)  # what is wrong with them is told before anything is trained
    check_work_dir(out, option='--out')
    with alone_in(out, 'a comparison') as lock:
        for item in items:
            if item.name in foreign:
                item.results = out / f'{item.name}.results.json'
                write_json(item.results, foreign[item.name][0])
        work = _Work(out, Path(tools), items, terms, split, lock)
        work.measure_speeds()
        work.make_predictions()
        return _conclude(work, agnostic)


@dataclass(frozen=True)
class _Split:
    """The images that all is compared on.

    Attributes:
        path (Path): The annotations.
        truth (dict): What they hold.
        classes (list[str]): By ascending id.
        root (str | None): The folder that names of images are relative to, where a config tells.
        max_dets (int): The dense cap.
    """

    path: Path
    truth: dict
    classes: list
    root: str | None
    max_dets: int

    @classmethod
    def of(cls, items, ground_truth, terms):
        """Load the configs of the items, of which the first names the split if the user does not."""
        for item in items:
            if item.config_path is not None:
                item.config = load_config(item.config_path, parse_options(terms.options))
        first = next((item.config for item in items if item.config is not None), None)
        if first is None and ground_truth is None:
            raise UserError('no config among these names the true cells: add --ground-truth JSON')
        path = Path(ground_truth or first.val_evaluator.ann_file)
        truth = read_cells(path)
        if not truth['images']:
            raise CellDataError(path, 'there is no image in it', 'name the annotations of another split')
        categories = sorted(truth['categories'], key=lambda category: category['id'])
        return cls(path, truth, [category['name'] for category in categories], first and first.data_root,
                   terms.max_dets or (first.max_dets if first else MAX_DETS))


def _prepare(item, split, terms):
    """Turn a config to the split, and drop predictions of another one, or of other settings."""
    config = item.config
    check_classes(split.path, split.truth['categories'], config.classes)
    annotations = Path(config.val_evaluator.ann_file)
    same = annotations.exists() and annotations.samefile(split.path)
    if item.results and same and item.results.stat().st_mtime >= split.path.stat().st_mtime and not (
            terms.options and _predicts_otherwise(item)):
        return
    item.results = None
    if config.data_root != split.root and Path(config.data_root).resolve() != Path(split.root).resolve():
        raise UserError(f'{item.source}: its data_root is {config.data_root}, that of the first config {split.root}; '
                        'give one to all by --cfg-options data_root=FOLDER')
    if not same:
        config.val_evaluator.ann_file = dataset_config(config, 'val').ann_file = str(split.path.resolve())
    check_data(config, ('train', 'val') if item.kind == TRAINED else ('val', ))
    if item.kind == TRAINED:
        config.randomness = dict(config.get('randomness') or {}, seed=terms.seed)


def _predicts_otherwise(item):
    """Whether options have changed what the predictions in a work dir depend on, such as `model.test_cfg`."""
    now, then = ((config.model, dataset_config(config, 'val').pipeline)
                 for config in (item.config, load_config(item.config_path)))
    return now != then


def _read_pairs(item, split, agnostic):
    """Predictions beside the true cells, all of one class if so wanted."""
    truth, results = split.truth, read_results(item.results)
    if agnostic:
        truth = truth | {'categories': [{'id': 1, 'name': ANY_CLASS}],
                         'annotations': [cell | {'category_id': 1} for cell in truth['annotations']]}
        results = [result | {'category_id': 1} if isinstance(result, dict) else result for result in results]
    try:
        return pair_images(truth, results)
    except UserError as error:
        raise UserError(f'{item.results}: {error}') from error


class _Work:
    """Trainings and predictions, and the record of them."""

    def __init__(self, out, tools, items, terms, split, lock):
        self.out, self.tools, self.items, self.terms, self.split, self.lock = out, tools, items, terms, split, lock
        self._processes = terms.processes or 1
        self._plan = {
            'iterations': terms.iterations, 'minutes': terms.minutes, 'validations': terms.validations,
            'seed': terms.seed, 'amp': terms.amp, 'processes': terms.processes, 'classes': split.classes,
            'ground_truth': hashlib.sha256(split.path.read_bytes()).hexdigest()}
        self._todo = [item for item in items if item.results is None]
        self.record = self._take_up()

    def measure_speeds(self):
        """Measure how long an iteration takes, for each training where minutes are given and that is not on record."""
        for item in self._todo:
            row = self.record['rows'][item.name]
            if not self.terms.minutes or item.kind != TRAINED or 'seconds_per_iteration' in row:
                continue
            self._say(item, 'measuring how long an iteration takes')
            folder = self.out / '.speed'
            shutil.rmtree(folder, ignore_errors=True)  # one was killed in it
            folder.mkdir()
            found = folder / 'seconds.json'
            for_speed(item.config, found, self._processes).dump(folder / _CONFIG_NAME)
            item.problem = self._launch('train', folder / _CONFIG_NAME, '--work-dir', folder)
            if item.problem is None:
                row['seconds_per_iteration'] = read_json(found, 'run the same command again')
                self._write()
            shutil.rmtree(folder)

    def make_predictions(self):
        """Train or predict what has no predictions yet."""
        for item in self._todo:
            row, folder = self.record['rows'][item.name], self.out / item.name
            if item.problem is None and item.kind == TRAINED:
                self._budget(item, row)
            if item.problem is None and not (row['done'] and (folder / RESULTS_NAME).is_file()):
                make = self._train if item.kind == TRAINED else self._predict
                item.problem = make(item, folder)
                if item.problem is None and not (folder / RESULTS_NAME).is_file():
                    item.problem = f'its work left no {RESULTS_NAME} in {folder}'
                row['done'] = item.problem is None
                self._write()
            elif item.problem is None:
                self._say(item, f'done, in {folder}')
            if item.problem:
                print(f'{item.name}: {item.problem}', file=sys.stderr, flush=True)
            else:
                item.results = folder / RESULTS_NAME
                if item.kind == TRAINED:
                    item.work_dir, item.checkpoint = folder, best_checkpoint(folder) or last_checkpoint(folder)

    def _budget(self, item, row):
        iterations = self.terms.iterations
        if self.terms.minutes:
            iterations = max(1, int(60 * self.terms.minutes / row['seconds_per_iteration']))
        if iterations:
            item.notes += apply_budget(item.config, iterations, self._processes, self.terms.validations)

    def _train(self, item, folder):
        if folder.exists() and last_checkpoint(folder) is None:
            shutil.rmtree(folder)  # killed in its first epoch
        folder.mkdir(exist_ok=True)
        config = item.config
        iterations = own_iterations(config, self._processes)[0]
        seconds = self.record['rows'][item.name].get('seconds_per_iteration')
        speed = f', {seconds:.2f} s each' if seconds else ''
        self._say(item, f'{iterations} iteration{"s" * (iterations > 1)}{speed}')
        config.dump(folder / _CONFIG_NAME)
        return self._launch('train', folder / _CONFIG_NAME, '--work-dir', folder, '--resume')

    def _predict(self, item, folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self._say(item, f'predicting by {item.checkpoint}')
        item.config.dump(folder / _CONFIG_NAME)
        # What testing writes beside a checkpoint stays in this folder.
        link = folder / item.checkpoint.name
        link.symlink_to(item.checkpoint.resolve())
        return self._launch('test', folder / _CONFIG_NAME, link, '--work-dir', folder)

    def _launch(self, tool, *arguments):
        """Run a tool in a process, or processes, of its own; why it failed, or None."""
        launch, flags = [sys.executable], ['--amp'] if self.terms.amp and tool == 'train' else []
        if self.terms.processes:
            launch += ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', self.terms.processes]
            flags += ['--launcher', 'pytorch']
        return run_child([*launch, self.tools / f'{tool}.py', *arguments, *flags], self.lock)[1]

    def _say(self, item, what):
        print(f'[{self.items.index(item) + 1} of {len(self.items)}] {item.name}: {what}', flush=True)

    def _take_up(self):
        """The record in the folder, if it is of the same plan; with a row for each item that is to be made."""
        path = self.out / PLAN_NAME
        record = {'plan': self._plan, 'rows': {}, 'costs': None}
        if path.is_file():
            found = read_json(path, 'name another folder with --out')
            if not isinstance(found, dict) or found.keys() != record.keys():
                raise CellDataError(path, 'this is no record of a comparison', 'name another folder with --out')
            if found['rows']:
                self._check_plan(found['plan'])
            record = found | {'plan': self._plan}
        for item in self._todo:
            digest, row = _decisive(item), record['rows'].get(item.name)
            if row is None and (self.out / item.name).exists():
                raise UserError(f'{self.out / item.name}: this is not of this comparison; name the row otherwise by '
                                f'NAME={item.source}, or another folder with --out')
            made = last_checkpoint(self.out / item.name) is not None and TRAINED in (item.kind, row['kind'])
            if made and row['digest'] != digest:
                raise UserError(f'{self.out / item.name}: it was made of another config, or its data have changed; '
                                f'name the new row otherwise by NAME={item.source}, or delete that folder')
            if row is None or row['digest'] != digest:
                record['rows'][item.name] = {'kind': item.kind, 'digest': digest, 'done': False}
        self._write(record)
        return record

    def _check_plan(self, before):
        for key, change in (('iterations', 'its --iterations were {}'), ('minutes', 'its --minutes were {}'),
                            ('validations', 'its --validations were {}'),
                            ('seed', 'its --seed was {}'), ('amp', '--amp was {}'),
                            ('processes', 'its --nproc-per-node was {}'), ('classes', 'its classes were {}'),
                            ('ground_truth', 'its ground truth was another')):
            if before.get(key) != self._plan[key]:
                value = before.get(key)
                value = ', '.join(value) if isinstance(value, list) else {
                    'None': 'not given', 'False': 'not given', 'True': 'given'}.get(str(value), value)
                raise UserError(f'{self.out}: the comparison in it cannot go on, since {change.format(value)}; undo '
                                'that, or start another with --out')

    def _write(self, record=None):
        write_json(self.out / PLAN_NAME, record or self.record, indent=1)

    def costs(self):
        """What predictions of each model cost, all measured in one run; a known run's if it has all of them."""
        models = {item.name: (item.name, item.config, item.checkpoint) for item in self.items
                  if item.problem is None and item.checkpoint is not None}
        where = {'hardware': hardware(), 'versions': versions(), 'ground_truth': self._plan['ground_truth']}
        run = where | {'models': {name: _digest(config, _identity(checkpoint))
                                  for name, config, checkpoint in models.values()}}
        known = self.record['costs'] or {'models': {}}
        if models and not (where.items() <= known.items() and run['models'].items() <= known['models'].items()):
            names = [image['file_name'] for image in self.split.truth['images']]
            paths = [Path(self.split.root, name) for name in names[::max(1, -(-len(names) // _COST_IMAGES))]]
            self.record['costs'] = known = run | {'figures': measure_costs(list(models.values()), paths)}
            # What failed is tried again.
            known['models'] = {name: identity for name, identity in run['models'].items()
                               if 'problem' not in known['figures'][name]}
            self._write()
        return {name: known['figures'][name] for name in models}


def _decisive(item):
    """A digest of what decides a training or a prediction."""
    if item.kind != TRAINED:
        return _digest(item.config, _identity(item.checkpoint))
    annotations = Path(item.config.data_root, dataset_config(item.config, 'train').ann_file)
    return _digest(item.config, annotations.read_bytes())


def _digest(config, other):
    return hashlib.sha256(settings_of(config).encode() + other).hexdigest()


def _identity(checkpoint):
    return f'{checkpoint.resolve()} {checkpoint.stat().st_size} {checkpoint.stat().st_mtime_ns}'.encode()


def _training(item):
    """What a training took, if it left a record."""
    path = item.work_dir and item.work_dir / RECORD_NAME
    if not path or not path.is_file():
        return None
    record = read_json(path, 'delete it')
    if record['hardware'] != hardware():
        item.notes.append('it was trained on another machine, so that its time of training says little here')
    # An older record does not tell how often an epoch has each image.
    loader, images = item.config.train_dataloader, record.get('epoch_images', record['data']['train_images'])
    per_epoch = iterations_per_epoch(item.config, images, record['processes'])
    if loader.sampler.type == 'BudgetSampler':
        iterations = min(loader.sampler.iterations, record['epochs'] * loader.sampler.per_epoch)
    else:
        iterations = record['epochs'] * per_epoch
    return {'iterations': iterations, 'epochs': round(iterations / per_epoch, 1), 'seconds': record['seconds'],
            'peak_memory_mb': record['peak_memory_mb']}


def _conclude(work, agnostic):
    """Evaluate, measure and write; the exit status."""
    items, split, out = work.items, work.split, work.out
    classes = [ANY_CLASS] if agnostic else split.classes
    evaluations, versus, evidences = {}, {}, {}
    for number, item in enumerate(items, 1):
        if item.problem is None:
            print(f'[{number} of {len(items)}] {item.name}: evaluating {item.results}', flush=True)
            pairs = _read_pairs(item, split, agnostic)
            evidences[item.name] = gather(pairs, classes, split.max_dets)
            evaluations[item.name] = evaluate_evidence(pairs, evidences[item.name])
            if item is not items[0] and items[0].name in evidences:
                versus[item.name] = compare(evidences[items[0].name], evidences[item.name])
    costs = work.costs() if work.terms.cost else {}
    for item in items:
        if problem := costs.get(item.name, {}).get('problem'):
            item.notes.append(f'its cost could not be measured: {problem}')
    rows = [{'name': item.name, 'kind': item.kind, 'source': item.source,
             'results': item.results and _relative(item.results, out), 'problem': item.problem,
             'evaluation': evaluations.get(item.name), 'versus_first': versus.get(item.name),
             'cost': None if 'problem' in costs.get(item.name, {}) else costs.get(item.name),
             'training': None if item.problem else _training(item)} for item in items]
    groups = len(set(map(group_of, split.truth['images'])))
    trains, terms = any(item.kind == TRAINED for item in items), work.terms
    comparison = {
        'ground_truth': str(split.path), 'images': len(split.truth['images']), 'groups': groups,
        'cells': sum(not (cell['iscrowd'] or cell['ignore']) for cell in split.truth['annotations']),
        'classes': classes, 'class_agnostic': agnostic, 'max_dets': split.max_dets,
        'budget': {'iterations': terms.iterations, 'minutes': terms.minutes, 'seed': terms.seed} if trains else None,
        'hardware': hardware(), 'versions': versions(), 'notes': _notes(work, agnostic, evidences), 'rows': rows}
    write_evaluation(out / f'{NAME}.json', comparison)
    files = write_comparison_report(comparison, evidences, out, split.root)
    print('', format_comparison_table(comparison), '', 'written:', out / f'{NAME}.json', *files, sep='\n')
    return int(any(item.problem for item in items))


def _notes(work, agnostic, evidences):
    """What a reader of the comparison has to know of single models."""
    trained = [item for item in work.items if item.kind == TRAINED and item.problem is None]
    sizes = {item.name: item.config.train_dataloader.batch_size for item in trained}
    notes = [f'{item.name}: {note}.' for item in work.items for note in item.notes]
    if trained:
        notes.append('A training keeps the epoch of the best AP50 on these same images, which flatters it a little.')
    if len(set(sizes.values())) > 1:
        notes.append('Batch sizes differ, and with them how many images a training saw: '
                     + ', '.join(f'{name} {size}' for name, size in sizes.items()) + '.')
    cells = Counter((cell['image_id'], 0 if agnostic else cell['category_id'])
                    for cell in work.split.truth['annotations'])
    most = max(cells.values(), default=0)
    if most > work.split.max_dets:
        remedy = f'--cfg-options max_dets={most}' if any(item.config for item in work.items) else f'--max-dets {most}'
        notes.append(f'An image has {most} cells of one class, of which the dense cap leaves {work.split.max_dets}: '
                     f'give {remedy} or more.')
    unranked = [name for name, evidence in evidences.items() if len(np.unique(evidence.matches.score)) == 1]
    if unranked:
        notes.append(f'{", ".join(unranked)}: all cells have the same score, with which AP and AP50 come to no more '
                     'than about precision times recall; compare by F1 and PQ.')
    if work.items[0].problem:
        notes.append(f'{work.items[0].name} has no figures, so that nothing is compared with the first row.')
    return notes


def _relative(path, out):
    path, out = Path(path).resolve(), out.resolve()
    return str(path.relative_to(out) if path.is_relative_to(out) else path)
