from copy import deepcopy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import OPTIM_WRAPPERS
from timm.layers import Conv2dSame
from torch import nn

from cellseg_mm.engine.amp import keep_depthwise_float32, use_amp


@pytest.mark.parametrize(('convolution', 'kept'), [
    (nn.Conv2d(8, 8, 5, padding=2, groups=8), True),
    (Conv2dSame(8, 8, 3, stride=2, groups=8), True),
    (nn.Conv2d(8, 8, 3, padding=1, groups=8), False),
    (nn.Conv2d(8, 8, 5, padding=2), False),
    (nn.Conv2d(8, 8, 5, padding=2, groups=4), False),
])
def test_slow_gradients_of_depthwise_convolutions_stay_in_float32(convolution, kept):
    model = nn.Sequential(convolution)
    maps = torch.randn(2, 8, 7, 9)
    expected = convolution(maps)
    names = list(model.state_dict())
    keep_depthwise_float32(model)
    model = deepcopy(model)  # as an average of the weights is
    assert list(model.state_dict()) == names
    with torch.autocast('cpu', torch.bfloat16):
        found = model(maps.bfloat16().float())
        assert model(maps.bfloat16()).dtype == found.dtype == (torch.float32 if kept else torch.bfloat16)
    torch.testing.assert_close(model(maps), expected)
    found.float().sum().backward()
    assert model[0].weight.grad.dtype == torch.float32


def test_a_model_may_be_prepared_twice():
    model = nn.Sequential(nn.Conv2d(8, 8, 5, padding=2, groups=8))
    keep_depthwise_float32(model)
    once = type(model[0])
    keep_depthwise_float32(model)
    assert type(model[0]) is once


@pytest.mark.parametrize(('gpu', 'expected'), [
    (False, dict(type='CPUAmpOptimWrapper', clip_grad=1)),
    (True, dict(type='AmpOptimWrapper', clip_grad=1, loss_scale='dynamic'))])
@pytest.mark.parametrize('before', [dict(type='OptimWrapper'), dict(type='AmpOptimWrapper', loss_scale=512.0)])
def test_a_config_is_made_to_train_in_mixed_precision_whatever_it_had(monkeypatch, gpu, expected, before):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    config = Config(dict(optim_wrapper=dict(before, clip_grad=1)))
    use_amp(config)
    assert config.optim_wrapper == expected


def test_a_training_step_on_the_cpu_computes_in_bfloat16_and_learns_in_float32():
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    wrapper = OPTIM_WRAPPERS.build(dict(type='CPUAmpOptimWrapper', optimizer=torch.optim.SGD(model.parameters(), lr=1)))
    with wrapper.optim_context(model):
        found = model(torch.ones(4, 3))
    assert found.dtype == torch.bfloat16
    assert model(torch.ones(4, 3)).dtype == torch.float32
    wrapper.update_params(found.float().sum())
    assert model.weight.dtype == torch.float32
    torch.testing.assert_close(model.weight, before - 4)
