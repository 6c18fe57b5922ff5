import numpy as np
import pytest
from loaded_cells import loaded, squares
from mmdet.structures.mask import BitmapMasks

from cellseg_mm.datasets.transforms.affine import RandomCellAffine, RandomQuarterTurn
from cellseg_mm.datasets.transforms.copy_paste import CellCopyPaste
from cellseg_mm.datasets.transforms.crop import RandomCellCrop
from cellseg_mm.datasets.transforms.optics import RandomJPEG
from cellseg_mm.datasets.transforms.stain import StainJitter
from cellseg_mm.errors import UserError

GEOMETRIC = [RandomQuarterTurn(), RandomCellAffine(), RandomCellCrop((8, 8)), CellCopyPaste()]


@pytest.mark.parametrize('transform', GEOMETRIC, ids=lambda transform: type(transform).__name__)
def test_what_would_not_move_with_the_cells_is_refused(transform):
    results = dict(loaded(squares([(3, 5)], (40, 60))), gt_seg_map=np.zeros((40, 60), np.uint8))
    with pytest.raises(UserError, match=rf'^{type(transform).__name__} .*with_seg=False'):
        transform(results)


@pytest.mark.parametrize('transform', GEOMETRIC, ids=lambda transform: type(transform).__name__)
@pytest.mark.parametrize('masks', ['none', 'of MMDetection'])
def test_cells_without_masks_of_ours_are_refused(transform, masks):
    results = loaded(squares([(3, 5)], (40, 60)))
    bitmaps = BitmapMasks(results.pop('gt_masks').to_ndarray(), 40, 60)
    if masks == 'of MMDetection':
        results['gt_masks'] = bitmaps
    with pytest.raises(UserError, match=rf'^{type(transform).__name__} .*put LoadCellAnnotations\(with_mask=True\)'):
        transform(results)


@pytest.mark.parametrize('transform', [StainJitter(), RandomJPEG(), CellCopyPaste()],
                         ids=lambda transform: type(transform).__name__)
@pytest.mark.parametrize('change', [lambda image: image.astype(np.float32), lambda image: image[..., 0]])
def test_images_that_are_not_of_whole_numbers_or_colours_are_refused(transform, change):
    results = loaded(squares([(3, 5)], (40, 60)))
    transform(dict(results))
    with pytest.raises(UserError, match=rf'^{type(transform).__name__} needs uint8 \(H, W, 3\), not '):
        transform(dict(results, img=change(results['img'])))
