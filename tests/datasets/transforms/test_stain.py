import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmcv.transforms.utils import cache_random_params
from mmdet.registry import TRANSFORMS
from mmengine.runner import set_random_seed
from skimage.color import hed2rgb, rgb2hed

from cellseg_mm.datasets.transforms.stain import StainJitter, restain
from cellseg_mm.errors import UserError
from cellseg_mm.structures.stains import DENSITIES

NONE = np.zeros(3)


def every_grey_level():
    """All pairs of two channels' values, with a third that differs."""
    first, second = np.divmod(np.arange(256 * 256), 256)
    return np.stack([first, second, (7 * first + 11 * second) % 256], axis=-1).reshape(256, 256, 3).astype(np.uint8)


def stained(seed):
    """An image of stains alone, uint8 (40, 50, 3) BGR: scikit-image cuts stains off at 0."""
    stains = np.random.default_rng(seed).uniform(0.002, 0.08, (40, 50, 3))
    return np.ascontiguousarray(np.uint8(np.rint(255 * hed2rgb(stains)))[..., ::-1])


@given(st.lists(st.floats(0.5, 1.5), min_size=3, max_size=3), st.lists(st.floats(-0.05, 0.05), min_size=3, max_size=3),
       st.integers(0, 100))
def test_stains_are_those_of_scikit_image(scales, shifts, seed):
    image = stained(seed)
    stains = rgb2hed(image[..., ::-1])
    whole = (stains > 0).all(-1)
    expected = 255 * hed2rgb(stains * scales + shifts)[..., ::-1]
    np.testing.assert_allclose(restain(image, np.array(scales), np.array(shifts))[whole], expected[whole], atol=0.51)
    assert whole.mean() > 0.5


@pytest.mark.parametrize('order', [[0, 1, 2], [1, 2, 0], [2, 0, 1]])
def test_what_is_not_varied_stays_bit_for_bit(order):
    image = every_grey_level()[..., order]
    assert np.array_equal(StainJitter(scale=0, shift=0)(dict(img=image.copy()))['img'], image)


@given(st.lists(st.floats(0, 3), min_size=3, max_size=3))
def test_white_is_white_where_stains_are_only_scaled(scales):
    assert restain(np.full((2, 2, 3), 255, np.uint8), np.array(scales), NONE).min() == 255


def test_a_shift_darkens_white_as_the_stains_colour_says():
    pixel = restain(np.full((1, 1, 3), 255, np.uint8), np.ones(3), np.array([0.01, 0, 0]))
    np.testing.assert_array_equal(pixel[0, 0], np.rint(255 * 1e-6**(0.01 * np.array([0.29, 0.70, 0.65]))))


def test_more_than_white_and_more_than_black_is_white_and_black():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    assert restain(ramp, np.ones(3), np.full(3, -2.0)).min() == 255
    assert restain(ramp, np.ones(3), np.full(3, 2.0)).max() == 0


def test_the_darkest_grey_levels_stay_next_to_each_other():
    levels = restain(np.repeat(np.arange(4, dtype=np.uint8)[None, :, None], 3, axis=2), np.full(3, 0.7), NONE)
    assert (np.diff(levels.astype(int), axis=1) <= 4).all()


def test_densities_are_0_for_white_and_1_for_black():
    assert DENSITIES[[255, 0]].tolist() == [0, 1]
    assert (np.diff(DENSITIES) < 0).all()


def test_images_vary_within_the_ranges_and_return_with_the_seed():
    transform = TRANSFORMS.build(dict(type='StainJitter', scale=0.3, shift=0))
    image = stained(0)
    set_random_seed(0)
    drawn = [transform(dict(img=image.copy()))['img'] for _ in range(30)]
    set_random_seed(0)
    assert np.array_equal(transform(dict(img=image.copy()))['img'], drawn[0])
    assert len({img.tobytes() for img in drawn}) == 30
    densities = [DENSITIES[img].mean() / DENSITIES[image].mean() for img in drawn]
    assert 0.68 < min(densities) < 0.9 < 1.1 < max(densities) < 1.32
    with cache_random_params(transform):
        assert len({transform(dict(img=image.copy()))['img'].tobytes() for _ in range(2)}) == 1


@pytest.mark.parametrize('wrong', [-0.1, np.nan, np.inf])
def test_a_range_that_is_none_is_refused(wrong):
    with pytest.raises(UserError, match=rf'StainJitter: scale is a share from 0 to 1, not {wrong}'):
        StainJitter(scale=wrong)
    with pytest.raises(UserError, match=rf'shift={wrong} '):
        StainJitter(shift=wrong)
    with pytest.raises(UserError, match='scale'):
        StainJitter(scale=1.1)  # a negative amount of a stain
