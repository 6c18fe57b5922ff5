import json
import shutil

import pytest
from training_folders import CLASSES, write_cells, write_log, write_work_dir

from cellseg_mm.errors import CellDataError, UserError
from cellseg_mm.visualization.training_run import read_run


def test_losses_come_by_epoch_and_by_part(tmp_path):
    history = read_run(write_work_dir(tmp_path)).history
    assert history.unit == 'epoch'
    assert history.training[''] == ([1, 2, 3, 4, 5], pytest.approx([2, 1, 2 / 3, 0.5, 0.4]))
    assert history.validation[''] == ([1, 2, 3, 4, 5], [1.5, 1.25, 1, 1.25, 1.5])
    assert set(history.training) == set(history.validation) == {'', 'cls'}
    assert history.scores['AP50_dense/long'][1] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert history.rate == (list(range(1, 11)), [0.01] * 10)


def test_without_losses_of_epochs_the_training_loss_is_the_mean_of_what_was_logged(tmp_path):
    write_log(tmp_path, CLASSES, epochs=2, validated=False)
    history = read_run(tmp_path).history
    assert history.training[''] == ([1, 2], pytest.approx([2.5, 1.25]))
    assert history.training['cls'][1] == pytest.approx([1.25, 0.625])
    assert history.validation == history.scores == {}


def test_a_resumed_run_wins_from_the_epoch_it_starts_with(tmp_path):
    write_log(tmp_path, CLASSES, epochs=6)
    write_log(tmp_path, CLASSES, epochs=4, stamp='20260106_083000', first=3)
    history = read_run(tmp_path).history
    assert history.validation[''][0] == history.scores['AP50_dense'][0] == [1, 2, 3, 4]


def test_the_best_epoch_is_that_of_the_checkpoint_else_of_the_log(tmp_path):
    work = write_work_dir(tmp_path, epochs=12)
    assert read_run(work).best_epoch == 11
    (work / 'best_epoch_11.pth').rename(work / 'best_epoch_9.pth')
    assert read_run(work).best_epoch == 9
    (work / 'best_epoch_9.pth').unlink()
    assert read_run(work).best_epoch == 11
    shutil.rmtree(work / '20260105_083000')
    assert read_run(work).best_epoch is None


def test_pairs_hold_the_predictions_at_the_thresholds_of_the_evaluation(tmp_path):
    work = write_work_dir(tmp_path)
    path = work / 'val-evaluation.json'
    evaluation = json.loads(path.read_text())
    path.write_text(json.dumps(evaluation | {'thresholds': {'round': 0.85, 'long': 0, 'rare': 0}}))
    run = read_run(work)
    assert {number: len(pair.predicted) for number, pair in run.pairs.items()} == {1: 0, 2: 2, 3: 3}
    assert run.problems == []


@pytest.mark.parametrize(('break_it', 'problem'), [
    (lambda work: (work / 'val-results.json').unlink(), 'val-results.json'),
    (lambda work: (work / 'val-results.json').write_text('3'), 'cannot be read'),
    (lambda work: (work / 'val-results.json').write_text('[3]'), 'result 0'),
    (lambda work: (work / 'val-results.json').write_text('{"half'), 'cannot be read'),
    (lambda work: (work.parent / 'data/val.json').unlink(), 'val.json'),
    (lambda work: (work / 'small.py').unlink(), 'val_evaluator.ann_file'),
    (lambda work: (work / 'small.py').write_text('1 / 0'), 'ZeroDivisionError'),
    (lambda work: write_cells(work.parent, work.parent / 'data', ['other', 'names'], ['x.png']), 'its classes are'),
])
def test_what_keeps_cells_from_being_read_is_told(tmp_path, break_it, problem):
    work = write_work_dir(tmp_path)
    break_it(work)
    run = read_run(work)
    assert run.pairs == {}
    assert problem in '; '.join(run.problems)


def test_a_folder_that_is_no_training_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r'neither a training log .* nor an evaluation') as caught:
        read_run(tmp_path)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', ['val-evaluation.json', 'run.json'])
@pytest.mark.parametrize('content', ['{"half', '[]'])
def test_a_broken_file_is_refused_by_name(tmp_path, name, content):
    work = write_work_dir(tmp_path)
    (work / name).write_text(content)
    with pytest.raises(CellDataError, match=rf'{name}: this is not .*; delete it'):
        read_run(work)
