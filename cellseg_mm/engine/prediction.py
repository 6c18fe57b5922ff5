"""Prediction of many images by one process or several, into files, resumable after a kill."""
import hashlib
import json
import shutil
import sys
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from cellseg_mm import __version__
from cellseg_mm.engine.config import read_model_config, settings_of
from cellseg_mm.engine.distributed import broadcast, gather, on_all, open_process_group
from cellseg_mm.engine.prediction_folder import Outcome, PredictionFolder, as_text
from cellseg_mm.engine.preflight import check_work_dir
from cellseg_mm.errors import UserError, disk_remedy, is_out_of_memory
from cellseg_mm.export import DEFAULT_FORMATS, FORMATS
from cellseg_mm.export.coco import write_coco
from cellseg_mm.export.geojson import write_geojson
from cellseg_mm.export.label_map import write_class_map, write_label_map
from cellseg_mm.export.roi import write_rois
from cellseg_mm.export.table import measure, write_csv, write_parquet
from cellseg_mm.inference.predictor import Predictor
from cellseg_mm.inference.tile_store import TileStore
from cellseg_mm.io.files import alone_in, delete_partials
from cellseg_mm.io.image_list import fingerprint, list_images
from cellseg_mm.progress import track
from cellseg_mm.visualization.overlay import class_colours, count_of
from cellseg_mm.visualization.prediction_overlay import write_overlay
from cellseg_mm.visualization.prediction_page import thumbnail, write_viewer

_FEW = 8  # tiles, of which no progress is shown
_NOT_IN_PLANS = 'device', 'trusted', 'batch_size'  # they are to change no result


def predict_images(images, checkpoints, out, *, formats=DEFAULT_FORMATS, mpp=None, threshold=None, overwrite=False,
                   launcher='none', config=None, **settings):
    """Predict images and write what was asked for, each image for itself: one that fails does not stop the others.

    A second call with the same settings leaves alone what is done, and goes on with the tiles of what is not. Under
    `torchrun`, processes share out the images, and the tiles of those that are large; the result is the same.

    Args:
        images (Sequence[str]): Files, folders and patterns, as `list_images` takes them.
        checkpoints (Sequence[str | Path]): Of `Predictor`.
        out (str | Path): Folder for all that is written; all processes have to see it.
        formats (Sequence[str]): Of `FORMATS`, or 'all'.
        mpp (float, optional): Micrometres per pixel, in place of what files say.
        threshold (float, optional): The score from which on a cell counts, in place of those beside the checkpoints.
        overwrite (bool): Whether to do again what is done.
        launcher (str): `none` or `pytorch`.
        config (str | Path, optional): Config file, for checkpoints without their own.
        **settings: Of `Predictor`.

    Returns:
        list[Outcome]: Of each image; on the first process alone, others return an empty list.

    Raises:
        UserError: Before any work is done, for all that the user can mend.
    """
    rank, world = open_process_group(launcher)
    with ExitStack() as stack:
        def prepare():
            if unknown := sorted(set(formats) - {*FORMATS, 'all'}):
                raise UserError(f'there is no format {", ".join(unknown)}; there are {", ".join(FORMATS)}, and all')
            paths = list_images(images, FORMATS.values())
            for path in paths:
                _check_apart(path.resolve(), Path(out).resolve())
            model_config = read_model_config(config) if config else None
            predictor = Predictor(*checkpoints, config=model_config, **settings)
            if threshold is not None:
                predictor.thresholds = np.full(len(predictor.classes), threshold)
            check_work_dir(out, option='--out')
            if rank == 0:
                stack.enter_context(alone_in(out, 'a prediction'))
            chosen = [name for name in FORMATS if name in formats or 'all' in formats]
            return paths, _Work(predictor, PredictionFolder(out), chosen, mpp, {
                'version': __version__, 'checkpoints': list(map(_digest, checkpoints)), 'mpp': mpp,
                'config': hashlib.sha256(settings_of(model_config).encode()).hexdigest() if config else None,
                **{name: value for name, value in sorted(settings.items()) if name not in _NOT_IN_PLANS}})

        paths, work = on_all(prepare, world)
        return _predict(work, paths, overwrite, rank, world)


