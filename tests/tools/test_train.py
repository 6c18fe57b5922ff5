import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime

import numpy as np
import pytest
import tifffile
import torch
from conftest import REPOSITORY, TINY_CONFIG, kill_tool_when, run_tool
from mmdet.registry import DATASETS, MODELS
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from training_folders import keep_images

from cellseg_mm.engine.amp import _Float32
from cellseg_mm.engine.config import load_config
from cellseg_mm.engine.epoch_loss_hook import validation_losses
from cellseg_mm.engine.runner import CellRunner
from cellseg_mm.engine.testing import validate
from cellseg_mm.io.work_dir import results_path
from cellseg_mm.visualization.curves import read_epochs

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

TORCHRUN = sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2'

# One step on all images, by two processes, in which nothing is left to chance: all proposals are taken.
ONE_STEP = f"""
_base_ = {str(TINY_CONFIG)!r}
train_dataloader = dict(
    batch_size=3, num_workers=0, sampler=dict(shuffle=False), dataset=dict(pipeline=_base_.val_pipeline))
model = dict(train_cfg=dict(rpn=dict(sampler=dict(num=1_000_000)), rcnn=dict(sampler=dict(num=1_000_000))))
optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=0.1, momentum=0.9), clip_grad=None)
train_cfg = dict(max_epochs=1)
"""

# Of every four images, two processes see two each, always the same.
SHARED_OUT = f"""
_base_ = {str(TINY_CONFIG)!r}
train_dataloader = dict(batch_size=4, sampler=dict(shuffle=False), dataset=dict(
    _delete_=True, type='RepeatDataset', times=60, dataset=_base_.train_dataloader.dataset))
optim_wrapper = dict(optimizer=dict(lr=0.002))
train_cfg = dict(max_epochs=1)
"""

AVERAGED = f"""
_base_ = {str(TINY_CONFIG)!r}
custom_hooks = [dict(type='EMAHook', momentum=0.5)]
train_cfg = dict(max_epochs=1)
"""


def train_arguments(data, work_dir, config=TINY_CONFIG):
    return (config, '--work-dir', work_dir, '--cfg-options', f'data_root={data}',
            'optim_wrapper.paramwise_cfg.norm_decay_mult=1.0')


@pytest.fixture(scope='module')
def trained(tiny_data, tmp_path_factory):
    """The work dir of an uninterrupted training."""
    work_dir = tmp_path_factory.mktemp('trained') / 'work'
    run = run_tool('train', *train_arguments(tiny_data, work_dir))
    assert run.returncode == 0, run.stderr
    (work_dir.parent / 'console.txt').write_text(run.stdout)
    assert run.stdout.splitlines()[-1].startswith(f'best checkpoint: {work_dir}/best_epoch_')
    return work_dir


def load(path):
    return torch.load(path, weights_only=True)


def assert_same_weights(work_dir, expected_dir):
    found, expected = load(work_dir / 'epoch_3.pth'), load(expected_dir / 'epoch_3.pth')
    assert found['state_dict'].keys() == expected['state_dict'].keys()
    for name, tensor in expected['state_dict'].items():
        assert torch.equal(found['state_dict'][name], tensor), name
    for key in ('step', 'exp_avg_sq'):
        for index, state in expected['optimizer']['state'].items():
            assert torch.equal(found['optimizer']['state'][index][key], state[key])


def assert_same_run(work_dir, expected_dir):
    assert_same_weights(work_dir, expected_dir)
    found, expected = load(work_dir / 'epoch_3.pth'), load(expected_dir / 'epoch_3.pth')
    assert found['param_schedulers'] == expected['param_schedulers']
    for key in ('best_score', 'best_epoch'):
        assert found['message_hub']['runtime_info'][key] == expected['message_hub']['runtime_info'][key]
    assert read_epochs(work_dir) == read_epochs(expected_dir)
    assert {path.name for path in work_dir.glob('*epoch_*')} == {path.name for path in expected_dir.glob('*epoch_*')}
    (found, ), (expected, ) = (folder.glob('best_epoch_*.results.json') for folder in (work_dir, expected_dir))
    assert found.read_text() == expected.read_text()
    assert not list(work_dir.glob('.*'))


def test_training_leaves_the_last_and_the_best_epoch_and_curves(trained):
    names = {path.name for path in trained.glob('*.pth')}
    assert 'epoch_3.pth' in names
    assert len(names) == 2
    assert (trained / 'curves.png').stat().st_size > 10_000
    best, = trained.glob('best_epoch_*.pth')
    assert load(best).keys() == {'meta', 'state_dict'}
    assert not list(trained.glob('.*'))


