import tracemalloc
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.structures import InstanceData

from cellseg_mm.errors import UserError
from cellseg_mm.structures.local_masks import LocalMasks
from cellseg_mm.visualization.overlay import class_colours
from cellseg_mm.visualization.visualizer import CellVisualizer

SHAPE = 300, 400
CLASSES = 'round', 'long', 'rare'
FORMS = {
    'local': LocalMasks.from_bitmaps,
    'tensor': torch.from_numpy,
    'bitmaps': lambda masks: BitmapMasks(masks, *SHAPE),
    'polygons': lambda masks: PolygonMasks([[np.array([x, y, x + 20, y, x + 20, y + 20, x, y + 20], float)]
                                            for x, y in (np.argwhere(mask)[0][::-1] for mask in masks)], *SHAPE),
    'rles': lambda masks: LocalMasks.from_bitmaps(masks).to_rles()}


@pytest.fixture
def draw(tmp_path):
    """The picture of a sample on white, BGR."""
    visualizer = CellVisualizer()

    def draw(sample, classes=CLASSES, palette=(), image=None, **options):
        visualizer.dataset_meta = dict(classes=classes, palette=palette)
        image = np.full((*SHAPE, 3), 255, np.uint8) if image is None else image
        visualizer.add_datasample('cells', image, sample, out_file=str(tmp_path / 'cells.png'), **options)
        return cv2.imread(str(tmp_path / 'cells.png'))

    return draw


def cells(corners, form='local', scores=None, boxes=None):
    """Squares of side 20 at (x, y), of the classes in turn."""
    masks = np.zeros((len(corners), *SHAPE), np.uint8)
    for mask, (x, y) in zip(masks, corners, strict=True):
        mask[y:y + 20, x:x + 20] = 1
    instances = InstanceData(labels=torch.arange(len(corners)) % len(CLASSES))
    if form:
        instances.masks = FORMS[form](masks)
    if boxes is not None:
        instances.bboxes = boxes
    if scores is not None:
        instances.scores = torch.tensor(scores)
    return instances


def places_of(picture, colour):
    """Whether a colour shows above the legend, where it is drawn for every class."""
    return (picture[:-100] == colour).all(axis=2)


def text_in(picture):
    """How many pixels there are, in the panels, of the dark edges of texts."""
    return np.count_nonzero((picture[80:600] < 80).all(axis=2))


def test_it_is_found_by_its_name():
    assert isinstance(VISUALIZERS.build(dict(type='CellVisualizer', name='cells')), CellVisualizer)


def test_pictures_are_the_same_whatever_form_masks_have(draw):
    corners = [(50, 60), (200, 100), (300, 200)]
    pictures = [draw(DetDataSample(gt_instances=cells(corners, form), pred_instances=cells(corners, form, [0.9] * 3)))
                for form in FORMS]
    for picture in pictures[1:]:
        np.testing.assert_array_equal(picture, pictures[0])
    for colour in class_colours(3):
        assert places_of(pictures[0], colour).any()


def test_truth_and_prediction_have_panels_of_their_own(draw):
    truth, found = cells([(50, 60)]), cells([(200, 100)], scores=[0.9])
    alone = draw(DetDataSample(pred_instances=found))
    both = draw(DetDataSample(gt_instances=truth, pred_instances=found))
    assert both.shape[1] > 1.4 * alone.shape[1] > 0
    assert draw(None).shape[1] < 0.6 * alone.shape[1]
    hidden = draw(DetDataSample(gt_instances=truth, pred_instances=found), draw_gt=False)
    np.testing.assert_array_equal(hidden, alone)


def test_ground_truth_that_was_not_loaded_has_no_panel(draw):
    found = cells([(200, 100)], scores=[0.9])
    np.testing.assert_array_equal(draw(DetDataSample(gt_instances=InstanceData(), pred_instances=found)),
                                  draw(DetDataSample(pred_instances=found)))


def test_predictions_below_the_threshold_and_empty_ones_are_left_out(draw):
    few = draw(DetDataSample(pred_instances=cells([(50, 60), (200, 100)], scores=[0.9, 0.5])), pred_score_thr=0.5)
    many = cells([(50, 60), (200, 100), (100, 200), (0, 300)], scores=[0.9, 0.5, 0.4, 0.9])
    np.testing.assert_array_equal(draw(DetDataSample(pred_instances=many), pred_score_thr=0.5), few)


def test_the_image_keeps_its_colours(draw):
    red = np.full((*SHAPE, 3), (255, 0, 0), np.float32)
    assert places_of(draw(None, image=red), (0, 0, 255)).sum() >= SHAPE[0] * SHAPE[1]


def test_the_palette_of_the_data_set_is_used_where_it_has_one(draw):
    sample = DetDataSample(gt_instances=cells([(50, 60)]))
    assert places_of(draw(sample, palette=[(1, 2, 200)] * 3), (200, 2, 1)).any()
    for palette in ([(1, 2, 200)], 'random', None):
        assert places_of(draw(sample, palette=palette), class_colours(1)[0]).any()


