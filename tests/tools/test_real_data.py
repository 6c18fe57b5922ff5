"""The whole path on real cells, where CELLSEG_REAL_DATA names them."""
import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import REPOSITORY, run_tool

SAMPLE = Path(os.environ.get('CELLSEG_REAL_DATA', ''), 'hw3/sample')
needs_sample = pytest.mark.skipif('CELLSEG_REAL_DATA' not in os.environ, reason='CELLSEG_REAL_DATA is not set')


@needs_sample
@pytest.mark.slow
def test_the_published_recipe_trains_ten_iterations_on_the_real_sample(tmp_path):
    shutil.copytree(SAMPLE, tmp_path / 'data/train/sample')
    run = run_tool('prepare_data', tmp_path / 'data', '--folds', 0, '--classes', 'class1,class2,class3,class4')
    assert run.returncode == 0, run.stderr
    cells = json.loads((tmp_path / 'data/annotations/train.json').read_text())['annotations']
    assert [sum(cell['category_id'] == category for cell in cells) for category in (1, 2, 3, 4)] == [2, 159, 0, 0]
    run = run_tool(
        'train', REPOSITORY / 'configs/cell_maskrcnn.py', '--work-dir', tmp_path / 'work', '--cfg-options',
        f'data_root={tmp_path}/data', 'model.backbone.init_cfg=None', 'train_cfg.max_epochs=10',
        'train_cfg.val_begin=11', 'default_hooks.logger.interval=1', timeout=1200)
    assert run.returncode == 0, run.stderr
    log, = (tmp_path / 'work').glob('*/vis_data/scalars.json')
    losses = [json.loads(line)['loss'] for line in log.read_text().splitlines() if '"loss"' in line]
    assert len(losses) == 10
    assert losses[-1] < losses[0]
