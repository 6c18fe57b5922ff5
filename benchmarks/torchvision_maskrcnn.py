"""End to end beside torchvision's Mask R-CNN: python benchmarks/torchvision_maskrcnn.py [--large]

configs/cell_maskrcnn.py and `maskrcnn_resnet50_fpn`, both with random weights, on the same scenes, from the image and
its RLE annotations in memory to a step's end, and from the image to the RLEs of the detections. Same input size
(1333 x 800 at most), proposals, sampling, frozen layers, and detections: as many as the scene has cells. Each run has a
process of its own; the peak is its resident memory at the highest (on an accelerator: the memory allocated there).
"""
import argparse
import resource
import statistics
import time
from pathlib import Path

import scenes
from measure import in_a_process, machine, register

CONFIG = Path(__file__).resolve().parents[1] / 'configs/cell_maskrcnn.py'
SCENES = ((150, 500), (600, 1000))
LARGE = (1500, 1800)
WARM_UP = (20, 100)


def synchronize(device):
    if device == 'cuda':
        import torch
        torch.cuda.synchronize()


def ours(cells, training, device):
    """What takes a scene and does the work: a training step, or a prediction down to RLEs, by our model."""
    import torch
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.dataset import Compose
    from mmengine.optim import build_optim_wrapper
    config = Config.fromfile(CONFIG)
    config.model.backbone.init_cfg = None
    config.model.test_cfg.rpn.update(nms_pre=2 * cells, max_per_img=2 * cells)
    config.model.test_cfg.rcnn.update(max_per_img=cells, score_thr=0.0)
    model = MODELS.build(config.model).to(device).train(training)
    optimizer = build_optim_wrapper(model, config.optim_wrapper)
    # The image is in memory already.
    steps = [step for step in (config.train_pipeline if training else config.test_pipeline)
             if step.type != 'LoadTiffImage']
    pipeline = Compose(steps)

    def run(image, rles):
        packed = pipeline(scenes.dataset_item(image, rles))
        batch = dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']])
        if training:
            model.train_step(batch, optimizer)
            return 0
        with torch.no_grad():
            return len(model.test_step(batch)[0].pred_instances.masks.to_rles())

    return run


def theirs(cells, training, device):
    """The same by torchvision's model, with masks as its users hand them over and take them."""
    import numpy as np
    import torch
    from pycocotools import mask as coco_mask
    from torchvision.models.detection import maskrcnn_resnet50_fpn
    from torchvision.models.resnet import Bottleneck
    model = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=scenes.CLASSES + 1, min_size=800, max_size=1333,
        rpn_pre_nms_top_n_train=2000, rpn_post_nms_top_n_train=1000, rpn_pre_nms_top_n_test=2 * cells,
        rpn_post_nms_top_n_test=2 * cells, box_score_thresh=0.0, box_detections_per_img=cells)
    model = model.to(device).train(training)
    for module in model.backbone.body.modules():  # as ours: frozen norms and first stage, residuals that start at zero
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
        if isinstance(module, Bottleneck):
            torch.nn.init.zeros_(module.bn3.weight)
    for name, parameter in model.backbone.body.named_parameters():
        parameter.requires_grad_(not name.startswith(('conv1', 'bn1', 'layer1')))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.005, momentum=0.9, weight_decay=0.0005)

    def run(image, rles):
        images = [torch.from_numpy(image).to(device).permute(2, 0, 1).float() / 255]
        if training:
            encoded = [{**rle, 'counts': rle['counts'].encode()} for rle in rles]
            masks = torch.from_numpy(coco_mask.decode(encoded).transpose(2, 0, 1).copy())
            target = dict(boxes=torch.from_numpy(scenes.xyxy_boxes(rles)).float(), masks=masks,
                          labels=torch.arange(len(rles)) % scenes.CLASSES + 1)
            losses = model(images, [{name: value.to(device) for name, value in target.items()}])
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            return 0
        with torch.no_grad():
            masks = (model(images)[0]['masks'][:, 0] > 0.5).cpu().numpy().astype(np.uint8)
        return len([coco_mask.encode(np.asfortranarray(mask)) for mask in masks])

    return run


def measure(build, cells, side, training, device, repeats):
    """Median seconds, peak bytes and the number of detections."""
    import torch
    register()
    torch.manual_seed(0)
    run = build(cells, training, device)

    def load(*size):
        image, labels = scenes.scene(*size)
        return image, scenes.rles_of(labels)

    run(*load(*WARM_UP))
    data, seconds = load(cells, side), []
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        found = run(*data)
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return statistics.median(seconds), torch.cuda.max_memory_allocated() if device == 'cuda' else peak, found


def main():
    import torch
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--large', action='store_true', help='1,500 cells at 1800 px too; torchvision takes many GB')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    args = parser.parse_args()
    print(f'{machine()}, on {args.device}')
    for cells, side in SCENES + (LARGE, ) * args.large:
        for training in (True, False):
            what = 'training step' if training else 'inference to RLE'
            (own, own_peak, own_found), (other, other_peak, other_found) = (
                in_a_process(measure, build, cells, side, training, args.device, args.repeats)
                for build in (ours, theirs))
            if not training and not own_found == other_found == cells:
                raise SystemExit(f'{own_found} and {other_found} detections, not {cells}: nothing to compare')
            print(f'{cells:5} cells at {side:4} px, {what:16}: ours {own:7.2f} s, {own_peak / 1e9:5.2f} GB; '
                  f'torchvision {other:7.2f} s, {other_peak / 1e9:5.2f} GB: {other / own:.2f} times the time, '
                  f'{other_peak / own_peak:.2f} times the memory'
                  + (f'; both {cells} detections' if not training else ''), flush=True)


if __name__ == '__main__':
    main()
