import json

import pytest
from training_folders import CLASSES, write_work_dir

from cellseg_mm.evaluation.evaluate import evaluate, read_evaluation
from cellseg_mm.evaluation.instances import pair_images


@pytest.fixture
def files(tmp_path):
    """Truth, results, those of a second model, and thresholds."""
    work = write_work_dir(tmp_path)
    truth, results = (json.loads(path.read_text()) for path in (tmp_path / 'data/val.json', work / 'val-results.json'))
    for name, data in (('truth', truth), ('first', results), ('second', results[::2]), ('none', []),
                       ('wrong', [results[0], {**results[1], 'score': None}]),
                       ('thresholds', dict.fromkeys(CLASSES, 0.25)), ('other', {'other': 0.5})):
        (tmp_path / f'{name}.json').write_text(json.dumps(data))
    return tmp_path


def test_results_are_evaluated_at_the_thresholds_given(call_tool, files):
    status, output, _ = call_tool(
        'evaluate', files / 'first.json', '--ground-truth', files / 'truth.json', '--max-dets', 30,
        '--thresholds', files / 'thresholds.json', '--out', files / 'out.json')
    assert status == 0
    found = read_evaluation(files / 'out.json')
    pairs = pair_images(*(json.loads((files / f'{name}.json').read_text()) for name in ('truth', 'first')))
    expected = evaluate(pairs, CLASSES, 30, dict.fromkeys(CLASSES, 0.25), 'thresholds.json')
    assert found['metrics']['mPQ'] == expected['metrics']['mPQ']
    assert found['intervals']['F1'] == expected['intervals']['F1']
    assert '(from thresholds.json)' in output


def test_two_files_of_results_are_compared(call_tool, files):
    status, output, _ = call_tool('evaluate', files / 'first.json', files / 'second.json', '--ground-truth',
                                  files / 'truth.json', '--out', files / 'out.json')
    assert status == 0
    difference = json.loads((files / 'out.json').read_text())['F1']
    assert difference['first'] > difference['second']
    assert 0.2 < difference['p'] <= 1
    assert 'groups: 3, which is few' in output


def test_no_results_at_all_score_zero(call_tool, files):
    status, output, _ = call_tool('evaluate', files / 'none.json', '--ground-truth', files / 'truth.json')
    assert status == 0
    assert 'AP50                         0.000' in output


@pytest.mark.parametrize(('arguments', 'message'), [
    (('nothing',), 'nothing.json: there is no such file'),
    (('truth',), 'truth.json: this is not a list of COCO results'),
    (('wrong',), 'wrong.json: result 1 has the score None'),
    (('first', 'wrong'), 'wrong.json: result 1 has the score None'),
    (('first', '--thresholds', 'other'), 'other.json: the thresholds are of the classes other'),
    (('first', '--thresholds', 'nothing'), 'nothing.json: there is no such file'),
    (('first', 'second', '--thresholds', 'thresholds'), 'takes both --thresholds and --second-thresholds'),
    (('first', '--second-thresholds', 'thresholds'), 'takes both --thresholds and --second-thresholds'),
    (('first', '--max-dets', '0'), '--max-dets must be above 0'),
])
def test_what_the_user_can_mend_is_one_line_and_exit_status_2(call_tool, files, arguments, message):
    paths = [word if word.startswith('-') or word.isdigit() else files / f'{word}.json' for word in arguments]
    status, _, errors = call_tool('evaluate', '--ground-truth', files / 'truth.json', *paths)
    assert status == 2
    assert message in errors.strip().splitlines()[-1]
    assert 'Traceback' not in errors
