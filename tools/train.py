"""Train a model: python tools/train.py configs/cell_maskrcnn.py."""
import argparse
from pathlib import Path

from cellseg_mm import cli


def parse_args():
    parser = argparse.ArgumentParser(
        description='Train a model. The best checkpoint, logs and curves go to the work dir.')
    parser.add_argument('config', help='config file, such as configs/cell_maskrcnn.py')
    parser.add_argument('--work-dir', help='folder for checkpoints and logs (default: work_dirs/<config name>)')
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT',
                        help='go on with the training in the work dir, or from CHECKPOINT')
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size')
    parser.add_argument('--tensorboard', action='store_true', help='write the curves for TensorBoard too')
    parser.add_argument('--launcher', choices=('none', 'pytorch', 'slurm', 'mpi'), default='none',
                        help='pytorch: this process was started by torchrun')
    parser.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE',
                        help='settings to change in the config, such as data_root=data/mine train_cfg.max_epochs=50')
    return parser.parse_args()


def main():
    args = parse_args()
    from mmengine.dist import is_main_process

    from cellseg_mm.engine.config import load_config, parse_options
    from cellseg_mm.engine.training import train
    config = load_config(args.config, parse_options(args.cfg_options))
    work_dir = args.work_dir or Path('work_dirs', Path(args.config).stem)
    best = train(config, work_dir, args.resume, args.amp, args.auto_scale_lr, args.launcher, args.tensorboard)
    if is_main_process():
        print(f'best checkpoint: {best}')


if __name__ == '__main__':
    cli.run(main)
