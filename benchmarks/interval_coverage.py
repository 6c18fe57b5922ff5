"""How often a 95% interval holds the truth: AP50 of a simulated detector on few and on many groups of images."""
import argparse

import numpy as np

from cellseg_mm.evaluation.coco_ap import THRESHOLDS, Matches, mean_of_known, resampled_ap
from cellseg_mm.evaluation.uncertainty import interval, resample_groups

IMAGES, CELLS, CLASSES, SHARES = 4, 40, 3, (0.6, 0.3, 0.1)
MAX_DETS = 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--trials', type=int, default=400, help='validation sets of each size (%(default)s)')
    parser.add_argument('--replicates', type=int, default=1000, help='resamples for each interval (%(default)s)')
    args = parser.parse_args()
    truth = ap50(simulate(np.random.default_rng(12345), 4000), np.ones((1, 4000 * IMAGES), int))[0]
    print(f'AP50 on 4,000 groups of {IMAGES} images with {CELLS} cells each: {truth:.3f}')
    print('share of 95% intervals that hold it, and their mean width, resampling groups / single images')
    for groups in (3, 5, 10, 20, 40):
        held, width = np.zeros(2), np.zeros(2)
        for trial in range(args.trials):
            matches = simulate(np.random.default_rng((groups, trial)), groups)
            of_groups = np.repeat(np.arange(groups), IMAGES)
            for kind, names in enumerate((of_groups, np.arange(len(of_groups)))):
                values = ap50(matches, resample_groups(names, args.replicates, trial))
                low, high = interval(values, len(set(names.tolist())))
                held[kind] += low <= truth <= high
                width[kind] += high - low
        print(f'{groups:3} groups: {held[0] / args.trials:.2f} / {held[1] / args.trials:.2f}   '
              f'width {width[0] / args.trials:.3f} / {width[1] / args.trials:.3f}')


def simulate(rng, groups):
    """Matches of a detector that finds more of the cells, and less else, in some groups than in others."""
    images = groups * IMAGES
    # Log odds of finding a cell vary from group to group, and half as much from image to image.
    skill = np.repeat(rng.normal(0.5, 0.8, groups), IMAGES) + rng.normal(0, 0.4, images)
    truth = np.stack([rng.multinomial(rng.poisson(CELLS), SHARES) for _ in range(images)])
    found = rng.binomial(truth, 1 / (1 + np.exp(-skill))[:, None])
    spurious = rng.poisson(0.5 * truth * np.exp(-skill)[:, None])
    number = found + spurious
    image, label = (places.ravel() for places in np.indices(number.shape))
    image, label = image.repeat(number.ravel()), label.repeat(number.ravel())
    first = np.repeat(np.cumsum(number.ravel()) - number.ravel(), number.ravel())
    right = np.arange(len(image)) - first < found.ravel().repeat(number.ravel())
    score = 1 / (1 + np.exp(-rng.normal(np.where(right, 1, -0.5), 1)))
    matched = np.zeros((len(THRESHOLDS), len(image)), bool).T
    matched[:, 0] = right
    nothing = np.zeros(len(image), np.int64)
    return Matches(image, nothing, label, score, nothing, matched, np.zeros_like(matched), nothing, truth)


def ap50(matches, weights):
    return mean_of_known(resampled_ap(matches, MAX_DETS, weights, slice(1)), 1)


if __name__ == '__main__':
    main()
