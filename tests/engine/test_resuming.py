import pytest
from mmengine.config import ConfigDict

from cellseg_mm.engine.training import _check_schedule
from cellseg_mm.errors import UserError

PLATEAU = dict(type='ReduceOnPlateauLR', end=100_000)
WARM_UP = dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100)
PLANNED = dict(message_hub=dict(runtime_info=dict(max_epochs=20)))


def resume(schedulers, max_epochs):
    config = ConfigDict(param_scheduler=schedulers, train_cfg=dict(max_epochs=max_epochs))
    _check_schedule(config, PLANNED, 'epoch_3.pth')


@pytest.mark.parametrize('schedulers', [PLATEAU, [PLATEAU], [WARM_UP, PLATEAU], WARM_UP])
def test_a_rate_that_is_planned_for_no_end_can_be_trained_for_longer(schedulers):
    resume(schedulers, 30)


@pytest.mark.parametrize('schedulers', [
    dict(type='CosineAnnealingLR'), [WARM_UP, dict(type='MultiStepLR', milestones=[12])],
    [WARM_UP, dict(type='LinearLR', start_factor=1, end_factor=0.01, begin=0, end=20)],
    [{key: value for key, value in WARM_UP.items() if key != 'end'}, PLATEAU]])
def test_a_rate_that_is_planned_for_an_end_cannot(schedulers):
    resume(schedulers, 20)
    with pytest.raises(UserError, match='planned for 20 epochs, not 30; resume with --cfg-options train_cfg'):
        resume(schedulers, 30)
