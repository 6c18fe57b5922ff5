"""Each config of `configs/`: its model is built, trains a step, predicts, and comes back from a file."""
import math
from copy import deepcopy

import pytest
import torch
from model_runs import CONFIGS, batch, build, predict, tiny_scene

from cellseg_mm.engine.epoch_loss_hook import validation_losses
from cellseg_mm.evaluation.submission import MAX_PARAMETERS
from cellseg_mm.models.checkpoint import check_weights, read_checkpoint
from cellseg_mm.structures.local_masks import LocalMasks

MAX_DETS = 20  # untrained models find as many as they may, and masks take time
SIZE, SMALLER = (64, 96), (40, 70)
TILES = {'model.tiles.size': 64, 'model.tiles.overlap': 32}
# Numbers of the same parts, which say how many places are looked at; time grows with them. Scenes have two classes.
FEWER = dict(
    nuclei_lite={'classes': ('nucleus', 'other')},
    cell_queryinst={'model.rpn_head.num_proposals': 30},
    cell_queryinst_lite={'model.rpn_head.num_proposals': 30, **TILES},
    cell_mask2former={'model.panoptic_head.num_queries': 30, 'model.train_cfg.num_points': 1000},
    cell_mask2former_lite=TILES,
    cell_solov2_lite=TILES,
    cell_solov2={'model.mask_head.num_grids': [20, 10, 5, 3]})


# Where a model has a light config, that one is tested each time.
EACH = [pytest.param(name, marks=pytest.mark.slow if f'{name}_lite' in CONFIGS else ()) for name in CONFIGS]


@pytest.mark.parametrize('name', EACH)
def test_a_config_trains_predicts_and_comes_back_from_its_file(name, tmp_path):
    config, model, optim_wrapper = build(name, max_dets=MAX_DETS, **FEWER.get(name, {}))
    assert sum(parameter.numel() for parameter in model.parameters()) < MAX_PARAMETERS
    full, empty = tiny_scene(3, SIZE), tiny_scene(0, SMALLER)
    totals = []
    for data in (batch(full, empty), batch(empty)):
        losses = model.train_step(data, optim_wrapper)
        assert all(math.isfinite(float(value.detach())) for value in losses.values()), losses
        totals.append(float(losses['loss']))
    assert totals[1] < 20 * totals[0]  # what is divided by the number of cells is divided by one where there is none
    losses = validation_losses(deepcopy(model).eval(), batch(full, empty))
    assert all(math.isfinite(float(value)) for value in losses.values()), losses
    state = optim_wrapper.optimizer.state  # which holds the average gradient, under a name of the optimizer's
    trainable = {key: state[value] for key, value in model.named_parameters() if value.requires_grad}
    idle = [key for key, kept in trainable.items()
            if not any(kept[name].any() for name in ('momentum_buffer', 'exp_avg') if name in kept)]
    assert not [key for key, kept in trainable.items() if not kept]  # on which distributed training would wait
    assert len(idle) < 0.2 * len(trainable), idle[:5]

    found = predict(model, batch(full, empty))
    for instances, size in zip(found, (SIZE, SMALLER), strict=True):
        assert isinstance(instances.masks, LocalMasks)
        assert len(instances) <= MAX_DETS
        assert len(instances.masks) == len(instances.scores) == len(instances.labels) == len(instances.bboxes)
        assert (instances.masks.height, instances.masks.width) == size
        assert ((instances.labels >= 0) & (instances.labels < len(config.classes))).all()

    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'weights.pth')
    checkpoint = read_checkpoint(tmp_path / 'weights.pth')
    for value in model.state_dict().values():
        value.zero_()
    check_weights(model, checkpoint, 'weights.pth')
    model.load_state_dict(checkpoint['state_dict'])
    again = predict(model, batch(full, empty))[0]
    assert torch.equal(again.scores, found[0].scores)
    assert again.masks.to_rles() == found[0].masks.to_rles()
