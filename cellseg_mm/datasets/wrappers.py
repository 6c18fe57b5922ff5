"""Data sets of a config within wrappers, such as MMDetection's `MultiImageMixDataset` and `RepeatDataset`."""
from mmdet.registry import DATASETS
from mmengine.registry import init_default_scope

from cellseg_mm.errors import UserError


def nested(dataset, key='dataset'):
    """Return the dotted key and the config of a data set and of each that is within it, outermost first.

    Args:
        dataset (dict): The config.
        key (str): Its own dotted key.

    Returns:
        list[tuple[str, dict]]: The last one has the images.

    Raises:
        UserError: If that one has no annotation file, as `ConcatDataset` has none.
    """
    found = [(key, dataset)]
    while 'dataset' in dataset:
        key, dataset = f'{key}.dataset', dataset['dataset']
        found.append((key, dataset))
    if 'ann_file' not in dataset:
        raise UserError(f'{key} ({dataset.get("type")}) has no ann_file: images are checked, counted and shared out by '
                        'one file of annotations; let one CellDataset have them all')
    return found


def pipeline_steps(dataset, key='dataset'):
    """Return the transforms of a data set in order, those of wrappers last.

    Args:
        dataset (dict): The config.
        key (str): Its own dotted key.

    Returns:
        list[tuple[str, dict]]: The dotted key of the pipeline that each is in, and its config.

    Raises:
        UserError: As `nested`.
    """
    return [(f'{place}.pipeline', step) for place, node in reversed(nested(dataset, key))
            for step in node.get('pipeline') or []]


def build_dataset(dataset, split):
    """Build a data set that can be looked at, or counted, without training on it.

    Args:
        dataset (dict): The config; changed in place.
        split (str): What a message calls it.

    Returns:
        Dataset: Of one image or more.

    Raises:
        UserError: If it is empty, or as `nested`.
        CellDataError: As `CellDataset`.
    """
    init_default_scope('mmdet')
    # MMEngine fails to pack a data set that is empty; unpacked, it can be asked for its length.
    nested(dataset)[-1][1]['serialize_data'] = False
    built = DATASETS.build(dataset)
    if not len(built):
        raise UserError(f'the {split} data set is empty: its filter_cfg lets no image pass, or its indices choose '
                        'none; lower min_size or set filter_cfg=None, and indices=None')
    return built
