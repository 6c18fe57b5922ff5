"""The configs of the ablation, each hours of training."""
import pytest
from conftest import REPOSITORY
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules

import cellseg_mm.register  # noqa: F401
from cellseg_mm.datasets.wrappers import build_dataset
from cellseg_mm.engine.config import load_config
from cellseg_mm.engine.preflight import drop_pretrained

CONFIGS = sorted((REPOSITORY / 'benchmarks/recipe').glob('*.py'))


@pytest.mark.parametrize('path', CONFIGS, ids=[path.stem for path in CONFIGS])
def test_a_config_of_the_ablation_can_be_built(path, tiny_data):
    assert path.read_text().startswith('# ')
    config = load_config(path, {'data_root': str(tiny_data)})
    register_all_modules()
    drop_pretrained(config.model)
    MODELS.build(config.model)
    dataset = build_dataset(config.train_dataloader.dataset, 'train')
    assert dataset[0]['data_samples'].gt_instances.masks.areas.any()
