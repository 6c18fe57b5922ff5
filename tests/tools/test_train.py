import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import REPOSITORY, TINY_CONFIG, run_tool

# Kills its process halfway through the second checkpoint that it writes.
KILLED_WHILE_WRITING = """
import os, runpy, signal, sys
import mmengine.fileio.backends.local_backend as backend
def half(self, obj, filepath):
    with open(filepath, 'wb') as file:
        file.write(obj[:len(obj) // 2])
        file.flush()
        if 'epoch_2' in str(filepath) and 'best' not in str(filepath):
            os.kill(os.getpid(), signal.SIGKILL)
        file.write(obj[len(obj) // 2:])
backend.LocalBackend.put = half
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def train_arguments(data, work_dir):
    return TINY_CONFIG, '--work-dir', work_dir, '--cfg-options', f'data_root={data}'


@pytest.fixture(scope='module')
def trained(tiny_data, tmp_path_factory):
    """The work dir of an uninterrupted training."""
    work_dir = tmp_path_factory.mktemp('trained')
    run = run_tool('train', *train_arguments(tiny_data, work_dir))
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1].startswith(f'best checkpoint: {work_dir}/best_epoch_')
    return work_dir


def load(path):
    return torch.load(path, weights_only=True)


def assert_same_run(work_dir, expected_dir):
    found, expected = load(work_dir / 'epoch_3.pth'), load(expected_dir / 'epoch_3.pth')
    assert found['state_dict'].keys() == expected['state_dict'].keys()
    for name, tensor in expected['state_dict'].items():
        assert torch.equal(found['state_dict'][name], tensor), name
    for key in ('step', 'exp_avg_sq'):
        for index, state in expected['optimizer']['state'].items():
            assert torch.equal(found['optimizer']['state'][index][key], state[key])
    assert found['param_schedulers'] == expected['param_schedulers']
    for key in ('best_score', 'best_epoch'):
        assert found['message_hub']['runtime_info'][key] == expected['message_hub']['runtime_info'][key]
    assert {path.name for path in work_dir.glob('*.pth')} == {path.name for path in expected_dir.glob('*.pth')}


def test_training_leaves_the_last_and_the_best_epoch_and_curves(trained):
    names = {path.name for path in trained.glob('*.pth')}
    assert 'epoch_3.pth' in names
    assert len(names) == 2
    assert (trained / 'curves.png').stat().st_size > 10_000
    best, = trained.glob('best_epoch_*.pth')
    assert load(best).keys() == {'meta', 'state_dict'}
    assert not list(trained.glob('.*partial*'))


def test_the_same_seed_gives_the_same_weights(trained, tiny_data, tmp_path):
    run = run_tool('train', *train_arguments(tiny_data, tmp_path))
    assert run.returncode == 0, run.stderr
    assert_same_run(tmp_path, trained)


def test_a_run_killed_while_training_resumes_to_the_same_weights(trained, tiny_data, tmp_path):
    environment = {**os.environ, 'PYTHONPATH': str(REPOSITORY)}
    arguments = [str(argument) for argument in train_arguments(tiny_data, tmp_path)]
    process = subprocess.Popen([sys.executable, REPOSITORY / 'tools/train.py', *arguments], env=environment,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / 'epoch_1.pth').exists():
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / 'epoch_3.pth').exists()
    run = run_tool('train', *arguments, '--resume')
    assert run.returncode == 0, run.stderr
    assert_same_run(tmp_path, trained)


def test_a_run_killed_while_it_writes_a_checkpoint_resumes_to_the_same_weights(trained, tiny_data, tmp_path):
    arguments = [str(argument) for argument in train_arguments(tiny_data, tmp_path)]
    run = subprocess.run(
        [sys.executable, '-c', KILLED_WHILE_WRITING, REPOSITORY / 'tools/train.py', *arguments],
        env={**os.environ, 'PYTHONPATH': str(REPOSITORY)}, capture_output=True, check=False, timeout=280)
    assert run.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.glob('epoch_*.pth')] == ['epoch_1.pth']
    run = run_tool('train', *arguments, '--resume')
    assert run.returncode == 0, run.stderr
    assert_same_run(tmp_path, trained)


def test_a_training_goes_on_in_another_folder_with_its_best_epoch(trained, tiny_data, tmp_path):
    arguments = train_arguments(tiny_data, tmp_path)
    best, = trained.glob('best_epoch_*.pth')
    run = run_tool('train', *arguments, '--resume', best)
    assert run.returncode == 2
    assert 'it holds weights only; resume from epoch_<n>.pth' in run.stderr
    run = run_tool('train', *arguments, 'train_cfg.max_epochs=4', '--resume', trained / 'epoch_3.pth')
    assert run.returncode == 0, run.stderr
    assert (tmp_path / 'epoch_4.pth').exists()
    assert any(tmp_path.glob('best_epoch_*.pth'))
    assert (trained / 'epoch_3.pth').exists()


def test_fine_tuning_starts_from_the_weights_given(trained, tiny_data, tmp_path):
    best, = trained.glob('best_epoch_*.pth')
    run = run_tool('train', *train_arguments(tiny_data, tmp_path), f'load_from={best}', 'train_cfg.max_epochs=1',
                   'optim_wrapper.optimizer.lr=0.0')
    assert run.returncode == 0, run.stderr
    found, expected = load(tmp_path / 'epoch_1.pth')['state_dict'], load(best)['state_dict']
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_broken_image_is_named_by_whichever_process_meets_it(tiny_data, tmp_path):
    data = tmp_path / 'data'
    shutil.copytree(tiny_data, data)
    for image in data.glob('train/*/image.tif'):
        image.write_bytes(image.read_bytes()[:500])
    torchrun = (sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2')
    run = run_tool('train', *train_arguments(data, tmp_path / 'work'), '--launcher', 'pytorch', launch=torchrun)
    assert run.returncode != 0
    assert any(line.startswith(f'error: {data}/train/') for line in run.stderr.splitlines())


def test_a_disk_that_fills_up_ends_in_one_line(tiny_data, tmp_path):

    def allow_only_small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    run = run_tool('train', *train_arguments(tiny_data, tmp_path), preexec_fn=allow_only_small_files)
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].startswith('error: ')
    assert 'Traceback' not in run.stderr
    assert not list(tmp_path.glob('*.pth'))
    assert not list(tmp_path.glob('.*partial*'))


def test_mixed_precision_and_a_scaled_learning_rate(tiny_data, tmp_path):
    run = run_tool('train', TINY_CONFIG, '--work-dir', tmp_path, '--amp', '--auto-scale-lr', '--cfg-options',
                   f'data_root={tiny_data}', 'train_cfg.max_epochs=1')
    assert run.returncode == 0, run.stderr
    checkpoint = load(tmp_path / 'epoch_1.pth')
    assert all(tensor.isfinite().all() for tensor in checkpoint['state_dict'].values())
    assert 'CPUAmpOptimWrapper' in (tmp_path / 'tiny.py').read_text() or torch.cuda.is_available()
    # Batches of 2 where the rate was chosen for 4.
    assert checkpoint['optimizer']['param_groups'][0]['initial_lr'] == pytest.approx(0.0004 / 2)


def test_two_processes_train_together_and_test_as_one_does(tiny_data, tmp_path):
    torchrun = (sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2')
    run = run_tool('train', TINY_CONFIG, '--work-dir', tmp_path, '--launcher', 'pytorch', '--cfg-options',
                   f'data_root={tiny_data}', 'train_cfg.max_epochs=1', launch=torchrun)
    assert run.returncode == 0, run.stderr
    best, = tmp_path.glob('best_epoch_1.pth')
    assert len(load(tmp_path / 'epoch_1.pth')['random_states']) == 2
    metrics = []
    for name, launch, launcher in (('one', (sys.executable, ), 'none'), ('two', torchrun, 'pytorch')):
        run = run_tool('test', TINY_CONFIG, best, '--work-dir', tmp_path / name, '--launcher', launcher,
                       '--cfg-options', f'data_root={tiny_data}', launch=launch)
        assert run.returncode == 0, run.stderr
        metrics.append((tmp_path / name / 'val-metrics.json').read_text())
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize(('arguments', 'message'), [
    (('configs/nothing.py', ), 'there is no such config'),
    ((TINY_CONFIG, '--cfg-options', 'data_root=nowhere'), 'nowhere: there is no such folder'),
    ((TINY_CONFIG, '--cfg-options', 'data_root={tmp}'), 'no annotations yet; run: python tools/prepare_data.py'),
    ((TINY_CONFIG, '--cfg-options', 'data_root={data}', 'classes=a,b'), 'its classes are'),
    ((TINY_CONFIG, '--cfg-options', 'data_root={data}', '--work-dir', '{tmp}/file/work'), 'cannot write there'),
    ((TINY_CONFIG, '--cfg-options', 'data_root={data}', '--work-dir', '{tmp}/used'), 'add --resume'),
    ((TINY_CONFIG, '--cfg-options', 'data_root={data}', '--work-dir', '{tmp}/new', '--resume', 'a.pth'),
     'there is no such checkpoint'),
    ((TINY_CONFIG, '--cfg-options', 'data_root={data}', '--work-dir', '{tmp}/new', '--launcher', 'pytorch'),
     'needs torchrun'),
    ((REPOSITORY / 'configs/cell_maskrcnn.py', '--work-dir', '{tmp}/new', '--cfg-options', 'data_root={data}',
      'model.backbone.init_cfg.checkpoint={tmp}/none.pth'), 'the pretrained weights are missing'),
])
def test_what_the_user_can_mend_is_one_line_and_exit_status_2(call_tool, tiny_data, tmp_path, arguments, message):
    (tmp_path / 'file').write_text('')
    (tmp_path / 'used').mkdir()
    (tmp_path / 'used/epoch_1.pth').write_bytes(b'precious')
    status, _, errors = call_tool(
        'train', *(str(argument).format(tmp=tmp_path, data=tiny_data) for argument in arguments))
    assert status == 2
    line, = errors.strip().splitlines()
    assert line.startswith('error: ')
    assert message in line
    assert (tmp_path / 'used/epoch_1.pth').read_bytes() == b'precious'
