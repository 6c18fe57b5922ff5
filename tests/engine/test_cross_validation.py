import csv
import json
import sys

import pytest
from conftest import TINY_CONFIG

from cellseg_mm.datasets.cell_dataset import read_cells
from cellseg_mm.datasets.prepare import prepare
from cellseg_mm.datasets.synthetic import write_demo_data
from cellseg_mm.engine import cross_validation
from cellseg_mm.engine.cross_validation import cross_validate
from cellseg_mm.errors import UserError
from cellseg_mm.evaluation.coco_ap import average_precision
from cellseg_mm.evaluation.evaluate import read_evaluation
from cellseg_mm.evaluation.instances import read_pairs

# Predicts most cells, some under another class, and keeps its arguments; `fail` beside the folder has its exit status.
STAND_IN = """
import json, random, sys
from pathlib import Path
work_dir = Path(sys.argv[sys.argv.index('--work-dir') + 1])
options = dict(option.split('=', 1) for option in sys.argv[sys.argv.index('--cfg-options') + 1:])
log = work_dir / '20260101_000000/20260101_000000.log'
log.parent.mkdir(parents=True)
log.write_text('')
with open(work_dir.parent / 'calls', 'a') as calls:
    calls.write(json.dumps(sys.argv) + chr(10))
fail = work_dir.parent / 'fail'
if fail.exists() and work_dir.name == 'fold1':
    sys.exit(int(fail.read_text()))
truth = json.loads(Path(options['data_root'], options['val_dataloader.dataset.ann_file']).read_text())
rng = random.Random(len(truth['annotations']))
(work_dir / 'val-results.json').write_text(json.dumps([
    dict(image_id=cell['image_id'], category_id=rng.choice([cell['category_id'], cell['category_id'], 1]),
         score=rng.random(), bbox=cell['bbox'], segmentation=cell['segmentation'])
    for cell in truth['annotations'] if rng.random() < 0.8]))
(work_dir / 'epoch_3.pth').write_text('')
(work_dir / 'best_epoch_2.pth').write_text('')
"""


@pytest.fixture(scope='module')
def tool(tmp_path_factory):
    path = tmp_path_factory.mktemp('tool') / 'train.py'
    path.write_text(STAND_IN)
    return path


@pytest.fixture(scope='module')
def run(folded_data, tool):
    """Cross-validate, with the trainings stood in for."""

    def run(work_dir, config=TINY_CONFIG, options=('train_cfg.max_epochs=2', ), **arguments):
        return cross_validate(config, work_dir, tool, options=[f'data_root={folded_data}', *options], **arguments)

    return run


@pytest.fixture(scope='module')
def finished(run, tmp_path_factory):
    """A folder with a cross-validation that was not disturbed."""
    work_dir = tmp_path_factory.mktemp('finished')
    assert run(work_dir) == 0
    return work_dir


@pytest.fixture
def brief(monkeypatch):
    """Leave out the evaluation at the end."""
    monkeypatch.setattr(cross_validation, '_conclude', lambda *_: None)


def calls(work_dir):
    return [json.loads(line) for line in (work_dir / 'calls').read_text().splitlines()]


def written(work_dir):
    return {path.name: path.read_text() for path in work_dir.glob('cross-validation*')}


def test_each_fold_is_trained_on_its_own_files_with_the_users_options(run, brief, folded_data, tmp_path):
    assert run(tmp_path, options=['train_cfg.max_epochs=2', 'model.neck.num_outs=5'], amp=True) == 0
    for fold, call in enumerate(calls(tmp_path)):
        assert call[1:] == [
            str(TINY_CONFIG), '--work-dir', str(tmp_path / f'fold{fold}'), '--amp', '--resume', '--cfg-options',
            f'data_root={folded_data}', 'train_cfg.max_epochs=2', 'model.neck.num_outs=5',
            f'train_dataloader.dataset.ann_file=annotations/fold{fold}_train.json',
            f'val_dataloader.dataset.ann_file=annotations/fold{fold}_val.json']


def test_what_is_written_agrees_with_itself_and_can_be_evaluated_again(finished):
    evaluation = read_evaluation(finished / 'cross-validation-evaluation.json')
    classes = evaluation['classes']
    truth = read_cells(finished / 'cross-validation-annotations.json')
    pairs = read_pairs(truth, finished / 'cross-validation-results.json')
    again = average_precision(pairs, classes, 50)
    assert {name: evaluation['metrics'][name] for name in again} == pytest.approx(
        {name: value if value == value else None for name, value in again.items()})
    assert evaluation['images'] == len(truth['images']) == 8
    rows = {row['metric']: row for row in csv.DictReader((finished / 'cross-validation.csv').open())}
    assert float(rows['AP50_dense']['pooled']) == again['AP50_dense']
    of_folds = [fold['metrics']['F1'] for fold in evaluation['folds']]
    assert [float(rows['F1'][f'fold{fold}']) for fold in range(2)] == of_folds
    assert float(rows['F1']['mean']) == pytest.approx(sum(of_folds) / 2)
    assert rows.keys() >= {f'AP50_dense/{name}' for name in classes}
    assert 'fold0/report.html' in (finished / 'cross-validation.html').read_text()