def test_the_config_beside_a_training_is_laid_out_for_reading(trained):
    text, = (path.read_text() for path in trained.glob('*.py'))
    assert max(map(len, text.splitlines())) < 120


def test_every_epoch_has_both_losses_and_one_line_on_the_console(trained):
    epochs = read_epochs(trained)
    assert [record['step'] for record in epochs] == [1, 2, 3]
    lines = [line for line in (trained.parent / 'console.txt').read_text().splitlines() if ' - INFO - Epoch ' in line]
    assert len(lines) == 3
    for epoch, (record, line) in enumerate(zip(epochs, lines, strict=True), 1):
        train, val = record['epoch/train_loss'], record['epoch/val_loss']
        for total, prefix in ((train, 'epoch/train_loss_'), (val, 'epoch/val_loss_')):
            assert total == pytest.approx(sum(value for key, value in record.items() if key.startswith(prefix)))
        assert f'Epoch {epoch} of 3: loss {train:.3f} in training, {val:.3f} in validation' in line
        assert ('AP50 ' in line) == (epoch > 1)  # validated at the second and the last
    log, = trained.glob('*/*.log')
    for detail in ('cells/AP75_dense/class1', 'SyncBatchNorm', 'paramwise_options', 'OneDL'):
        assert detail not in (trained.parent / 'console.txt').read_text()
        assert (detail in log.read_text()) == (detail != 'OneDL')


def test_the_validation_loss_is_that_of_the_weights_after_the_epoch(trained, tiny_config):
    runner = CellRunner(tiny_config.model, str(trained.parent / 'again'), experiment_name='val_loss',
                        default_scope='mmdet', cfg=tiny_config)
    runner.model.load_state_dict(load(trained / 'epoch_3.pth')['state_dict'])
    losses = []
    for batch in runner.build_dataloader(tiny_config.val_dataloader):
        torch.manual_seed(0)
        losses.append(float(validation_losses(runner.model.eval(), batch)['loss']))
    assert len(losses) > 1
    assert read_epochs(trained)[-1]['epoch/val_loss'] == pytest.approx(sum(losses) / len(losses))


def test_the_model_computes_in_the_layout_that_cpus_are_fast_in(tiny_config, tmp_path):
    if get_device() != 'cpu':
        pytest.skip('there is a GPU')
    tiny_config.work_dir = str(tmp_path)
    model = CellRunner.from_cfg(tiny_config).model
    weights = model.neck.fpn_convs[0].conv.weight
    assert weights.is_contiguous(memory_format=torch.channels_last)
    assert not weights.is_contiguous()
    assert any(isinstance(layer, _Float32) for layer in model.modules())  # the depthwise ones


def test_the_same_seed_gives_the_same_weights_with_and_without_the_validation_loss(trained, tiny_data, tmp_path):
    run = run_tool('train', *train_arguments(tiny_data, tmp_path), 'default_hooks.epoch_loss=None')
    assert run.returncode == 0, run.stderr
    assert read_epochs(tmp_path) == []
    assert_same_weights(tmp_path, trained)


def test_the_best_epochs_predictions_are_those_of_its_weights_and_know_no_true_cell(trained, tiny_config, tmp_path):
    best, = trained.glob('best_epoch_*.pth')
    tiny_config.val_dataloader.dataset.pipeline = tiny_config.test_dataloader.dataset.pipeline
    assert 'LoadCellAnnotations' not in str(tiny_config.val_dataloader)
    validate(tiny_config, best, tmp_path)
    assert json.loads((tmp_path / 'val-results.json').read_text()) == json.loads(results_path(best).read_text())


def test_the_run_is_on_record(trained, tiny_data):
    record = json.loads((trained / 'run.json').read_text())
    assert f'--work-dir {trained} --cfg-options data_root={tiny_data}' in record['command']
    assert datetime.fromisoformat(record['started']) < datetime.now().astimezone()
    assert 0 < record['seconds'] < 280
    assert (record['epochs'], record['seed'], record['processes']) == (3, 0, 1)
    assert record['parameters'] == sum(
        tensor.numel() for name, tensor in load(trained / 'epoch_3.pth')['state_dict'].items()
        if not name.endswith(('running_mean', 'running_var', 'num_batches_tracked')))
    assert 100 < record['peak_memory_mb']['cpu'] < 10_000
    assert (record['peak_memory_mb']['gpu'] is None) == (not torch.cuda.is_available())
    assert record['data']['root'] == str(tiny_data)


