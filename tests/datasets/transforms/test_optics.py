import cv2
import numpy as np
import pytest
from mmdet.registry import TRANSFORMS
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed

import cellseg_mm.datasets.transforms.optics  # noqa: F401
from cellseg_mm.errors import UserError

IMAGE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8), (0, 0), 2)


def blurred(sigma):
    return cv2.GaussianBlur(IMAGE, (0, 0), sigma)


def compressed(quality):
    return cv2.imdecode(cv2.imencode('.jpg', IMAGE, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def drawn(count=60, prob=1, **transform):
    set_random_seed(1)
    init_default_scope('mmdet')  # where RandomApply looks for ours, as in a training
    transform = TRANSFORMS.build(dict(type='RandomApply', transforms=transform, prob=prob))
    return [transform(dict(img=IMAGE.copy()))['img'] for _ in range(count)]


@pytest.mark.parametrize(('transform', 'expected'), [
    (dict(type='RandomBlur', sigma=(1.3, 1.3)), blurred(1.3)),
    (dict(type='RandomJPEG', quality=(40, 40)), compressed(40))])
def test_images_are_what_opencv_makes_of_them(transform, expected):
    assert not np.array_equal(expected, IMAGE)
    assert all(np.array_equal(image, expected) for image in drawn(2, **transform))


def test_images_are_blurred_by_all_of_the_range():
    sharpness = [cv2.Laplacian(image, cv2.CV_64F).var() for image in drawn(type='RandomBlur', sigma=(0.5, 2))]
    low, high = (cv2.Laplacian(blurred(sigma), cv2.CV_64F).var() for sigma in (2, 0.5))
    assert low <= min(sharpness) < 1.2 * low
    assert 0.8 * high < max(sharpness) <= high
    assert len(set(sharpness)) > 30


def test_images_are_compressed_by_both_ends_of_the_range():
    found = {image.tobytes() for image in drawn(type='RandomJPEG', quality=(60, 62))}
    assert found == {compressed(quality).tobytes() for quality in (60, 61, 62)}


@pytest.mark.parametrize('kind', ['RandomBlur', 'RandomJPEG'])
def test_so_many_images_are_left_as_they_are(kind):
    assert 8 < sum(not np.array_equal(image, IMAGE) for image in drawn(type=kind, prob=0.25)) < 24
    assert all(np.array_equal(image, IMAGE) for image in drawn(type=kind, prob=0))


@pytest.mark.parametrize(('transform', 'message'), [
    *((dict(type='RandomBlur', sigma=sigma), 'sigma=') for sigma in ((0, 1), (2, 1), 0.5, (1, np.inf), (np.nan, 1))),
    *((dict(type='RandomJPEG', quality=quality), 'quality=')
      for quality in ((-1, 50), (90, 50), (50, 101), 50, (50.5, 95)))])
def test_ranges_that_are_none_are_refused(transform, message):
    with pytest.raises(UserError, match=message):
        TRANSFORMS.build(transform)