def _check_apart(path, out):
    if out == path.parent or (path.is_dir() and out.is_relative_to(path)):
        raise UserError(f'{out}: {path} lies there, and what is written could take the place of its files: name '
                        'another folder with --out')


def _predict(work, paths, overwrite, rank, world):
    jobs, work.plans = broadcast(on_all(lambda: work.survey(paths, overwrite) if rank == 0 else None, world), world)
    todo, large = [job for job in jobs if job.counts is None], []
    if world > 1:
        sizes = gather([work.count_tiles(job) for job in todo[rank::world]], world)
        shared = {job.name for first, counts in enumerate(sizes)
                  for job, tiles in zip(todo[first::world], counts, strict=True) if tiles >= 2 * world}
        large, todo = ([job for job in todo if (job.name in shared) == chosen] for chosen in (True, False))

    if rank == 0 and work.note and any(job.counts is None for job in jobs):
        print(work.note, flush=True)
    outcomes = [outcome for job in large for outcome in work.predict_together(job, rank, world)]
    mine = [_said(work.predict(job)) for job in todo[rank::world]]
    outcomes += [outcome for part in gather(mine, world) for outcome in part]
    if rank:
        return []
    by_name = {outcome.name: outcome for outcome in (*jobs, *outcomes)}
    outcomes = [by_name[job.name] for job in jobs]
    work.folder.write_lists([outcome for outcome in outcomes if outcome.counts is None], work.classes)
    return outcomes