def test_a_run_killed_while_training_resumes_to_the_same_weights(trained, tiny_data, tmp_path):
    environment = {**os.environ, 'PYTHONPATH': str(REPOSITORY)}
    arguments = [str(argument) for argument in train_arguments(tiny_data, tmp_path)]
    process = subprocess.Popen([sys.executable, REPOSITORY / 'tools/train.py', *arguments], env=environment,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / 'epoch_1.pth').exists():
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / 'epoch_3.pth').exists()
    killed = json.loads((tmp_path / 'run.json').read_text())
    assert killed['epochs'] >= 1
    run = run_tool('train', *arguments, '--resume')
    assert run.returncode == 0, run.stderr
    assert_same_run(tmp_path, trained)
    record = json.loads((tmp_path / 'run.json').read_text())
    assert (record['started'], record['epochs']) == (killed['started'], 3)
    assert record['seconds'] > killed['seconds']


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


def test_a_training_goes_on_in_another_folder_with_its_best_epoch(call_tool, trained, tiny_data, tmp_path):
    arguments = train_arguments(tiny_data, tmp_path)
    best, = trained.glob('best_epoch_*.pth')
    status, _, errors = call_tool('train', *arguments, '--resume', best)
    assert status == 2
    assert 'it holds weights only; resume from epoch_<n>.pth' in errors
    run = run_tool('train', *arguments, 'train_cfg.max_epochs=4', '--resume', trained / 'epoch_3.pth')
    assert run.returncode == 0, run.stderr
    assert (tmp_path / 'epoch_4.pth').exists()
    best, = tmp_path.glob('best_epoch_*.pth')
    assert results_path(best).is_file()
    records = [json.loads((folder / 'run.json').read_text()) for folder in (trained, tmp_path)]
    assert records[0]['started'] == records[1]['started']
    assert records[0]['seconds'] < records[1]['seconds']
    assert (trained / 'epoch_3.pth').exists()


def test_fine_tuning_starts_from_the_weights_given(trained, tiny_data, tmp_path):
    best, = trained.glob('best_epoch_*.pth')
    run = run_tool('train', *train_arguments(tiny_data, tmp_path), f'load_from={best}', 'train_cfg.max_epochs=1',
                   'optim_wrapper.optimizer.lr=0.0')
    assert run.returncode == 0, run.stderr
    found, expected = load(tmp_path / 'epoch_1.pth')['state_dict'], load(best)['state_dict']
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_fine_tuning_takes_what_fits_of_other_classes_and_of_bare_weights(trained, tiny_data, tmp_path):
    best, = trained.glob('best_epoch_*.pth')
    weights = load(best)['state_dict']
    other = {'roi_head.bbox_head.fc_cls.weight': torch.zeros(2, 32), 'roi_head.bbox_head.fc_cls.bias': torch.zeros(2)}
    torch.save({f'module.{name}': tensor for name, tensor in {**weights, **other}.items()}, tmp_path / 'bare.pth')
    (tmp_path / 'averaged.py').write_text(AVERAGED)
    run = run_tool('train', *train_arguments(tiny_data, tmp_path / 'work', tmp_path / 'averaged.py'),
                   f'load_from={tmp_path}/bare.pth', 'optim_wrapper.optimizer.lr=0.0')
    assert run.returncode == 0, run.stderr
    assert f'{len(weights) - 2} of {len(weights)} tensors taken' in run.stdout + run.stderr
    assert 'size mismatch' not in run.stdout + run.stderr
    found = load(tmp_path / 'work/epoch_1.pth')
    for name, tensor in weights.items():
        assert torch.equal(found['state_dict'][name], tensor) == (name not in other), name
        assert torch.equal(found['ema_state_dict'][f'module.{name}'], found['state_dict'][name])


def test_the_best_of_averaged_weights_are_those_that_were_validated(tiny_data, tmp_path):
    (tmp_path / 'averaged.py').write_text(AVERAGED)
    run = run_tool('train', *train_arguments(tiny_data, tmp_path / 'work', tmp_path / 'averaged.py'))
    assert run.returncode == 0, run.stderr
    best, last = (load(tmp_path / f'work/{name}.pth') for name in ('best_epoch_1', 'epoch_1'))
    assert 'ema_state_dict' not in best
    changed = 0
    for name, tensor in best['state_dict'].items():
        assert torch.equal(tensor, last['state_dict'][name]), name  # the average: see MMEngine's EMAHook
        changed += not torch.equal(tensor, last['ema_state_dict'][f'module.{name}'])
    assert changed


