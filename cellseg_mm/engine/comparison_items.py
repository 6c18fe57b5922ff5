"""What a comparison is asked to compare."""
import re
from dataclasses import dataclass, field
from pathlib import Path

from cellseg_mm.errors import UserError
from cellseg_mm.io.work_dir import best_checkpoint, last_checkpoint, newest_config, results_path

TRAINED, CHECKPOINT, WORK_DIR, RESULTS, LABEL_MAPS = 'trained', 'checkpoint', 'work dir', 'results', 'label maps'
_NAME = r'[\w+() -][\w.+() -]*'


@dataclass(eq=False)
class Item:
    """A row of a comparison.

    Attributes:
        name (str): Of the row, and of its folder, if it needs one.
        kind (str): `trained`, `checkpoint`, `work dir`, `results` or `label maps`.
        source (str): What the user named.
        config_path (Path | None): The model's config.
        checkpoint (Path | None): Its weights, where they are known.
        results (Path | None): Its predictions as COCO results, where they are known.
        work_dir (Path | None): Of the training, where there is one.
        config (Config | None): Loaded, with the split that all are compared on.
        problem (str | None): Why there are no figures.
        notes (list[str]): What a reader has to know of it.
    """

    name: str
    kind: str
    source: str
    config_path: Path | None = None
    checkpoint: Path | None = None
    results: Path | None = None
    work_dir: Path | None = None
    config: object = None
    problem: str | None = None
    notes: list = field(default_factory=list)


def parse_items(texts):
    """Find out what each item of the command line is.

    Args:
        texts (Sequence[str]): A config, `CONFIG:CHECKPOINT`, the work dir of a training, COCO results or a folder of
            label maps, each with `NAME=` before it or not.

    Returns:
        list[Item]: Of different names.

    Raises:
        UserError: If one is nothing of the kind, or two were given one name.
    """
    items, taken = [], set()
    named = [_named(text) for text in texts]
    for name in (name for name, _ in named if name):
        if name in taken:
            raise UserError(f'two rows are named {name}: give each its own name by NAME=ITEM')
        taken.add(name)
    for name, source in named:
        item = _item(source)
        if name is None:
            name, number = item.name, 1
            while name in taken:
                number += 1
                name = f'{item.name}_{number}'
            taken.add(name)
        item.name = name
        items.append(item)
    return items


def _named(text):
    name, is_named, source = text.partition('=')
    if not is_named or Path(text).exists() or '/' in name:
        return None, text
    if not re.fullmatch(_NAME, name) or name.startswith('comparison') or not source:
        raise UserError(f'{text}: {name!r} cannot name a row: use letters, digits, blanks and ._+-(), not beginning '
                        "with '.' or 'comparison'")
    return name, source


def _item(source):
    path = Path(source)
    if with_checkpoint := re.fullmatch(r'(.+\.py):(.+)', source):
        config, checkpoint = map(Path, with_checkpoint.groups())
        if not checkpoint.is_file():
            raise UserError(f'{checkpoint}: there is no such checkpoint; name CONFIG:CHECKPOINT')
        return Item(_row_name(config.stem), CHECKPOINT, source, config, checkpoint)
    if path.suffix == '.py':
        return Item(_row_name(path.stem), TRAINED, source, path)
    if path.suffix == '.json' and not path.is_dir():
        return Item(_row_name(path.stem), RESULTS, source, results=path)
    if not path.is_dir():
        raise UserError(f'{source}: there is no such file or folder; name a config (.py), CONFIG:CHECKPOINT, the work '
                        'dir of a training, COCO results (.json) or a folder of label maps')
    config, checkpoint = newest_config(path), best_checkpoint(path) or last_checkpoint(path)
    name = _row_name(path.resolve().name)
    if config is None or checkpoint is None:
        return Item(name, LABEL_MAPS, source)
    kept = results_path(checkpoint)  # those in the folder itself may be of another checkpoint
    return Item(name, WORK_DIR, source, config, checkpoint, kept if kept.is_file() else None, path)


def _row_name(stem):
    name = re.sub(r'[^\w.+() -]', '_', stem).lstrip('.') or 'row'
    return f'row {name}' if name.startswith('comparison') else name
