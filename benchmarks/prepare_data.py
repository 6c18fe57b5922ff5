"""Time tools/prepare_data.py on any data set: python benchmarks/prepare_data.py ROOT [OPTION...]

Options go on to tools/prepare_data.py, such as --workers 2. The time includes the start of Python, the audit and the
writing. Where other programs keep the cores busy, the processor's time tells more than the clock's.
"""
import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

TOOL = Path(__file__).resolve().parents[1] / 'tools/prepare_data.py'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', type=Path, metavar='ROOT')
    args, options = parser.parse_known_args()
    start = time.perf_counter()
    if status := subprocess.run([sys.executable, TOOL, args.root, *options], stdout=subprocess.DEVNULL,
                                check=False).returncode:
        return status
    seconds = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    splits = [json.loads((args.root / f'annotations/{name}.json').read_text())
              for name in ('train', 'val', 'test') if (args.root / f'annotations/{name}.json').exists()]
    images = [image for split in splits for image in split['images']]
    cells = sum(len(split['annotations']) for split in splits)
    megapixels = sum(image['height'] * image['width'] for image in images) / 1e6
    print(f'{len(images)} images, {megapixels:.1f} megapixels, {cells} cells: {seconds:.1f} s '
          f'({usage.ru_utime + usage.ru_stime:.1f} s of processor time), '
          f'{megapixels / seconds:.2f} megapixels/s, {cells / seconds:.0f} cells/s')
    return 0


if __name__ == '__main__':
    sys.exit(main())
