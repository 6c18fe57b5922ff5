"""Each light model learns a crowded piece of a real tile."""
import os

import numpy as np
import pytest
from model_runs import CONFIGS, batch, build, dense_scene, predict

from cellseg_mm.structures.overlaps import intersections

STEPS = 100
LIGHT = [name for name in CONFIGS if name.endswith('_lite')]
UNTIL_HITS = {'cell_mask2former_lite': 300}  # its loss halves as soon, but its masks still cover more than their cells


@pytest.fixture(scope='module')
def scene():
    return dense_scene(300)


@pytest.mark.slow
@pytest.mark.skipif('CELLSEG_REAL_DATA' not in os.environ, reason='CELLSEG_REAL_DATA is not set')
@pytest.mark.parametrize('name', LIGHT)
def test_loss_halves_in_100_steps_on_300_cells_and_more_than_100_are_found(name, scene):
    _, model, optim_wrapper = build(name, pretrained=True)
    data = batch(scene, factor=2.0)
    losses = [float(model.train_step(data, optim_wrapper)['loss']) for _ in range(STEPS)]
    print(name, np.round(losses[::10] + losses[-1:], 3))
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:3])
    detections = predict(model, data)[0].masks
    assert (detections.areas > 0).sum() > 100
    model.train()
    for _ in range(STEPS, UNTIL_HITS.get(name, STEPS)):
        model.train_step(data, optim_wrapper)
    found = predict(model, data)[0].masks
    found = found[found.areas > 0]
    i, j, shared = intersections(scene[1], found)
    hits = len(np.unique(i[shared > 0.5 * (scene[1].areas[i] + found.areas[j] - shared)]))
    print(f'{name}: {len(found)} detections, {hits} of {len(scene[1])} cells at IoU 0.5')
    assert len(found) > 100
    assert hits > 100