class _Work:
    """What is to be done with each image, of which an `Outcome` without counts is the job.

    The plans of all images, by name, are made once, since an image may change while it is predicted.
    """

    def __init__(self, predictor, folder, formats, mpp, settings):
        self.folder, self.classes, self.note, self.plans = folder, predictor.classes, predictor.note, {}
        self._predictor, self._formats, self._mpp, self._settings = predictor, formats, mpp, settings
        self._thresholds = predictor.thresholds.tolist()

    def survey(self, paths, overwrite):
        """All jobs, of which those that are done have counts; and the plans of all."""
        delete_partials(self.folder.path)
        jobs, plans = self.folder.survey(paths, self._plan, [FORMATS[name] for name in self._formats])
        if overwrite:
            jobs = [Outcome(job.name, job.path, job.image_id) for job in jobs]
        for job in jobs:
            if overwrite or job.counts is not None:
                shutil.rmtree(self._tiles(job), ignore_errors=True)
        return jobs, plans

    def count_tiles(self, job):
        """How many tiles there are of an image; 0 if it cannot be read, which is told when it is predicted."""
        with _told(), self._predictor.open(job.path) as slide:
            return len(self._predictor.layout(slide, self._mpp)[0].tiles)
        return 0

    def predict(self, job):
        """Predict an image, and return what came of it."""
        with _told() as problem, self._predictor.open(job.path) as slide:
            plan = self._predictor.plan(slide, self._mpp)
            self._look(job, slide, plan)
            return self._finish(job, slide, plan)
        return replace(job, note=problem.text)

    def predict_together(self, job, rank, world):
        """Predict an image by all processes: the first decides what is looked at, and writes. Returns what it did."""
        with ExitStack() as stack:
            plan = slide = None
            with _told() as problem:
                slide = stack.enter_context(self._predictor.open(job.path))
                if rank == 0:
                    made = self._predictor.plan(slide, self._mpp)
                    self._store(job)  # made by one process, then found by all
                    plan = made
            plan = broadcast(plan, world)
            if plan is not None and slide is not None:
                with _told() as problem:
                    self._look(job, slide, plan, rank, world)
            problems = [text for text in gather(problem.text, world) if text]
            if rank:
                return []
            outcome = replace(job, note=problems[0]) if problems else self._finished(job, slide, plan)
            return [_said(outcome)]

    def _finished(self, job, slide, plan):
        with _told() as problem:
            return self._finish(job, slide, plan)
        return replace(job, note=problem.text)

    def _look(self, job, slide, plan, rank=0, world=1):
        """Look at every `world`-th tile that has not been looked at."""
        store = self._store(job)
        tiles = [tile for tile in plan.shown[rank::world] if tile not in store]
        # Closed before the slide is, since it reads ahead.
        with closing(self._predictor.look(slide, plan, tiles)) as looked:
            name = ' '.join(job.name.split())
            for tile, cells in track(looked, f'{name}: tiles', len(tiles)) if len(tiles) > _FEW else looked:
                store.write(tile, cells)

    def _finish(self, job, slide, plan):
        """Merge what was found in the tiles of an image, and write it."""
        store = self._store(job)
        found = self._predictor.merged(plan, {tile: store.read(tile) for tile in plan.shown})
        cells = self._predictor.confident(found)
        job = replace(job, height=slide.height, width=slide.width, mpp=self._mpp or slide.mpp,
                      thumbnail=thumbnail(slide), files=[job.name + FORMATS[form] for form in self._formats])
        kept = self.folder.begin(job, self.plans[job.name])
        self._write(job, slide, cells, found)
        counts = np.bincount(cells.labels, minlength=len(self.classes)).tolist()
        outcome = replace(job, files=sorted({*kept, *job.files}), counts=dict(zip(self.classes, counts, strict=True)),
                          note='; '.join(filter(None, [plan.note, '' if plan.shown else 'no tissue was found'])))
        self.folder.complete(outcome, self.plans[job.name])
        store.delete()
        return outcome

    def _write(self, job, slide, cells, found):
        classes, mpp = self.classes, job.mpp
        colors = [colour[::-1] for colour in class_colours(len(classes))]
        columns = measure(cells, classes, slide, mpp) if {'csv', 'parquet', 'geojson'} & set(self._formats) else None
        writers = {
            'labels': lambda path: write_label_map(path, cells, mpp),
            'classes': lambda path: write_class_map(path, cells, classes, mpp),
            'geojson': lambda path: write_geojson(path, cells, classes, colors, columns),
            'rois': lambda path: write_rois(path, cells, classes, colors),
            'csv': lambda path: write_csv(path, columns),
            'parquet': lambda path: write_parquet(path, columns),
            'coco': lambda path: write_coco(path, [(job.image_id, found)]),
            'overlay': lambda path: write_overlay(path, slide, cells, classes, mpp=mpp),
            'viewer': lambda path: write_viewer(path, slide, cells, classes, self._thresholds, mpp)}
        for form, file in zip(self._formats, job.files, strict=True):
            writers[form](self.folder.path / file)

    def _tiles(self, job):
        return self.folder.path / f'.{job.name}.tiles'

    def _store(self, job):
        return TileStore(self._tiles(job), {key: self.plans[job.name][key] for key in ('image', 'settings')})

    def _plan(self, path):
        """What the cells of an image depend on, as JSON gives it back."""
        try:
            image = fingerprint(path)
        except OSError:  # it has vanished, or may not be looked at: that is told when it is opened
            image = [path, None]
        return json.loads(json.dumps({'image': image, 'settings': self._settings, 'thresholds': self._thresholds}))


@contextmanager
def _told():
    """Keep what a user can mend, of one image, as `text`: the other images are done all the same."""
    problem = SimpleNamespace(text='')
    try:
        yield problem
    except UserError as error:
        problem.text = ' '.join(str(error).split())
    except OSError as error:
        problem.text = f'{error.filename or "writing"}: {disk_remedy(error) or error.strerror or error}'
    except Exception as error:  # NumPy, torch and OpenCV have one each for this
        if not is_out_of_memory(error):
            raise
        problem.text = 'memory ran out: try smaller tiles by --tile, --batch-size 1, or --amp'


def _said(outcome):
    """Tell what came of an image, in one line."""
    path = Path(outcome.path)
    path = ' '.join(as_text(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)).split())
    if outcome.counts is None:
        print(as_text(f'{path}: failed: {outcome.note}'), file=sys.stderr, flush=True)
    else:
        classes = ', '.join(f'{count:,} {name}' for name, count in outcome.counts.items() if count)
        cells = count_of(sum(outcome.counts.values()), 'cell') + (f' ({classes})' if classes else '')
        print('; '.join(filter(None, [f'{path}: {cells}', outcome.note])), flush=True)
    return outcome


def _digest(path):
    with Path(path).open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()
