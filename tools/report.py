"""Write the report of a training: python tools/report.py work_dirs/cell_maskrcnn."""
import argparse

from cellseg_mm import cli


def parse_args():
    parser = argparse.ArgumentParser(
        description='Write one HTML file about a training: curves, scores with intervals, errors, images and settings.')
    parser.add_argument('work_dir', metavar='WORK_DIR', help="the training's folder, such as work_dirs/cell_maskrcnn")
    parser.add_argument('--out', metavar='FILE', help='the file to write (default: WORK_DIR/report.html)')
    return parser.parse_args()


def main():
    args = parse_args()
    from cellseg_mm.engine.assessment import assess_work_dir
    from cellseg_mm.visualization.report import write_report
    assess_work_dir(args.work_dir)
    print(write_report(args.work_dir, args.out))


if __name__ == '__main__':
    cli.run(main)
