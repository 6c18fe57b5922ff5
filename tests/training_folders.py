"""A small work directory, as a training leaves it, for tests of what is said about it."""
import json

import numpy as np

from cellseg_mm.datasets.annotations import describe
from cellseg_mm.evaluation.evaluate import evaluate, write_evaluation
from cellseg_mm.evaluation.instances import pair_images, results_of
from cellseg_mm.io.files import write_json
from cellseg_mm.io.image import write_image
from cellseg_mm.structures.local_masks import LocalMasks

CLASSES = ['round', 'long', 'rare']
HEIGHT, WIDTH = 48, 64


def write_work_dir(folder, classes=CLASSES, names=('a.png', 'b.png', 'c.png'), epochs=5):
    """Write `work` and `data` in `folder`: image n has n + 1 cells of each class but the last, n of them found.

    Returns:
        Path: The work directory.
    """
    work, data = folder / 'work', folder / 'data'
    write_cells(work, data, classes, names, f'best_epoch_{epochs - 1}.pth')
    write_log(work, classes, epochs)
    (work / f'best_epoch_{epochs - 1}.pth').touch()
    write_json(work / 'run.json', {
        'command': 'python tools/train.py configs/small.py', 'started': '2026-01-05T08:30:00+00:00', 'seconds': 4000.0,
        'epochs': epochs, 'seed': 7, 'parameters': 1234567, 'peak_memory_mb': {'cpu': 2500.0, 'gpu': None},
        'hardware': {'processor': 'A Processor', 'cores': 2, 'memory_gb': 16.0, 'gpus': []}, 'processes': 1,
        'versions': {'cellseg_mm': '1.0', 'torch': '2.0'},
        'data': {'root': str(data), 'train_images': 9, 'train_cells': 1000, 'val_images': len(names), 'val_cells': 12,
                 'grouping': 'by patient'}})
    return work


def write_cells(work, data, classes, names, checkpoint=None):
    rng = np.random.default_rng(0)
    images, cells, results = [], [], []
    categories = [{'id': number, 'name': name} for number, name in enumerate(classes, 1)]
    for number, name in enumerate(names, 1):
        images.append({'id': number, 'file_name': name, 'height': HEIGHT, 'width': WIDTH, 'group': f'patient {number}'})
        write_image(data / name, rng.integers(120, 250, (HEIGHT, WIDTH, 3), np.uint8))
        for category in categories[:-1]:
            masks = squares(number, 20 * (category['id'] - 1) + 2)
            cells += [{'id': len(cells) + index, 'image_id': number, 'category_id': category['id'], **cell}
                      for index, cell in enumerate(describe(masks.to_rles()), 1)]
            found = masks[:number - 1]
            scores = [0.9 - 0.1 * index for index in range(len(found))]
            results += results_of(number, found, [category['id']] * len(found), scores)
    truth = {'images': images, 'annotations': cells, 'categories': categories}
    write_json(data / 'val.json', truth)
    write_json(work / 'val-results.json', results)
    (work / 'small.py').write_text(
        f'data_root = {str(data)!r}\nclasses = {tuple(classes)!r}\nmax_dets = 50\nmodel = dict(type="MaskRCNN")\n'
        f'val_evaluator = dict(type="CellMetric", ann_file={str(data / "val.json")!r}, max_dets=50)\n')
    write_evaluation(work / 'val-evaluation.json',
                     evaluate(pair_images(truth, results), classes, max_dets=50, replicates=50)
                     | {'checkpoint': checkpoint})


def squares(count, top):
    """`count` squares of 8 pixels in a row."""
    labels = np.zeros((HEIGHT, WIDTH), np.int32)
    for index in range(count):
        labels[top:top + 8, 2 + 10 * index:10 + 10 * index] = index + 1
    return LocalMasks.from_label_map(labels)


def write_log(work, classes, epochs, stamp='20260105_083000', validated=True, first=1):
    """Log as the training does: two training records an epoch, its losses, its validation."""
    records = []
    for epoch in range(first, epochs + 1):
        records += [{'lr': 0.01, 'loss': loss, 'loss_cls': 0.5 * loss, 'epoch': epoch, 'iter': 2 * epoch - part,
                     'step': 2 * epoch - part} for part, loss in ((1, 3 / epoch), (0, 2 / epoch))]
        if validated:
            losses = {'train_loss': 2 / epoch, 'train_loss_cls': 1 / epoch, 'val_loss': 1 + abs(epoch - 3) / 4,
                      'val_loss_cls': 0.5}
            scores = {f'AP50_{cap}{suffix}': 0.1 * min(epoch, epochs - 1) for cap in ('dense', 'cap100')
                      for suffix in ('', *(f'/{name}' for name in classes[:-1]))}
            records += [{f'epoch/{key}': value for key, value in losses.items()} | {'step': epoch},
                        {f'cells/{key}': value for key, value in scores.items()} | {'step': epoch}]
    path = work / stamp / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(f'{json.dumps(record)}\n' for record in records))


def keep_images(root, split, number):
    """Leave the first images of a split of a prepared data set, and return their names."""
    path = root / f'annotations/{split}.json'
    annotations = json.loads(path.read_text())
    annotations['images'] = annotations['images'][:number]
    ids = {image['id'] for image in annotations['images']}
    annotations['annotations'] = [one for one in annotations['annotations'] if one['image_id'] in ids]
    path.write_text(json.dumps(annotations))
    return [image['file_name'] for image in annotations['images']]
