"""How well groups by appearance keep crops of one slide on one side of a split, where the truth is known.

    python benchmarks/grouping.py ROOT

ROOT is a folder in the course layout with a groups.csv of image id and true group: demo data, or CoNSeP cropped into
this layout. Printed for the training images: groups found, how pure and how whole they are (homogeneity and
completeness, Rosenberg & Hirschberg 2007), and what leaks from training into validation.
"""
import argparse
import csv
from pathlib import Path

SEEDS = 5


def leak(val, truth):
    """Share of validation images with any crop of their true group in training; mean share of the group there."""
    import numpy as np
    mates = np.array([(truth[~val] == group).sum() / (truth == group).sum() for group in truth[val]])
    return (mates > 0).mean(), mates.mean()


def entropy(*labels):
    import numpy as np
    _, counts = np.unique(np.stack(labels), axis=1, return_counts=True)
    share = counts / counts.sum()
    return -(share * np.log(share)).sum()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', type=Path)
    root = parser.parse_args().root
    import numpy as np

    from cellseg_mm.datasets.splits import appearance_features, fold_groups, group_by_appearance, split_groups
    from cellseg_mm.io.image import read_image, read_label_map
    with (root / 'groups.csv').open(newline='') as file:
        names = dict(list(csv.reader(file))[1:])
    folders = [folder for folder in sorted((root / 'train').iterdir()) if folder.is_dir()]
    truth = np.unique([names[folder.name] for folder in folders], return_inverse=True)[1]
    classes = sorted({path.name for folder in folders for path in folder.glob('*.tif')} - {'image.tif'})
    counts = np.array([[len(np.unique(read_label_map(folder / name))) - 1 if (folder / name).exists() else 0
                        for name in classes] for folder in folders])
    features = [appearance_features(read_image(folder / 'image.tif')) for folder in folders]
    groups = group_by_appearance(np.stack(features))
    shared = entropy(truth) + entropy(groups) - entropy(truth, groups)
    print(f'{len(folders)} images of {truth.max() + 1} true groups: {groups.max() + 1} groups by appearance, '
          f'homogeneity {shared / entropy(truth):.2f}, completeness {shared / entropy(groups):.2f}')
    print('validation set            leaks  mates in training  images  cells of each class')
    rng = np.random.default_rng(0)
    sets = {'random split': [rng.permutation(len(folders)) < 0.15 * len(folders) for _ in range(SEEDS)],
            'appearance split': [split_groups(groups, counts, 0.15, seed) for seed in range(SEEDS)],
            'true groups split': [split_groups(truth, counts, 0.15, seed) for seed in range(SEEDS)]}
    for name, labels in (('random folds', rng.permutation(len(folders)) % 5),
                         ('appearance folds', fold_groups(groups, counts, 5, 0))):
        sets[name] = [labels == fold for fold in range(5)]
    for name, vals in sets.items():
        leaks, mates = np.mean([leak(val, truth) for val in vals], axis=0)
        cells = np.mean([counts[val].sum(0) / counts.sum(0) for val in vals], axis=0)
        print(f'{name:24s}  {leaks:5.2f}  {mates:17.2f}  {np.mean(vals):6.2f}  {" ".join(f"{x:.2f}" for x in cells)}')


if __name__ == '__main__':
    main()
