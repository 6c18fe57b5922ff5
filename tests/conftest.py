"""Data and configs that many tests share."""
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
TINY_CONFIG = REPOSITORY / 'tests/configs/tiny.py'


@pytest.fixture(scope='session')
def tiny_data(tmp_path_factory):
    """A prepared data set of 8 training and 3 test images; read it only."""
    from cellseg_mm.datasets.prepare import prepare
    from cellseg_mm.datasets.synthetic import write_demo_data
    root = tmp_path_factory.mktemp('data')
    write_demo_data(root, train=8, test=3)
    prepare(root, val_fraction=0.3, folds=0, workers=1)
    return root


@pytest.fixture
def tiny_config(tiny_data):
    """A config that trains on `tiny_data` in seconds."""
    from cellseg_mm.engine.config import load_config
    return load_config(TINY_CONFIG, {'data_root': str(tiny_data)})
