"""The model that comes with the project."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import REPOSITORY

from cellseg_mm.io.image import read_label_map, write_image

WEIGHTS = REPOSITORY / 'weights/nuclei_lite.pth'


def nuclei(rng, stained):
    """Ellipses that do not overlap, as in fluorescence or stained: uint8 (H, W, 3) and their label map."""
    labels, number = np.zeros((240, 300), np.int32), 0
    while number < 20:
        centre, axes = rng.integers(20, [280, 220]), rng.integers(8, 15, 2)
        shape = np.zeros_like(labels, np.uint8)
        cv2.ellipse(shape, centre.tolist(), axes.tolist(), int(rng.integers(180)), 0, 360, 1, -1)
        if not (cv2.dilate(shape, np.ones((5, 5))) * labels).any():
            number += 1
            labels[shape > 0] = number
    light = cv2.GaussianBlur((labels > 0).astype(np.float32), (0, 0), 1)[..., None]
    colours = ([210, 190, 225], [120, 60, 90]) if stained else ([8, 8, 8], [110, 110, 110])
    image = light * colours[1] + (1 - light) * colours[0] + rng.normal(0, 4, (*labels.shape, 1))
    return image.clip(0, 255).astype(np.uint8), labels


@pytest.mark.parametrize('stained', [False, True])
def test_an_image_and_nothing_else_is_enough(call_tool, tmp_path, stained):
    image, truth = nuclei(np.random.default_rng(0), stained)
    write_image(tmp_path / 'a.png', image)
    status, printed, complaints = call_tool(
        'predict', tmp_path / 'a.png', '--out', tmp_path / 'out', '--formats', 'labels')
    assert status == 0, complaints
    assert '(20 nucleus)' in printed
    found = read_label_map(tmp_path / 'out/a_labels.ome.tif')
    assert min(overlaps(found, truth)) > 0.75


@pytest.mark.parametrize('content', [None, 'version https://git-lfs.example/spec/v1'])
def test_without_its_weights_it_says_what_is_missing(tmp_path, content):
    (tmp_path / 'tools').mkdir()
    shutil.copy(REPOSITORY / 'tools/predict.py', tmp_path / 'tools')
    if content:
        (tmp_path / 'weights').mkdir()
        (tmp_path / 'weights/nuclei_lite.pth').write_text(content)
    write_image(tmp_path / 'a.png', np.zeros((20, 20, 3), np.uint8))
    run = subprocess.run([sys.executable, 'tools/predict.py', 'a.png'], cwd=tmp_path, text=True, capture_output=True,
                         check=False, env={**os.environ, 'PYTHONPATH': str(REPOSITORY)}, timeout=280)
    assert run.returncode == 2
    assert 'weights/nuclei_lite.pth: the model of nuclei that comes with this project is missing or inc' in run.stderr
    assert not (tmp_path / 'predictions').exists()


def overlaps(found, truth):
    """Of each true nucleus, its IoU with the one that covers most of it."""
    for number in range(1, truth.max() + 1):
        true = truth == number
        mask = found == np.bincount(found[true]).argmax()
        yield (mask & true).sum() / (mask | true).sum()


@pytest.mark.skipif('CELLSEG_REAL_DATA' not in os.environ, reason='CELLSEG_REAL_DATA is not set')
@pytest.mark.parametrize(('name', 'least'), [
    ('02903040e19ddf92', 0.9), ('094afe36759e7daf', 0.6), ('00ae65c1c6631ae6', 0.7), ('2dd3356f2dcf470a', 0.5)])
def test_nuclei_are_found_on_images_that_it_never_saw(call_tool, tmp_path, name, least):
    data = Path(os.environ['CELLSEG_REAL_DATA'], 'dsb2018')
    status, _, complaints = call_tool(
        'predict', data / f'images/{name}.png', '--out', tmp_path / 'out', '--formats', 'labels')
    assert status == 0, complaints
    truth = read_label_map(data / f'labels/{name}.png')
    found = read_label_map(tmp_path / f'out/{name}_labels.ome.tif')
    assert np.mean([overlap > 0.5 for overlap in overlaps(found, truth)]) >= least


def test_the_file_holds_what_predicts_and_nothing_else():
    assert WEIGHTS.stat().st_size < 25e6
    checkpoint = torch.load(WEIGHTS, weights_only=True)
    assert checkpoint.keys() == {'state_dict', 'meta'}
    assert {tensor.dtype for tensor in checkpoint['state_dict'].values()} == {torch.float16, torch.int64}
    assert 'data_root' not in checkpoint['meta']['cfg']