def test_classes_without_names_are_drawn_too(draw):
    picture = draw(DetDataSample(gt_instances=cells([(50, 60), (200, 100)])), classes=None)
    assert places_of(picture, class_colours(2)[1]).any()


@pytest.mark.parametrize('kind', ['tensor', 'boxes'])
def test_boxes_are_drawn_where_there_are_no_masks(draw, kind):
    boxes = torch.tensor([[50, 60, 70, 80.]])
    boxes = HorizontalBoxes(boxes) if kind == 'boxes' else boxes
    drawn = places_of(draw(DetDataSample(gt_instances=cells([(50, 60)], None, boxes=boxes))), class_colours(1)[0])
    rows, columns = np.nonzero(drawn)
    # 300 x 400 pixels are shown at twice their size, the outline two pixels wide.
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (40, 40)
    assert len(rows) == 40 * 40 - 36 * 36


def test_boxes_are_not_drawn_where_there_are_masks(draw):
    np.testing.assert_array_equal(
        draw(DetDataSample(gt_instances=cells([(50, 60)], boxes=torch.tensor([[5, 5, 99, 99.]])))),
        draw(DetDataSample(gt_instances=cells([(50, 60)]))))


def test_few_cells_are_named_and_many_are_not(draw):
    few = cells([(50, 60), (200, 100)])
    many = cells([(x, y) for x in range(0, 380, 21) for y in range(0, 280, 21)])
    assert text_in(draw(DetDataSample(gt_instances=few))) > 100
    assert text_in(draw(DetDataSample(gt_instances=many))) == 0


def test_a_name_that_would_hide_another_is_left_out(draw):
    apart, touching, one = (text_in(draw(DetDataSample(gt_instances=cells(corners)), classes=('cell', ) * 3))
                            for corners in ([(50, 60), (200, 100)], [(50, 60), (52, 61)], [(50, 60)]))
    assert apart > 1.5 * one
    assert touching <= one


def test_masks_of_another_size_than_the_image_are_refused(draw):
    with pytest.raises(UserError, match='masks of 300 x 400 pixels do not fit the image of 200 x 200'):
        draw(DetDataSample(gt_instances=cells([(50, 60)])), image=np.zeros((200, 200, 3), np.uint8))


def test_mmdetections_hook_writes_a_picture_of_each_tested_image(tmp_path):
    from mmdet.engine.hooks import DetVisualizationHook
    cv2.imwrite(str(tmp_path / 'image.tif'), np.full((*SHAPE, 3), (200, 100, 50), np.uint8))
    visualizer = CellVisualizer.get_instance(
        'hooked', save_dir=str(tmp_path), vis_backends=[dict(type='LocalVisBackend')])
    visualizer.dataset_meta = dict(classes=CLASSES, palette=[])
    sample = DetDataSample(metainfo=dict(img_path=str(tmp_path / 'image.tif')), gt_instances=InstanceData(),
                           pred_instances=cells([(50, 60)], scores=[0.9]))
    runner = SimpleNamespace(work_dir=str(tmp_path), timestamp='now', iter=0)
    DetVisualizationHook(draw=True, test_out_dir='shown').after_test_iter(runner, 0, None, [sample])
    DetVisualizationHook(draw=True, interval=1).after_val_iter(runner, 0, None, [sample])
    shown = cv2.imread(str(tmp_path / 'now/shown/image.tif'))
    recorded = cv2.imread(str(tmp_path / 'vis_data/vis_image/val_img_0.png'))
    np.testing.assert_array_equal(shown, recorded)
    assert places_of(shown, (200, 100, 50)).sum() > SHAPE[0] * SHAPE[1]
    assert places_of(shown, class_colours(1)[0]).any()


def test_what_was_drawn_can_be_asked_for(draw):
    visualizer = CellVisualizer()
    visualizer.add_datasample('cells', np.zeros((30, 40, 3), np.uint8), DetDataSample())
    assert visualizer.get_image().ndim == 3


def test_memory_grows_with_the_image_not_with_cells_times_canvas():
    rng = np.random.default_rng(0)
    boxes = np.column_stack([rng.integers(0, 3980, (2000, 2)), np.full((2000, 2), 20)])
    instances = InstanceData(masks=LocalMasks(np.ones(2000 * 400), boxes, 4000, 4000), scores=torch.ones(2000),
                             labels=torch.zeros(2000, dtype=int))
    image, visualizer = np.full((4000, 4000, 3), 255, np.uint8), CellVisualizer()
    tracemalloc.start()
    visualizer.add_datasample('cells', image, DetDataSample(pred_instances=instances))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The picture, two panels, has 100 MB, some copies of which are made; the canvases of all cells have 32 GB.
    assert peak < 7e8
