"""Find the cells of any image: python tools/predict.py IMAGES [--checkpoint work_dirs/NAME/best_epoch_20.pth]."""
import argparse
import zipfile
from pathlib import Path

from cellseg_mm import cli
from cellseg_mm.export import DEFAULT_FORMATS, FORMATS
from cellseg_mm.io.pixel_size import plausible

OWN = Path(__file__).resolve().parents[1] / 'weights/nuclei_lite.pth'


def parse_args():
    parser = argparse.ArgumentParser(
        description='Find the cells of images of any size, whole slides too, and write them for other programs. Each '
        'image is done for itself: one that fails does not stop the others. Stopped or killed, the same command goes '
        'on from there, tile by tile. Exit status: 0, or 1 where images failed, or 2 where no work was begun, '
        'or the lists of all images could not be written.')
    parser.add_argument('images', nargs='+', metavar='IMAGES', help='image files (TIFF, PNG, JPEG, SVS, NDPI, '
                        'OME-TIFF, Zarr), folders of them, or quoted patterns such as "slides/*.svs"')
    parser.add_argument('--checkpoint', nargs='+', default=[OWN], metavar='FILE', dest='checkpoints',
                        help='trained weights; several, of models of the same classes, are fused (default: the model '
                        'of nuclei that comes with this project, see weights/README.md)')
    parser.add_argument('--out', default='predictions', help='folder for all that is written (default: %(default)s)')
    parser.add_argument('--formats', nargs='+', default=DEFAULT_FORMATS, metavar='FORMAT',
                        help=f'what to write: {", ".join(FORMATS)} or all (default: {" ".join(DEFAULT_FORMATS)})')
    parser.add_argument('--score-thr', type=float, metavar='SCORE', dest='threshold',
                        help='cells from this score on (default: thresholds beside the checkpoint, or 0.5)')
    parser.add_argument('--mpp', type=float, help='micrometres per pixel, in place of what the files say')
    parser.add_argument('--scale', type=float, metavar='FACTOR',
                        help='enlarge images by this for the network, whatever their pixel size')
    parser.add_argument('--tta', nargs='+', default=[], metavar='VIEWS', dest='views',
                        help='look at each tile in several views and fuse what is found: flips, turns, scales; slower '
                        'by as many')
    parser.add_argument('--tile', type=int, metavar='PIXELS', help="sides of a tile, in pixels of the network's input "
                        '(default: 1024, or what the model knows)')
    parser.add_argument('--overlap', type=int, metavar='PIXELS', help="what tiles share, in pixels of the network's "
                        'input: the length of a large cell (default: 192, or what the model knows)')
    parser.add_argument('--background', action='store_true', help='look at tiles without tissue, too')
    parser.add_argument('--batch-size', type=int, default=1, metavar='N', help='tiles at once (default: %(default)s)')
    parser.add_argument('--amp', action='store_true',
                        help='compute in mixed precision: sooner, where the processor has arithmetic of 16 bits')
    parser.add_argument('--device', help='such as cpu or cuda:1 (default: a GPU where there is one)')
    parser.add_argument('--config', metavar='FILE', help='config of the model, for checkpoints without their own')
    parser.add_argument('--trust-checkpoint', action='store_true', dest='trusted',
                        help='let code in the checkpoint run, which can do anything that you can')
    parser.add_argument('--overwrite', action='store_true', help='do again what is done')
    parser.add_argument('--launcher', choices=('none', 'pytorch'), default='none',
                        help='pytorch: this process was started by torchrun')
    args = parser.parse_args()
    if args.mpp is not None and not plausible(args.mpp):
        parser.error('--mpp is in micrometres per pixel, such as 0.25')
    if args.scale is not None and not 0.001 <= args.scale <= 1000:
        parser.error('--scale must be from 0.001 to 1000')
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        parser.error('--score-thr must be from 0 to 1')
    for name in ('tile', 'batch_size'):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f'--{name.replace("_", "-")} must be above 0')
    return args


def main():
    args = vars(parse_args())
    from cellseg_mm.engine.prediction import predict_images
    from cellseg_mm.engine.prediction_folder import as_text
    from cellseg_mm.errors import UserError
    if OWN in args['checkpoints'] and not (OWN.is_file() and zipfile.is_zipfile(OWN)):
        raise UserError(f'{OWN}: the model of nuclei that comes with this project is missing or incomplete: fetch the '
                        'project anew, or name a model of yours by --checkpoint')
    outcomes = predict_images(args.pop('images'), args.pop('checkpoints'), out := args.pop('out'), **args)
    if not outcomes:
        return 0
    failed = sum(outcome.counts is None for outcome in outcomes)
    print(f'{len(outcomes) - failed} of {len(outcomes)} images done, {failed} failed; all is in {as_text(out)}')
    return 1 if failed else 0


if __name__ == '__main__':
    cli.run(main)
