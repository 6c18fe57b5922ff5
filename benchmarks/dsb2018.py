"""Groups of look-alike images of the Data Science Bowl 2018: python benchmarks/dsb2018.py OUT

The folder that the environment variable CELLSEG_REAL_DATA names holds them as dsb2018/images and dsb2018/labels
(BBBC038, stage 1, CC0). Written is OUT/groups.csv, for tools/prepare_data.py --groups: the looks that it finds itself,
but those of stained tissue, of which there are few and large ones, parted once more, so that a split can have
stained images on both sides. How to go on is printed.
"""
import argparse
import csv
import os
import sys
from pathlib import Path

import numpy as np

BRIGHT = 100  # grey level of a background that is not dark


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path)
    out = parser.parse_args().out
    root = Path(os.environ.get('CELLSEG_REAL_DATA', ''), 'dsb2018')
    if not (root / 'images').is_dir():
        sys.exit(f'error: there is no {root}/images: name the folder of the real data by the environment variable '
                 'CELLSEG_REAL_DATA')
    from cellseg_mm.datasets.splits import appearance_features, group_by_appearance
    from cellseg_mm.io.image import read_image
    paths = sorted((root / 'images').glob('*.png'))
    surveyed = [(appearance_features(image), np.median(image) > BRIGHT) for image in map(read_image, paths)]
    features, is_bright = map(np.array, zip(*surveyed, strict=True))
    names = np.empty(len(paths), object)
    for look in np.unique(looks := group_by_appearance(features)):
        members = np.flatnonzero(looks == look)
        names[members] = f'look{look}'
        if np.mean(is_bright[members]) > 0.5:
            for part, image in zip(group_by_appearance(features[members]), members, strict=True):
                names[image] = f'look{look}_{part}'
    out.mkdir(parents=True, exist_ok=True)
    with (out / 'groups.csv').open('w', newline='') as file:
        csv.writer(file).writerows([('id', 'group'), *((path.stem, name) for path, name in
                                                       zip(paths, names, strict=True))])
    print(f'{len(set(names))} groups of {len(paths)} images; now\n'
          f'    python tools/prepare_data.py {out} --images {root}/images --labels {root}/labels '
          f'--classes nucleus --groups {out}/groups.csv --val-fraction 0.2 --folds 0')


if __name__ == '__main__':
    main()