def test_averaged_weights_resume_to_the_same(tiny_data, tmp_path):
    (tmp_path / 'averaged.py').write_text(AVERAGED)
    killed, whole = ((*train_arguments(tiny_data, tmp_path / name, tmp_path / 'averaged.py'), 'train_cfg.max_epochs=3')
                     for name in ('killed', 'whole'))
    kill_tool_when(tmp_path / 'killed/epoch_1.pth', 'train', *killed)
    assert not (tmp_path / 'killed/epoch_3.pth').exists()
    for arguments in ((*killed, '--resume'), whole):
        run = run_tool('train', *arguments)
        assert run.returncode == 0, run.stderr
    found, expected = (load(tmp_path / name / 'epoch_3.pth') for name in ('killed', 'whole'))
    for key in ('state_dict', 'ema_state_dict'):
        for name, tensor in expected[key].items():
            assert torch.equal(found[key][name], tensor), (key, name)


def test_a_broken_image_is_named_by_whichever_process_meets_it(tiny_data, tmp_path):
    data = tmp_path / 'data'
    shutil.copytree(tiny_data, data)
    for image in data.glob('train/*/image.tif'):
        image.write_bytes(image.read_bytes()[:500])
    run = run_tool('train', *train_arguments(data, tmp_path / 'work'), '--launcher', 'pytorch', launch=TORCHRUN)
    assert run.returncode != 0
    assert any(line.startswith(f'error: {data}/train/') for line in run.stderr.splitlines())
    assert run.stderr.count('Traceback') == 1  # torchrun's own


def test_a_disk_that_fills_up_ends_in_one_line(tiny_data, tmp_path):

    def allow_only_small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    run = run_tool('train', *train_arguments(tiny_data, tmp_path), preexec_fn=allow_only_small_files)
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].startswith('error: ')
    assert 'Traceback' not in run.stderr
    assert not list(tmp_path.glob('*.pth'))
    assert not list(tmp_path.glob('.*partial*'))


def test_mixed_precision_a_scaled_learning_rate_and_curves_for_tensorboard(tiny_data, tmp_path):
    run = run_tool('train', TINY_CONFIG, '--work-dir', tmp_path, '--amp', '--auto-scale-lr', '--tensorboard',
                   '--cfg-options',
                   f'data_root={tiny_data}', 'train_cfg.max_epochs=1')
    assert run.returncode == 0, run.stderr
    checkpoint = load(tmp_path / 'epoch_1.pth')
    assert all(tensor.isfinite().all() for tensor in checkpoint['state_dict'].values())
    assert 'CPUAmpOptimWrapper' in (tmp_path / 'tiny.py').read_text() or torch.cuda.is_available()
    # Batches of 2 where the rate was chosen for 4.
    assert checkpoint['optimizer']['param_groups'][0]['initial_lr'] == pytest.approx(0.0004 / 2)
    event_accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    events, = tmp_path.glob('*/vis_data/events.out.tfevents.*')
    curves = event_accumulator.EventAccumulator(str(events)).Reload()
    epoch, = read_epochs(tmp_path)
    for name in ('epoch/train_loss', 'epoch/val_loss'):
        value, = curves.Scalars(name)
        assert (value.step, value.value) == (1, pytest.approx(epoch[name]))
    assert {'loss', 'lr', 'cells/AP50_dense', 'cells/AP50_cap100'} <= set(curves.Tags()['scalars'])


