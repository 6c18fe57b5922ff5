import json
import math
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from conftest import REPOSITORY
from mmdet.registry import HOOKS
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import Runner

from cellseg_mm.engine import budget
from cellseg_mm.engine.budget import SpeedHook, apply_budget, epoch_images, for_speed, own_iterations
from cellseg_mm.engine.config import load_config
from cellseg_mm.errors import UserError

# The 5 training images in batches of 2 are 3 iterations an epoch.
PER_EPOCH = 3
WARMUP = dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=6)
COSINE = dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, convert_to_iter_based=True)
STEPS = dict(type='MultiStepLR', milestones=[8, 16], gamma=0.1, by_epoch=True)
PLATEAU = dict(type='ReduceOnPlateauLR', monitor='cells/AP50_dense', rule='greater', patience=3, by_epoch=True, end=999)


def planned(config, schedulers, epochs=20):
    config.param_scheduler = schedulers
    config.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=epochs)
    return config


def rates(schedulers, iterations, per_epoch=PER_EPOCH):
    """The learning rate of each iteration, as MMEngine's runner sets it."""
    wrapper = OptimWrapper(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0))
    built = [PARAM_SCHEDULERS.build(
        {'end': iterations // (per_epoch if one.get('by_epoch', True) else 1), **one},
        default_args=dict(optimizer=wrapper, epoch_length=per_epoch)) for one in schedulers]
    found = []
    for iteration in range(1, iterations + 1):
        found.append(wrapper.get_lr()['lr'][0])
        for scheduler in built:
            if not scheduler.by_epoch or iteration % per_epoch == 0:
                scheduler.step()
    return found


@pytest.mark.parametrize(('iterations', 'epochs', 'per_epoch'), [
    (1, 1, 1), (4, 4, 1), (6, 3, 2), (11, 4, 3), (300, 5, 60), (301, 5, 61)])
def test_a_budget_is_cut_into_at_most_five_epochs_each_with_a_validation(tiny_config, iterations, epochs, per_epoch):
    assert apply_budget(tiny_config, iterations) == []
    assert tiny_config.train_cfg == dict(type='EpochBasedTrainLoop', max_epochs=epochs, val_interval=1)
    assert tiny_config.train_dataloader.sampler == dict(
        type='BudgetSampler', iterations=iterations, per_epoch=per_epoch, batch_size=2)
    assert (epochs - 1) * per_epoch < iterations <= epochs * per_epoch


@pytest.mark.parametrize('schedulers', [[WARMUP, COSINE], [WARMUP, STEPS], [STEPS], [
    dict(WARMUP, end=5), dict(type='PolyLR', power=0.9, by_epoch=False, begin=5, end=60)], [
    dict(type='StepLR', step_size=4, gamma=0.5)], [dict(type='CosineAnnealingLR', T_max=20, eta_min=0.1)]])
def test_a_budget_of_the_configs_own_length_leaves_its_learning_rate_as_it_is(tiny_config, schedulers):
    config = planned(tiny_config, schedulers)
    own, per_epoch = own_iterations(config)
    assert (own, per_epoch) == (60, PER_EPOCH)
    expected = rates(schedulers, own)
    apply_budget(config, own)
    found = rates(config.param_scheduler, own)
    if not any(one['type'] == 'CosineAnnealingLR' and not one.get('convert_to_iter_based') for one in schedulers):
        assert found == pytest.approx(expected)
    else:  # smooth, where it went down by epochs
        assert found[::PER_EPOCH] == pytest.approx(expected[::PER_EPOCH])


@pytest.mark.parametrize('iterations', [31, 60, 200])
def test_a_learning_rate_goes_all_the_way_down_within_the_budget(tiny_config, iterations):
    config = planned(tiny_config, [WARMUP, COSINE])
    assert apply_budget(config, iterations) == []
    found = rates(config.param_scheduler, iterations)
    assert found[0] == pytest.approx(0.1)
    assert max(found) == pytest.approx(found[6], rel=0.1)  # a warm-up keeps its length
    assert found[-1] < 0.01


def test_steps_come_at_the_same_shares_of_the_training(tiny_config):
    config = planned(tiny_config, [STEPS])
    apply_budget(config, 100)
    found = rates(config.param_scheduler, 100)
    assert found == pytest.approx([1.0] * 40 + [0.1] * 40 + [0.01] * 20)


def test_a_warm_up_longer_than_a_fifth_of_the_budget_is_shortened_and_told(tiny_config):
    config = planned(tiny_config, [dict(WARMUP, end=50), dict(COSINE, begin=50, by_epoch=False, end=60)], epochs=20)
    config.param_scheduler[1].pop('convert_to_iter_based')
    note, = apply_budget(config, 20)
    assert note == 'its warm-up of 50 iterations was shortened to 4'
    found = rates(config.param_scheduler, 20)
    assert max(found) == pytest.approx(found[3], rel=0.05)
    assert found[2] < found[3]
    assert found[-1] < 0.05


def test_a_plateau_waits_for_the_same_share_of_validations(tiny_config):
    config = planned(tiny_config, PLATEAU)
    apply_budget(config, 500)
    scheduler, = config.param_scheduler
    assert scheduler == dict(PLATEAU, patience=1, end=250)


@pytest.mark.parametrize(('interval', 'patience'), [({}, 2), (dict(val_interval=1000), 2), (dict(val_interval=250), 1)])
def test_a_plateau_of_a_config_in_iterations_waits_for_the_same_share_of_its_validations(
        tiny_config, interval, patience):
    tiny_config.param_scheduler = [PLATEAU]
    tiny_config.train_cfg = dict(type='IterBasedTrainLoop', max_iters=10_000, **interval)
    apply_budget(tiny_config, 1000)
    assert tiny_config.param_scheduler[0]['patience'] == patience


@pytest.mark.parametrize(('patience', 'expected'), [(0, 0), (1, 1), (2, 1), (8, 2)])
def test_a_plateau_that_waits_goes_on_waiting(tiny_config, patience, expected):
    config = planned(tiny_config, dict(PLATEAU, patience=patience, cooldown=patience))
    apply_budget(config, 500)
    assert [config.param_scheduler[0][key] for key in ('patience', 'cooldown')] == [expected, expected]


def test_a_plateau_is_at_work_in_the_same_share_of_epochs(tiny_config):
    config = planned(deepcopy(tiny_config), dict(PLATEAU, begin=8, end=16))
    apply_budget(config, 500)
    assert [config.param_scheduler[0][key] for key in ('begin', 'end')] == [2, 4]
    config = planned(tiny_config, dict(PLATEAU, begin=8, end=9), epochs=100)
    apply_budget(config, 500)
    assert [config.param_scheduler[0][key] for key in ('begin', 'end')] == [0, 1]


@pytest.mark.parametrize('decay', [
    dict(type='LinearLR', start_factor=1, end_factor=0.01), dict(type='LinearLR', start_factor=0.5, end_factor=0.01)])
def test_a_linear_decay_is_no_warm_up(tiny_config, decay):
    config = planned(tiny_config, [dict(decay, by_epoch=False, begin=0, end=60)])
    expected = rates(config.param_scheduler, 60)
    assert apply_budget(config, 600) == []
    found = rates(config.param_scheduler, 600)
    assert found[::10] == pytest.approx(expected, abs=0.02)
    assert found[-1] < 0.02


@pytest.mark.parametrize('warmup', [
    dict(type='LinearLR'), dict(type='ConstantLR'), dict(type='ConstantLR', factor=0.1),
    dict(type='LinearLR', start_factor=0.1, end_factor=0.9)])
def test_what_rises_is_a_warm_up_and_keeps_its_iterations(tiny_config, warmup):
    warmup = dict(warmup, by_epoch=False, begin=0, end=6)
    config = planned(tiny_config, [warmup])
    apply_budget(config, 600)
    assert config.param_scheduler == [warmup]


def test_exponential_decay_comes_to_the_same_end(tiny_config):
    config = planned(tiny_config, [dict(type='ExponentialLR', gamma=0.9, by_epoch=True)])
    apply_budget(config, 120)
    assert rates(config.param_scheduler, 120)[-1] == pytest.approx(0.9**(20 * 119 / 120))


def test_hooks_that_count_epochs_follow_and_early_stopping_is_left_out(tiny_config):
    config = planned(tiny_config, [STEPS])
    config.custom_hooks = [dict(type='PipelineSwitchHook', switch_epoch=16), dict(type='EarlyStoppingHook')]
    apply_budget(config, 100)
    assert config.custom_hooks == [dict(type='PipelineSwitchHook', switch_epoch=4)]


def test_an_average_of_the_weights_reaches_back_as_far_of_the_training(tiny_config):
    config = planned(tiny_config, [STEPS])
    own = own_iterations(config)[0]
    kind = 'ExpMomentumEMA'
    average = dict(type='EMAHook', ema_type=kind, momentum=0.01, gamma=40, begin_epoch=10)
    config.custom_hooks = [average, dict(type='EMAHook', begin_iter=own // 2),
                           dict(type='mmengine.EMAHook', ema_type=kind)]
    shorter = deepcopy(config)
    apply_budget(config, 2 * own)
    assert config.custom_hooks == [dict(average, momentum=0.005, gamma=80, begin_epoch=2),  # of 5 epochs, for 20
                                   dict(type='EMAHook', begin_iter=own, momentum=0.0001),  # by MMEngine's default
                                   dict(type='mmengine.EMAHook', ema_type=kind, momentum=0.0001, gamma=4000)]
    shorter.custom_hooks = [dict(average, momentum=0.3), dict(type='EMAHook', ema_type='StochasticWeightAverage')]
    apply_budget(shorter, own // 4)
    assert shorter.custom_hooks == [dict(average, momentum=0.99, gamma=10, begin_epoch=2),
                                    dict(type='EMAHook', ema_type='StochasticWeightAverage')]
    for hook in (*config.custom_hooks, *shorter.custom_hooks):
        runner = SimpleNamespace(model=torch.nn.Linear(1, 1), _resume=False)
        HOOKS.build(hook).before_run(runner)


WRAPPINGS = dict(
    plain=lambda inner: inner,
    chosen=lambda inner: dict(inner, indices=3),
    repeated=lambda inner: dict(type='RepeatDataset', times=3, dataset=inner),
    balanced=lambda inner: dict(type='ClassBalancedDataset', oversample_thr=8.0, dataset=inner),
    mixed=lambda inner: dict(type='MultiImageMixDataset', pipeline=inner.pipeline[3:], dataset=dict(
        type='ClassBalancedDataset', oversample_thr=8.0, dataset=dict(inner, indices=4))))


@pytest.mark.parametrize('name', WRAPPINGS)
def test_an_epoch_has_the_iterations_that_its_data_loader_gives(tiny_config, name):
    loader = planned(tiny_config, []).train_dataloader
    loader.dataset = WRAPPINGS[name](loader.dataset)
    before = tiny_config.to_dict()
    found = own_iterations(tiny_config)
    assert tiny_config.to_dict() == before
    built = Runner.build_dataloader(loader)
    assert found == (20 * len(built), len(built))
    assert epoch_images(tiny_config) == len(built.dataset)
    assert own_iterations(tiny_config, processes=3)[1] == math.ceil(math.ceil(len(built.dataset) / 3) / 2)
    assert (len(built.dataset) > 5) == (name in ('repeated', 'balanced', 'mixed'))


def test_images_are_counted_whatever_becomes_of_them(tiny_config):
    loader = tiny_config.train_dataloader
    loader.dataset.pipeline = [*loader.dataset.pipeline, dict(type='NoTransform')]
    assert epoch_images(tiny_config) == 5
    loader.dataset = dict(type='MultiImageMixDataset', dataset=loader.dataset, pipeline=[dict(type='NoTransform')])
    assert epoch_images(tiny_config) == 5


def test_data_of_which_filters_leave_nothing_are_an_error_whatever_wraps_them(tiny_config):
    inner = tiny_config.train_dataloader.dataset
    inner.filter_cfg = dict(min_size=10_000)
    for wrap in WRAPPINGS.values():
        tiny_config.train_dataloader.dataset = wrap(inner)
        with pytest.raises(UserError, match='the train data set is empty'):
            epoch_images(tiny_config)


def test_a_warm_up_longer_than_the_whole_training_is_shortened_too(tiny_config):
    config = planned(tiny_config, [dict(WARMUP, end=100), COSINE])
    assert apply_budget(config, 50) == ['its warm-up of 100 iterations was shortened to 10']
    found = rates(config.param_scheduler, 50)
    assert found[9] > 0.8
    assert found[-1] < 0.01


@pytest.mark.parametrize('name', ['cell_maskrcnn', 'cell_maskrcnn_lite', 'cell_solov2'])
def test_configs_take_a_budget_and_can_be_read_again(name, tiny_data, tmp_path):
    config = load_config(REPOSITORY / f'configs/{name}.py', {'data_root': str(tiny_data)})
    apply_budget(config, 30)
    config.dump(tmp_path / 'config.py')
    again = load_config(tmp_path / 'config.py')
    assert again.to_dict() == config.to_dict()
    schedulers = [one for one in again.param_scheduler if 'Plateau' not in one['type']]
    assert all(0 <= one['begin'] < one['end'] <= 30 for one in schedulers)
    assert rates(schedulers, 30)


def test_speed_is_measured_after_a_warm_up(tiny_config, tmp_path, monkeypatch):
    times = iter([100.0, 106.0])
    monkeypatch.setattr(budget, '_now', lambda: next(times))
    config = for_speed(tiny_config, tmp_path / 'seconds.json')
    assert tiny_config.train_dataloader.sampler.type == 'DefaultSampler'
    sampler = config.train_dataloader.sampler
    assert sampler.iterations == sampler.per_epoch == budget.WARMED_UP + budget.MEASURED
    hook = SpeedHook(config.custom_hooks[-1]['path'])
    for batch in range(sampler.iterations - 1):
        hook.after_train_iter(None, batch)
    with pytest.raises(SystemExit) as end:
        hook.after_train_iter(None, sampler.iterations - 1)
    assert not end.value.code
    assert json.loads((tmp_path / 'seconds.json').read_text()) == 6.0 / budget.MEASURED
