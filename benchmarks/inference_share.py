"""What masks cost beside the network, on the true image sizes and cells: python benchmarks/inference_share.py

Images are drawn around the true masks of an annotation file. The network is that of the config with random weights:
backbone, neck, RPN, boxes of its proposals, and mask logits of as many boxes as the image has cells. Paste + RLE take
those true boxes with mask logits made from the true masks. Times are medians of five after one call that is not
counted, the network's on CPUs that of one. Last comes the AP metric on all images at once, with random scores.
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np
import scenes
from local_masks import SCALE, Scene, predictions
from measure import machine, median_seconds, register

ROOT = Path(__file__).resolve().parents[1]
MAX_SHARE, MAX_METRIC_SECONDS = 5, 3


def build(config, device):
    """The detector of a config with random weights, and its `max_dets`."""
    from mmdet.registry import MODELS
    from mmengine.config import Config
    register()
    config = Config.fromfile(config)
    config.model.backbone.init_cfg = None
    return MODELS.build(config.model).to(device).eval(), config.max_dets


def network(model, batch, boxes):
    """Everything that the network computes for one image, but for the pasting of masks."""
    from mmdet.structures.bbox import bbox2roi
    features = model.extract_feat(batch['inputs'])
    proposals = model.rpn_head.predict(features, batch['data_samples'], rescale=False)
    metas = [sample.metainfo for sample in batch['data_samples']]
    model.roi_head.predict_bbox(features, metas, proposals, model.test_cfg.rcnn, rescale=False)
    return model.roi_head._mask_forward(features, bbox2roi([boxes]))['mask_preds']


def measure_image(model, scene, device):
    """Seconds of the network and of paste + RLE, and the masks."""
    import torch
    from mmengine.dataset import Compose
    from mmengine.structures import InstanceData
    pipeline = Compose([dict(type='Resize', scale=SCALE, keep_ratio=True), dict(type='PackDetInputs')])
    packed = pipeline(scenes.dataset_item(scene.image, [], []))
    batch = model.data_preprocessor({'inputs': [packed['inputs']], 'data_samples': [packed['data_samples']]})
    boxes, logits, factor = predictions(scene)
    boxes, logits, labels = boxes.to(device), logits.to(device), torch.tensor(scene.labels).to(device)
    meta = dict(scale_factor=factor, ori_shape=scene.image.shape[:2])

    def paste():
        instances = InstanceData(bboxes=boxes.clone(), labels=labels)
        masks = model.roi_head.mask_head.predict_by_feat(
            [logits], [instances], [meta], model.test_cfg.rcnn, rescale=True)[0].masks
        masks.to_rles()
        return masks

    def run():
        network(model, batch, boxes)
        if device != 'cpu':
            torch.cuda.synchronize()

    return median_seconds(run, repeats=1 if device == 'cpu' else 5), median_seconds(paste), paste()


def measure_metric(truth, samples, max_dets):
    """Median seconds of the AP metric, and its AP50."""
    from cellseg_mm.evaluation.cell_metric import coco_results
    from cellseg_mm.evaluation.coco_ap import average_precision
    from cellseg_mm.evaluation.instances import pair_images
    categories = sorted((category['id'], category['name']) for category in truth['categories'])
    category_ids, classes = zip(*categories, strict=True)

    def metric():
        results = [result for sample in samples for result in coco_results(sample, category_ids)]
        return average_precision(pair_images(truth, results), classes, max_dets)

    return median_seconds(metric), metric()['AP50_dense']


def main():
    import torch
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--real', type=Path, metavar='FILE', default=scenes.true_annotations(),
                        help='COCO ground truth with RLE masks')
    parser.add_argument('--config', default=ROOT / 'configs/cell_maskrcnn.py')
    parser.add_argument('--images', type=int, help='take only the first so many')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures here')
    args = parser.parse_args()
    if args.real is None:
        parser.error('name an annotation file by --real, or its folder by CELLSEG_REAL_DATA')
    truth = json.loads(args.real.read_text())
    truth['images'] = truth['images'][:args.images]
    ids = {image['id'] for image in truth['images']}
    truth['annotations'] = [cell for cell in truth['annotations'] if cell['image_id'] in ids]
    model, max_dets = build(args.config, args.device)
    rng = np.random.default_rng(0)
    seconds, samples = [], []
    print(f'{machine()}, on {args.device}\nimage size         cells  network s  paste + RLE s  share %')
    with torch.inference_mode():
        for image in truth['images']:
            scene = Scene(*scenes.true_scene(truth, image['id']))
            *times, masks = measure_image(model, scene, args.device)
            seconds.append(times)
            samples.append(dict(img_id=image['id'], ori_shape=scene.image.shape[:2], pred_instances=dict(
                bboxes=scenes.xyxy_boxes(scene.rles), scores=rng.uniform(0.05, 1, len(masks)), labels=scene.labels,
                masks=masks)))
            print(f'{image["height"]:5} x {image["width"]:5} {len(masks):10} {times[0]:10.3f} {times[1]:14.5f} '
                  f'{100 * times[1] / times[0]:8.2f}', flush=True)
    total = np.sum(seconds, axis=0)
    share = 100 * total[1] / total[0]
    metric_seconds, ap50 = measure_metric(truth, samples, max_dets)
    print(f'all {len(ids)} images, {len(truth["annotations"])} cells: network {total[0]:.1f} s, paste + RLE '
          f'{total[1]:.3f} s, {share:.2f}% of it (target under {MAX_SHARE}%); AP metric {metric_seconds:.2f} s '
          f'(target under {MAX_METRIC_SECONDS} s)')
    assert ap50 > 0.95, f'the masks are not the true ones: AP50 {ap50:.3f}'
    if args.json:
        args.json.write_text(json.dumps(dict(
            machine=machine(), device=args.device, network=total[0], paste_rle=total[1], share=share,
            metric=metric_seconds), indent=1))
    return int(share >= MAX_SHARE or metric_seconds >= MAX_METRIC_SECONDS)


if __name__ == '__main__':
    sys.exit(main())