def test_a_second_run_trains_nothing_and_writes_the_same(run, finished, capsys):
    first = written(finished)
    assert run(finished) == 0
    assert written(finished) == first
    assert len(calls(finished)) == 2
    output = capsys.readouterr().out
    assert f'fold 1 of 2: done, in {finished}/fold0' in output
    assert f'{read_evaluation(finished / "cross-validation-evaluation.json")["metrics"]["AP50_dense"]:.3f}' in output
    assert output.splitlines()[-1] == f'{finished}/cross-validation.html'


def test_a_failing_training_ends_it_with_its_status_and_names_fold_and_log(run, finished, tmp_path, capsys):
    (tmp_path / 'fail').write_text('3')
    capsys.readouterr()
    assert run(tmp_path) == 3
    output = capsys.readouterr()
    line, = output.err.splitlines()
    assert line.startswith('fold 2 of 2 failed: it ended with status 3; ')
    assert str(tmp_path / 'fold1/20260101_000000/20260101_000000.log') in line
    assert f'fold 2 of 2: training in {tmp_path}/fold1, log: ' in output.out
    assert not (tmp_path / 'cross-validation.csv').exists()
    (tmp_path / 'fail').unlink()
    assert run(tmp_path) == 0
    assert len(calls(tmp_path)) == 3
    for name in ('-results.json', '-annotations.json', '-evaluation.json', '.csv'):
        assert written(tmp_path)[f'cross-validation{name}'] == written(finished)[f'cross-validation{name}']


def test_a_training_killed_in_its_first_epoch_begins_anew(run, brief, tmp_path):
    run(tmp_path)
    (tmp_path / 'fold1/val-results.json').unlink()
    (tmp_path / 'fold1/epoch_3.pth').unlink()  # the best epoch is written before the epoch itself
    assert run(tmp_path) == 0
    assert len(calls(tmp_path)) == 3


def test_a_training_without_predictions_is_an_error(run, folded_data, tmp_path):
    quiet = tmp_path / 'quiet.py'
    quiet.write_text('')
    with pytest.raises(UserError, match='fold0: its training left no val-results'):
        cross_validate(TINY_CONFIG, tmp_path / 'work', quiet, options=[f'data_root={folded_data}'])


@pytest.mark.parametrize(('change', 'message'), [
    (dict(options=['train_cfg.max_epochs=9']), r'its --cfg-options were: data_root=\S+ train_cfg.max_epochs=2; undo'),
    (dict(amp=True), 'it was started without --amp'),
    (dict(processes=2), 'its --nproc-per-node was not given'),
    (dict(config='other'), 'its config has changed since'),
    (dict(folds=3), 'there are 2 folds in it, not 3; run: python tools/prepare_data.py'),
])
def test_a_changed_plan_is_refused(run, finished, tmp_path, change, message):
    if 'config' in change:
        change = {'config': tmp_path / 'tiny.py'}
        change['config'].write_text(f'_base_ = {str(TINY_CONFIG)!r}\nmax_dets = 40\n')
    before = written(finished)
    with pytest.raises(UserError, match=message) as caught:
        run(finished, **change)
    assert '\n' not in str(caught.value)
    assert written(finished) == before
    assert len(calls(finished)) == 2


def test_newly_prepared_folds_are_refused(tool, brief, tmp_path):
    root = tmp_path / 'data'
    write_demo_data(root, train=6, test=0)
    prepare(root, folds=2, workers=1)
    arguments = TINY_CONFIG, tmp_path / 'work', tool, 2, [f'data_root={root}']
    assert cross_validate(*arguments) == 0
    prepare(root, folds=2, workers=1)
    assert cross_validate(*arguments) == 0  # which gave the same files
    prepare(root, folds=2, seed=1, workers=1)
    with pytest.raises(UserError, match='its folds have been prepared anew since'):
        cross_validate(*arguments)


def test_a_folder_of_something_else_is_left_alone(run, tmp_path):
    (tmp_path / 'fold0').mkdir()
    with pytest.raises(UserError, match='there is fold0 in it already, of no cross-validation'):
        run(tmp_path)
    assert not any((tmp_path / 'fold0').iterdir())
    (tmp_path / 'cross-validation.json').write_text('{}')
    with pytest.raises(UserError, match='this is no record of a cross-validation'):
        run(tmp_path)


def wrapping(folder, dataset):
    path = folder / 'wrapping.py'
    path.write_text(f'_base_ = {str(TINY_CONFIG)!r}\n'
                    'inner = _base_.train_dataloader.dataset\n'
                    f'train_dataloader = dict(dataset=dict(_delete_=True, {dataset}))')
    return path


def test_annotations_reach_a_wrapped_data_set(run, brief, tmp_path):
    assert run(tmp_path, wrapping(tmp_path, "type='RepeatDataset', times=2, dataset=inner")) == 0
    assert calls(tmp_path)[1][-2:] == [
        'train_dataloader.dataset.dataset.ann_file=annotations/fold1_train.json',
        'val_dataloader.dataset.ann_file=annotations/fold1_val.json']


def test_several_data_sets_in_one_are_refused(run, tmp_path):
    with pytest.raises(UserError, match='has no ann_file'):
        run(tmp_path, wrapping(tmp_path, "type='ConcatDataset', datasets=[inner]"))


def test_several_processes_are_started_by_torchrun(run, tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(cross_validation, 'run_child', lambda command, _: commands.append(command) or (1, 'no'))
    assert run(tmp_path, processes=2) == 1
    command, = commands
    assert command[:6] == [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', 2]
    start = command.index('--launcher')
    assert command[start:start + 4] == ['--launcher', 'pytorch', '--resume', '--cfg-options']
