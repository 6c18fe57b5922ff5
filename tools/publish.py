"""Make a small file of a trained model: python tools/publish.py work_dirs/NAME/best_epoch_20.pth mine.pth."""
import argparse
from pathlib import Path

from cellseg_mm import cli


def parse_args():
    parser = argparse.ArgumentParser(
        description='Write the part of a checkpoint that tools/predict.py needs: weights of half precision, the model '
        'and its thresholds, without optimizer, log, or folders of this machine.')
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='such as work_dirs/NAME/best_epoch_20.pth')
    parser.add_argument('out', metavar='FILE', type=Path, help='the file to write; its thresholds go beside it')
    parser.add_argument('--config', metavar='FILE', help='config of the model, for checkpoints without their own')
    parser.add_argument('--trust-checkpoint', action='store_true', dest='trusted',
                        help='let code in the checkpoint run, which can do anything that you can')
    return parser.parse_args()


def main():
    args = parse_args()
    from cellseg_mm.engine.config import read_model_config
    from cellseg_mm.engine.publishing import publish
    publish(args.checkpoint, args.out, args.config and read_model_config(args.config), args.trusted)
    print(f'{args.out}: {args.out.stat().st_size / 1e6:.1f} MB')


if __name__ == '__main__':
    cli.run(main)
