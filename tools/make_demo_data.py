"""Write a synthetic H&E-like data set in the course layout, to try everything without real data."""
import argparse

from cellseg_mm import cli


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', help='folder to write to')
    parser.add_argument('--train', type=int, default=80, help='images in the training folder (default: %(default)s)')
    parser.add_argument('--test', type=int, default=20, help='test images (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='same seed, same data (default: %(default)s)')
    args = parser.parse_args()
    from cellseg_mm.datasets.synthetic import write_demo_data
    cells = write_demo_data(args.root, args.train, args.test, args.seed)
    print(f'{args.root}: {args.train} training and {args.test} test images, {sum(cells.values())} cells: '
          + ', '.join(f'{count} {name}' for name, count in cells.items()))


if __name__ == '__main__':
    cli.run(main)
