"""Whether all that depends on the number of classes has the one of the config."""
import re

from cellseg_mm.engine.config_checks.finding import error
from cellseg_mm.engine.config_checks.subject import dicts

# These tell other things than cells: whether there is any, kinds of background, the thousand of ImageNet.
_OTHER_CLASSES = re.compile(r'\b(rpn_head|semantic_head|backbone)\b')


def check(subject):
    """Yield findings."""
    count = len(subject.config.classes)
    yield from _metainfo(subject.config)
    yield from _transforms(subject.config, count)
    wrong = [*_numbers(subject.config.model, count), *_weights(subject.config.model, count)]
    yield from wrong
    if not wrong and subject.model is not None:
        yield from _defaults(subject.model, count)


def _metainfo(config):
    for split in ('train', 'val', 'test'):
        for place, node in dicts(config.get(f'{split}_dataloader'), f'{split}_dataloader'):
            classes = (node.get('metainfo') or {}).get('classes')
            if classes is not None and tuple(classes) != tuple(config.classes):
                yield error(f'{place}.metainfo.classes', f'is {tuple(classes)}, the classes are '
                            f'{tuple(config.classes)}', 'set metainfo=dict(classes=_base_.classes)')


def _transforms(config, count):
    """A class without a weight would be noticed with its first cell, in the middle of a training."""
    for place, node in dicts(config.get('train_dataloader'), 'train_dataloader'):
        weights = node.get('class_weights')
        if isinstance(weights, (list, tuple)) and len(weights) != count:
            yield error(f'{place} ({node.get("type")}).class_weights', f'has {len(weights)} numbers, the classes are '
                        f'{count}', 'give each class one')


def _numbers(model, count):
    for place, node in dicts(model, 'model'):
        if _OTHER_CLASSES.search(place):
            continue
        for key, wanted in (('num_classes', count), ('num_things_classes', count), ('num_stuff_classes', 0)):
            if node.get(key, wanted) != wanted:
                yield error(f'{place}.{key}', f'is {node[key]}, ' + (
                  'and cells are things' if key == 'num_stuff_classes' else f'the classes are {count}'),
                  f'set {key}={"len(_base_.classes)" if wanted else 0}')


def _weights(model, count):
    for place, node in dicts(model, 'model'):
        loss = node.get('loss_cls')
        weights = loss.get('class_weight') if isinstance(loss, dict) else None
        if not isinstance(weights, (list, tuple)) or _OTHER_CLASSES.search(place):
            continue
        wanted = count if loss.get('use_sigmoid') else count + 1  # softmax has one for the background
        if len(weights) != wanted:
            yield error(f'{place}.loss_cls.class_weight', f'has {len(weights)} numbers, and {wanted} are '
                        f'needed for {count} classes{"" if wanted == count else " and the background"}',
                        'derive it from len(_base_.classes)')


def _defaults(model, count):
    for name, module in model.named_modules():
        number = module.__dict__.get('num_classes')
        if isinstance(number, int) and number != count and not _OTHER_CLASSES.search(name):
            place = re.sub(r'\.(\d+)', r'[\1]', f'model.{name}')
            yield error(f'{place}.num_classes', f'is {number} where nothing is set, the classes are {count}',
                        'set num_classes=len(_base_.classes)')
