import json
import shutil
import sys
import zipfile

import cv2
import pytest
import torch
from conftest import REPOSITORY, TINY_CONFIG, run_tool
from training_folders import keep_images

# Calls a command line once for each list of arguments, in the processes that torchrun has started.
SEVERAL_CALLS = """
import json, os, runpy, sys
tool, *calls = sys.argv[1:]
for call in calls:
    sys.argv = [tool, *json.loads(call)]
    try:
        runpy.run_path(tool, run_name='__main__')
    except SystemExit as end:
        assert not end.code
# What several models and groups leave in one process now and then aborts it as it ends.
sys.stdout.flush()
os._exit(0)
"""

CLASSES = 'class1', 'class2', 'class3', 'class4'
TORCHRUN = sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2'

# Calls a command line in the processes that torchrun has started, the first of which comes late.
LATE_FIRST = """
import os, runpy, sys, time
time.sleep(3 * (os.environ['RANK'] == '0'))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@pytest.fixture(scope='module')
def checkpoint(tiny_data, tmp_path_factory):
    """Weights that predict a few hundred instances: those that the model starts with."""
    from mmdet.registry import MODELS
    from mmengine.registry import init_default_scope

    from cellseg_mm.engine.config import load_config
    config = load_config(TINY_CONFIG)
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    path = tmp_path_factory.mktemp('weights') / 'start.pth'
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=tuple(config.classes)))), path)
    return path


@pytest.fixture
def options(tiny_data):
    return '--cfg-options', f'data_root={tiny_data}', 'model.test_cfg.rcnn.score_thr=0.0'


def test_validation_prints_the_table_and_keeps_predictions_and_overlays(checkpoint, options, tiny_data, tmp_path):
    run = run_tool('test', TINY_CONFIG, checkpoint, '--work-dir', tmp_path, '--show-dir', tmp_path / 'overlays',
                   '--show-score-thr', 0.3, *options)
    assert run.returncode == 0, run.stderr
    table = run.stdout[run.stdout.index('dense cap'):]
    for word in ('AP75', 'class1', 'class4', 'mean', '100', '50'):
        assert word in table
    evaluation = json.loads((tmp_path / 'val-evaluation.json').read_text())
    assert 0 <= evaluation['metrics']['AP50_dense'] <= 1
    thresholds = json.loads(checkpoint.with_suffix('.thresholds.json').read_text())
    assert evaluation['thresholds'] == thresholds
    assert 'these same images' in table
    results = json.loads((tmp_path / 'val-results.json').read_text())
    images = {image['id'] for image in json.loads((tiny_data / 'annotations/val.json').read_text())['images']}
    assert {result['image_id'] for result in results} <= images
    assert not (tmp_path / 'tiny.py').exists(), 'the record of the training that the folder may hold'
    for path in (tmp_path / 'overlays').iterdir():
        assert cv2.imread(str(path)).shape[2] == 3


def test_thresholds_beside_the_checkpoint_are_used_and_kept(call_tool, checkpoint, options, tmp_path):
    weights = tmp_path / 'best_epoch_1.pth'
    weights.write_bytes(checkpoint.read_bytes())
    thresholds = {f'class{number}': number / 10 for number in range(1, 5)}
    beside = tmp_path / 'best_epoch_1.thresholds.json'
    beside.write_text(json.dumps(thresholds))
    status, output, errors = call_tool('test', TINY_CONFIG, weights, '--work-dir', tmp_path, *options)
    assert status == 0, errors
    assert f'class1 0.1, class2 0.2, class3 0.3, class4 0.4 (from {beside.name})' in output
    assert json.loads(beside.read_text()) == thresholds


@pytest.mark.parametrize(('option', 'message'), [
    ('val_dataloader.dataset.pipeline.3.meta_keys=img_id,ori_shape,img_shape,scale_factor',
     'val_dataloader.dataset.pipeline (PackDetInputs).meta_keys lacks img_path, by which views read the image'),
    ('val_dataloader.dataset.pipeline.2.scale=96,96', 'its Resize is to have a scale_factor')])
def test_what_views_need_is_asked_for_before_any_work(call_tool, checkpoint, options, tmp_path, option, message):
    status, _, errors = call_tool('test', TINY_CONFIG, checkpoint, '--tta', 'flips', '--work-dir', tmp_path, *options,
                                  option)
    assert status == 2
    assert message in errors
    assert not (tmp_path / 'val-results.json').exists()


def test_views_have_thresholds_of_their_own(call_tool, checkpoint, options, tiny_data, tmp_path):
    from cellseg_mm.engine.config import load_config, parse_options
    from cellseg_mm.evaluation.instances import results_of
    from cellseg_mm.inference.predictor import Predictor
    weights = tmp_path / 'best_epoch_1.pth'
    weights.write_bytes(checkpoint.read_bytes())
    plain, of_views = tmp_path / 'best_epoch_1.thresholds.json', tmp_path / 'best_epoch_1.thresholds-flips-scales.json'
    plain.write_text(json.dumps(dict.fromkeys(CLASSES, 0.25)))
    arguments = '--tta', 'scales', 'flips', '--work-dir', tmp_path / 'test', *options
    status, _, errors = call_tool('test', TINY_CONFIG, weights, *arguments)
    assert status == 0, errors
    evaluation = json.loads((tmp_path / 'test/val-evaluation.json').read_text())
    assert evaluation['views'] == ['flips', 'scales']
    assert evaluation['thresholds'] == json.loads(of_views.read_text())
    assert json.loads(plain.read_text()) == dict.fromkeys(CLASSES, 0.25)

    config = load_config(TINY_CONFIG, parse_options(options[1:]))
    predictor = Predictor(weights, config=config, views=['scales', 'flips'])
    assert dict(zip(CLASSES, predictor.thresholds, strict=True)) == evaluation['thresholds']
    assert Predictor(weights, config=config, views=['turns']).thresholds.tolist() == [0.25] * 4
    images = json.loads((tiny_data / 'annotations/val.json').read_text())['images']
    found = {image['id']: predictor.detect(tiny_data / image['file_name']) for image in images}
    expected = [result for key, cells in found.items() for result in results_of(
        key, cells.masks, (cells.labels + 1).tolist(), cells.scores.tolist())]
    assert len(expected) > len(images)
    results = json.loads((tmp_path / 'test/val-results.json').read_text())
    assert [result['segmentation'] for result in results] == [result['segmentation'] for result in expected]
    assert [result['score'] for result in results] == pytest.approx([result['score'] for result in expected])

    status, output, errors = call_tool('test', TINY_CONFIG, weights, '--format-only', *arguments)
    assert status == 0, errors
    parameters = sum(value.numel() for name, value in torch.load(weights)['state_dict'].items()
                     if not name.endswith(('running_mean', 'running_var', 'num_batches_tracked')))
    assert f'model: {parameters / 1e6:.1f} M parameters' in output
    assert (tmp_path / 'test/test-results.zip').is_file()
    status, _, errors = call_tool('test', TINY_CONFIG, weights, '--tta', 'rotations', '--work-dir', tmp_path, *options)
    assert status == 2
    assert 'there are no views of the name rotations' in errors


def test_format_only_writes_a_submission_that_checks_out(checkpoint, options, tiny_data, tmp_path):
    from cellseg_mm.evaluation.submission import check_submission_file
    run = run_tool('test', TINY_CONFIG, checkpoint, '--format-only', '--work-dir', tmp_path, *options)
    assert run.returncode == 0, run.stderr
    assert 'class1: ' in run.stdout
    assert 'parameters' in run.stdout
    assert f'{tmp_path}/test-results.zip' in run.stdout
    for name in ('test-results.json', 'test-results.zip'):
        summary = check_submission_file(tmp_path / name, tiny_data / 'test_image_name_to_ids.json', 4)
        assert summary.images == 3
    assert zipfile.ZipFile(tmp_path / 'test-results.zip').namelist() == ['test-results.json']


def test_a_model_that_finds_nothing_scores_zero_and_cannot_be_submitted(call_tool, checkpoint, tiny_data, tmp_path):
    strict = ('--work-dir', tmp_path, '--cfg-options', f'data_root={tiny_data}', 'model.test_cfg.rcnn.score_thr=1.1')
    status, _, errors = call_tool('test', TINY_CONFIG, checkpoint, *strict)
    assert status == 0, errors
    assert json.loads((tmp_path / 'val-evaluation.json').read_text())['metrics']['AP50_dense'] == 0
    status, _, errors = call_tool('test', TINY_CONFIG, checkpoint, '--format-only', *strict)
    assert status == 2
    assert 'it holds no cell at all' in errors.splitlines()[-1]
    assert not (tmp_path / 'test-results.json').exists()


def outcome(work_dir):
    """The bytes of all that a test leaves, by name; of its log the metrics alone."""
    files = {path.name: path.read_bytes() for path in work_dir.glob('*-*')}
    log, = work_dir.glob('*/*.json')
    return files, {key: value for key, value in json.loads(log.read_text()).items() if 'time' not in key}


def test_two_processes_leave_what_one_leaves_with_odd_and_with_fewer_images(
        call_tool, checkpoint, tiny_data, tmp_path):
    # To share out 3 images, or 1, one is given to a second process as well.
    few = tmp_path / 'few'
    shutil.copytree(tiny_data, few)
    keep_images(few, 'val', 1)
    runs = {'odd': (tiny_data, 3), 'few': (few, 1), 'submission': (tiny_data, 3)}
    calls = {'one': [], 'two': []}
    for processes, launcher in (('one', 'none'), ('two', 'pytorch')):
        for name, (data, _) in runs.items():
            work_dir = tmp_path / processes / name
            work_dir.mkdir(parents=True)
            weights = shutil.copy(checkpoint, work_dir / 'start.pth')  # takes thresholds beside it
            calls[processes].append([str(argument) for argument in (
                TINY_CONFIG, weights, '--work-dir', work_dir, '--launcher', launcher,
                *(['--format-only', '--tta', 'flips'] if name == 'submission' else []),
                # MMEngine lets runs of one second and one process share what is logged, unless their names differ.
                '--cfg-options', f'experiment_name={processes}_{name}', f'data_root={data}',
                'model.test_cfg.rcnn.score_thr=0.0')])
    for call in calls['one']:
        status, _, errors = call_tool('test', *call)
        assert status == 0, errors
    script = tmp_path / 'several_calls.py'
    script.write_text(SEVERAL_CALLS)
    two = run_tool('test', *map(json.dumps, calls['two']), launch=(*TORCHRUN, script))
    assert two.returncode == 0, two.stderr
    assert two.stdout.count('predictions: ') == 2
    for name, (data, number) in runs.items():
        found, expected = (outcome(tmp_path / processes / name) for processes in ('two', 'one'))
        assert len(found[0]) == 2
        assert found == expected
        split = 'test' if name == 'submission' else 'val'
        assert len(json.loads((data / f'annotations/{split}.json').read_text())['images']) == number
        results = json.loads(found[0][f'{split}-results.json'])
        assert len({result['image_id'] for result in results}) == number
        # The same mask twice would be an image that counted twice.
        assert len({(one['image_id'], one['category_id'], one['score'], one['segmentation']['counts'])
                    for one in results}) == len(results)


@pytest.mark.parametrize(('config', 'weights', 'options', 'message'), [
    (TINY_CONFIG, '{tmp}/none.pth', (), 'there is no such checkpoint'),
    (TINY_CONFIG, '{tmp}/text.pth', (), 'this is not a checkpoint'),
    (TINY_CONFIG, '{tmp}/other.pth', (), 'the checkpoint is of another model'),
    (TINY_CONFIG, '{tmp}/classes.pth', (), "trained on the classes ('a', 'b')"),
    (TINY_CONFIG, '{checkpoint}', ('classes=a,b', ), 'its classes are'),
    (TINY_CONFIG, '{checkpoint}', ('data_root=nowhere', ), 'there is no such folder'),
    (REPOSITORY / 'configs/none.py', '{checkpoint}', (), 'there is no such config'),
    (TINY_CONFIG, '{checkpoint}', ('no value', ), 'key=value'),
    (TINY_CONFIG, '{tmp}/best.pth', (), 'best.thresholds.json: this is not JSON'),
])
def test_what_the_user_can_mend_is_one_line_and_exit_status_2(
        call_tool, checkpoint, tiny_data, tmp_path, config, weights, options, message):
    (tmp_path / 'text.pth').write_text('weights')
    (tmp_path / 'best.pth').write_bytes(checkpoint.read_bytes())
    (tmp_path / 'best.thresholds.json').write_text('{"half')
    torch.save(dict(state_dict={'weight': torch.zeros(2)}), tmp_path / 'other.pth')
    torch.save(dict(state_dict={}, meta=dict(dataset_meta=dict(classes=('a', 'b')))), tmp_path / 'classes.pth')
    status, _, errors = call_tool(
        'test', config, weights.format(tmp=tmp_path, checkpoint=checkpoint), '--work-dir', tmp_path / 'work',
        '--cfg-options', f'data_root={tiny_data}', *options)
    assert status == 2
    line = errors.strip().splitlines()[-1]
    assert line.startswith('error: ')
    assert message in line
    assert not (tmp_path / 'work/val-results.json').exists()


@pytest.mark.parametrize(('config', 'message'), [
    ('none.py', 'there is no such config'),  # told before the processes meet
    (TINY_CONFIG, 'the checkpoint is of another model'),  # once they have met
])
def test_two_processes_tell_what_the_user_can_mend_once(tiny_data, tmp_path, config, message):
    torch.save(dict(state_dict={'weight': torch.zeros(2)}), tmp_path / 'other.pth')
    script = tmp_path / 'late_first.py'
    script.write_text(LATE_FIRST)
    run = run_tool('test', config, tmp_path / 'other.pth', '--work-dir', tmp_path / 'work', '--launcher', 'pytorch',
                   '--cfg-options', f'data_root={tiny_data}', launch=(*TORCHRUN, script))
    assert run.returncode != 0
    line, = (line for line in run.stderr.splitlines() if line.startswith('error: '))
    assert message in line
    assert run.stderr.count('Traceback') == run.stderr.count('ChildFailedError:') == 1  # torchrun's own
