from copy import deepcopy

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from cellseg_mm.engine.amp import keep_depthwise_float32


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
