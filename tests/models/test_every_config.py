"""Each config of `configs/`: its model is built, trains a step, predicts, and comes back from a file."""
import math

import pytest
import torch
from model_runs import CONFIGS, batch, build, predict, tiny_scene

from cellseg_mm.engine.checkpoint import check_weights, read_checkpoint
from cellseg_mm.evaluation.submission import MAX_PARAMETERS
from cellseg_mm.structures.local_masks import LocalMasks

MAX_DETS = 20  # untrained models find as many as they may, and masks take time


@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_trains_predicts_and_comes_back_from_its_file(name, tmp_path):
    config, model, optim_wrapper = build(name, max_dets=MAX_DETS)
    assert sum(parameter.numel() for parameter in model.parameters()) < MAX_PARAMETERS
    full, empty = tiny_scene(3), tiny_scene(0)
    before = {key: value.clone() for key, value in model.named_parameters()}
    for data in (batch(full, empty), batch(empty)):
        losses = model.train_step(data, optim_wrapper)
        assert all(math.isfinite(float(value.detach())) for value in losses.values()), losses
    changed = [key for key, value in model.named_parameters() if not torch.equal(value, before[key])]
    trainable = [key for key, value in model.named_parameters() if value.requires_grad]
    assert len(changed) > 0.9 * len(trainable), sorted(set(trainable) - set(changed))[:5]

    found = predict(model, batch(full, empty))
    for instances in found:
        assert isinstance(instances.masks, LocalMasks)
        assert len(instances) <= MAX_DETS
        assert len(instances.masks) == len(instances.scores) == len(instances.labels) == len(instances.bboxes)
        assert (instances.masks.height, instances.masks.width) == full[0].shape[:2]
        assert ((instances.labels >= 0) & (instances.labels < len(config.classes))).all()

    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'weights.pth')
    checkpoint = read_checkpoint(tmp_path / 'weights.pth')
    _, other, _ = build(name, seed=1, max_dets=MAX_DETS)
    check_weights(other, checkpoint, 'weights.pth')
    other.load_state_dict(checkpoint['state_dict'])
    for first, second in zip(found, predict(other, batch(full, empty)), strict=True):
        assert torch.equal(first.scores, second.scores)
        assert first.masks.to_rles() == second.masks.to_rles()
