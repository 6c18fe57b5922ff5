import json
import logging
import os
import shutil

import pytest
from training_folders import CLASSES, write_work_dir

from cellseg_mm.engine import assessment, training
from cellseg_mm.engine.assessment import assess, assess_work_dir, conclude_training
from cellseg_mm.engine.config import load_config
from cellseg_mm.errors import UserError
from cellseg_mm.evaluation.evaluate import SAME_IMAGES, read_evaluation
from cellseg_mm.evaluation.operating_point import write_thresholds
from cellseg_mm.io.work_dir import thresholds_path


@pytest.fixture
def work(tmp_path):
    """A work dir whose best epoch, the fourth, has its predictions beside it, and nothing that was made of them."""
    work = write_work_dir(tmp_path)
    (work / 'val-results.json').rename(work / 'best_epoch_4.results.json')
    (work / 'val-evaluation.json').unlink()
    return work


def better(work, epoch):
    """Go on training: a later epoch is the best, and finds nothing, later than all that there is."""
    (work / 'best_epoch_4.pth').rename(work / f'best_epoch_{epoch}.pth')
    (work / 'best_epoch_4.results.json').unlink()
    results = work / f'best_epoch_{epoch}.results.json'
    results.write_text('[]')
    later = max(path.stat().st_mtime for path in work.iterdir()) + 10
    os.utime(results, (later, later))


def test_a_training_that_was_killed_gets_its_evaluation_and_its_operating_point(work):
    assess_work_dir(work)
    evaluation = read_evaluation(work / 'val-evaluation.json')
    assert evaluation['predictions'] > 0
    assert evaluation['checkpoint'] == 'best_epoch_4.pth'
    assert json.loads(thresholds_path(work / 'best_epoch_4.pth').read_text()) == evaluation['thresholds']


def test_what_was_evaluated_is_not_evaluated_again(work, monkeypatch):
    assess_work_dir(work)
    monkeypatch.setattr(assessment, 'assess', None)
    assess_work_dir(work)


def test_a_later_best_epoch_replaces_the_predictions_of_an_earlier_one(work):
    assess_work_dir(work)
    better(work, 6)
    assess_work_dir(work)
    assert read_evaluation(work / 'val-evaluation.json')['predictions'] == 0
    assert json.loads((work / 'val-results.json').read_text()) == []


def test_predictions_of_a_test_made_since_stay(work):
    assess_work_dir(work)
    later = (work / 'val-evaluation.json').stat().st_mtime + 10
    (work / 'val-results.json').write_text('[]')
    os.utime(work / 'val-results.json', (later, later))
    assess_work_dir(work)
    evaluation = read_evaluation(work / 'val-evaluation.json')
    assert evaluation['predictions'] == 0
    # Whose they are nobody knows, so that the best epoch's thresholds are none of theirs.
    assert (evaluation['checkpoint'], evaluation['thresholds_from']) == (None, SAME_IMAGES)


def test_a_checkpoint_where_nothing_can_be_written_is_evaluated_all_the_same(work, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(assessment, 'print_log', lambda text, *_: told.append(text))
    (work / 'best_epoch_4.results.json').rename(work / 'val-results.json')
    (tmp_path / 'file').touch()
    checkpoint = tmp_path / 'file/epoch_1.pth'  # a folder that is none takes no file, whoever writes
    assess(load_config(work / 'small.py'), work, checkpoint)
    assert read_evaluation(work / 'val-evaluation.json')['checkpoint'] == 'epoch_1.pth'
    assert len(told) == 1
    assert 'epoch_1.thresholds.json: the score thresholds cannot be kept (' in told[0]


def test_a_training_without_validation_has_nothing_to_evaluate(work):
    for path in work.glob('best_epoch_*'):
        path.unlink()
    assess_work_dir(work)
    assert not (work / 'val-evaluation.json').exists()


@pytest.mark.parametrize(('spoil', 'message'), [
    (lambda work: (work / 'small.py').unlink(), 'the config of the training is missing'),
    (lambda work: (work / 'best_epoch_4.results.json').write_text('{"half'), 'not JSON'),
    (lambda work: (work.parent / 'data/val.json').unlink(), 'there are no annotations yet'),
    (lambda work: write_thresholds(work / 'best_epoch_4.thresholds.json', {'other': 0.5}), 'of the classes other'),
    (shutil.rmtree, 'there is no such folder'),
])
def test_what_cannot_be_evaluated_is_said(work, spoil, message):
    spoil(work)
    with pytest.raises(UserError, match=message):
        assess_work_dir(work)


def test_the_end_of_a_training_replaces_an_earlier_operating_point(work):
    path = work / 'best_epoch_4.thresholds.json'
    write_thresholds(path, dict.fromkeys(CLASSES, 0.123))
    conclude_training(load_config(work / 'small.py'), work)
    evaluation = read_evaluation(work / 'val-evaluation.json')
    assert json.loads(path.read_text()) == evaluation['thresholds'] != dict.fromkeys(CLASSES, 0.123)
    assert (work / 'report.html').is_file()


def test_a_training_whose_report_fails_has_not_failed(work, monkeypatch, caplog):

    def fail(*_):
        raise ZeroDivisionError('two\nlines')

    monkeypatch.setattr(assessment, 'write_report', fail)
    with caplog.at_level(logging.INFO):
        training._conclude(load_config(work / 'small.py'), work, logging.getLogger('training'))
    warning, details = caplog.records
    assert warning.levelname == 'WARNING'
    assert f'(ZeroDivisionError: two lines); write it by: python tools/report.py {work}' in warning.getMessage()
    assert 'Traceback' in details.getMessage()
    assert (work / 'val-evaluation.json').is_file()
