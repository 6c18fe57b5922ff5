"""What the ablation's script makes of its runs, and that the docs say the same."""
import importlib.util
import json

import numpy as np
import pytest
from conftest import REPOSITORY
from scipy.stats import sem, ttest_1samp

DOCS = (REPOSITORY / 'docs/recipe.md').read_text(encoding='utf-8').splitlines()


@pytest.fixture(scope='module')
def recipe():
    spec = importlib.util.spec_from_file_location('recipe_script', REPOSITORY / 'benchmarks/recipe.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize('seed', range(20))
def test_a_difference_is_bold_where_a_t_test_is_significant(recipe, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(rng.choice([0, 0.02, 0.1]), 0.02, rng.integers(3, 6)).tolist()
    text = recipe.difference(values)
    assert text.strip('*') == f'{np.mean(values):+.3f} ± {sem(values):.3f}'
    assert text.startswith('**') == (ttest_1samp(values, 0).pvalue < 0.05)


def test_fewer_than_three_folds_are_never_bold(recipe):
    assert recipe.difference([0.25]) == '+0.250'
    assert recipe.difference([0.25, 0.25]) == '+0.250 ± 0.000'


@pytest.mark.parametrize(('name', 'columns'), [('recipe', None), ('recipe_few', -2)], ids=['all images', 'few'])
def test_the_table_of_the_docs_is_that_of_the_runs(recipe, name, columns):
    runs = json.loads((REPOSITORY / f'benchmarks/{name}.json').read_text(encoding='utf-8'))['runs']
    lines = ['|'.join(line.split('|')[:columns]) + '|' * bool(columns) for line in recipe.table(runs).splitlines()]
    start = DOCS.index(lines[0])
    assert DOCS[start:start + len(lines)] == lines
    assert not DOCS[start + len(lines)]


def test_a_fold_is_a_data_set_of_its_own_of_as_many_images_as_asked(recipe, folded_data, tmp_path):
    recipe.fold_root(folded_data, tmp_path, 1, 2)
    root = tmp_path / 'fold1/data'
    splits = [json.loads((folder / name).read_text()) for folder, name in (
        (root, 'annotations/train.json'), (folded_data, recipe.fold_file(1, 'train')),
        (root, 'annotations/val.json'), (folded_data, recipe.fold_file(1, 'val')))]
    few, train, val, held_back = splits
    assert val == held_back
    assert len(few['images']) == 2 < len(train['images'])
    ids = {image['id'] for image in few['images']}
    assert few['annotations'] == [cell for cell in train['annotations'] if cell['image_id'] in ids]
    assert all((root / image['file_name']).is_file() for image in few['images'])