def gradients(config, start, indices):
    """The gradients of one process that trains on these images, by parameter."""
    init_default_scope('mmdet')
    dataset = DATASETS.build(config.train_dataloader.dataset)
    model = MODELS.build(config.model).train().to(memory_format=torch.channels_last)  # as on the CPU
    model.load_state_dict(start)
    batch = model.data_preprocessor(pseudo_collate([dataset[index] for index in indices]), True)
    model.parse_losses(model(**batch, mode='loss'))[0].backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_a_step_of_two_processes_is_by_the_mean_of_their_gradients(trained, tiny_data, tmp_path):
    path = tmp_path / 'one_step.py'
    path.write_text(ONE_STEP)
    best, = trained.glob('best_epoch_*.pth')
    run = run_tool('train', path, '--work-dir', tmp_path / 'work', '--launcher', 'pytorch', '--cfg-options',
                   f'data_root={tiny_data}', f'load_from={best}', launch=TORCHRUN)
    assert run.returncode == 0, run.stderr
    checkpoint = load(tmp_path / 'work/epoch_1.pth')
    assert checkpoint['meta']['iter'] == 1
    assert len(checkpoint['random_states']) == 2
    assert json.loads((tmp_path / 'work/run.json').read_text())['processes'] == 2
    assert read_epochs(tmp_path / 'work')[0].keys() >= {'epoch/train_loss', 'epoch/val_loss'}

    # Five images: the first is given to the second process as well.
    config, start = load_config(path, {'data_root': str(tiny_data)}), load(best)['state_dict']
    first, second = (gradients(config, start, indices) for indices in ([0, 2, 4], [1, 3, 0]))
    states = checkpoint['optimizer']['state']
    assert len(states) == len(first)
    for index, name in enumerate(first):
        mean, step = (first[name] + second[name]) / 2, states[index]['momentum_buffer']  # at first the gradient itself
        assert (step - mean).norm() <= 1e-5 * mean.norm(), name  # sums in another order
        assert (first[name] - mean).norm() > 1e-4 * mean.norm(), f'{name}: nothing to average'
        torch.testing.assert_close(checkpoint['state_dict'][name], start[name] - 0.1 * mean, rtol=1e-6, atol=1e-7)


def keep_and_invert(root, split, number, inverted):
    """Leave the first images of a split, and invert some of them."""
    names = keep_images(root, split, number)
    for index in inverted:
        image = root / names[index]
        tifffile.imwrite(image, 255 - tifffile.imread(image)[..., :3], photometric='rgb')


@pytest.mark.slow
def test_a_training_of_two_processes_ends_within_the_spread_of_one(tiny_data, tmp_path):
    # The second process sees all inverted images: who learns from the first's alone ends with more than twice the loss.
    data, path = tmp_path / 'data', tmp_path / 'shared_out.py'
    shutil.copytree(tiny_data, data)
    keep_and_invert(data, 'train', 4, inverted=(1, 3))
    keep_and_invert(data, 'val', 3, inverted=(0, 2))
    path.write_text(SHARED_OUT)

    def final_loss(name, seed, *options, **launch):
        run = run_tool('train', path, '--work-dir', tmp_path / name, *options, f'data_root={data}',
                       f'randomness.seed={seed}', **launch)
        assert run.returncode == 0, run.stderr
        return read_epochs(tmp_path / name)[-1]['epoch/val_loss']

    of_one = [final_loss(f'one{seed}', seed, '--cfg-options') for seed in range(3)]
    of_two = final_loss('two', 0, '--launcher', 'pytorch', '--cfg-options', 'train_dataloader.batch_size=2',
                        launch=TORCHRUN)
    # Three seeds say little about their spread: it is taken for 5% of the mean at the least.
    spread = max(np.std(of_one, ddof=1), 0.05 * np.mean(of_one))
    assert abs(of_two - np.mean(of_one)) < 4 * spread, (of_one, of_two)


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
      'model.backbone.init_cfg.checkpoint={tmp}/none.pth'), 'none.pth, and there is no such file: put it there'),
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


@pytest.mark.parametrize(('left', 'options', 'message'), [
    (('epoch_1.pth', 'best_epoch_1.pth'), (), 'there is a training in it already'),
    (('best_epoch_1.pth', ), (), 'there is a training in it already'),
    # It gets as far as the weights to start from.
    (('best_epoch_1.pth', ), ('--resume', ), 'there is no such checkpoint'),
])
def test_a_training_killed_before_its_first_checkpoint_can_begin_anew(
        call_tool, tiny_data, tmp_path, left, options, message):
    for name in left:
        (tmp_path / name).touch()
    status, _, errors = call_tool('train', TINY_CONFIG, '--work-dir', tmp_path, *options, '--cfg-options',
                                  f'data_root={tiny_data}', f'load_from={tmp_path}/none.pth')
    assert status == 2
    assert message in errors.strip().splitlines()[-1]


def test_tensorboard_where_it_is_not_installed_says_how_to_install_it(call_tool, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr('cellseg_mm.engine.training.find_spec', lambda _: None)
    status, _, errors = call_tool('train', *train_arguments(tiny_data, tmp_path / 'new'), '--tensorboard')
    assert status == 2
    assert errors.strip().splitlines() == [
        'error: --tensorboard needs a package that is not installed: pip install tensorboard']
    assert not (tmp_path / 'new').exists()
