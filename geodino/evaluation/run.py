"""One evaluation: a backbone and its floors, on some data sets, by some protocols, resumable at every step."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np

from geodino.backbones.backbone import Backbone
from geodino.evaluation import intervals, knn, linear, segmentation
from geodino.evaluation.baselines import floors
from geodino.evaluation.dataset import ImageSet
from geodino.evaluation.extract import BackboneExtractor, Extractor, digest, extract
from geodino.evaluation.results import Result, from_json, to_json, write
from geodino.evaluation.split import Split, split
from tiles.errors import InputError
from tiles.progress import progress

KS = (5, 20)
CLASS_PATCHES = 8
"""Patches a side for one class an image: 64 tokens. Smaller images are enlarged to it (64 px to 128 at patch 16)."""
SEGMENTATION_PATCHES = 32
"""Patches a side for masks: the 1,024 tokens at which the family's papers compare segmentation."""


class Protocol(StrEnum):
    """What is measured on frozen features."""

    knn = "knn"
    linear = "linear"
    segmentation = "segmentation"


@dataclass(frozen=True)
class EvaluationSettings:
    """What an evaluation depends on besides backbone and data.

    Attributes:
        protocols: What to measure; those that do not fit a data set are left out. None for all that fit.
        size: Side in pixels that images are brought to; None for the rule of ``Extractor.image_size``.
        seed: Seed of splits, samples and bootstraps.
        with_floors: Measure the three floors beside the backbone.
        show_progress: Print progress.
    """

    protocols: tuple[Protocol, ...] | None = None
    size: int | None = None
    seed: int = 0
    with_floors: bool = True
    show_progress: bool = False


def fitting_protocols(images: ImageSet, wanted: Sequence[Protocol] | None) -> list[Protocol]:
    """Protocols that a data set's labels allow, of those wanted.

    Raises:
        InputError: When none is left.
    """
    fits = [Protocol.segmentation] if images.labels is None else [Protocol.knn, Protocol.linear]
    chosen = [protocol for protocol in fits if wanted is None or protocol in wanted]
    if not chosen:
        has = "masks" if images.labels is None else "one class an image"
        raise InputError(f"{images.name} has {has}; measure it with --protocol {' or '.join(fits)}")
    return chosen


def evaluate(
    backbone: Backbone, images: ImageSet, settings: EvaluationSettings, folder: Path, name: str | None = None
) -> Iterator[Result]:
    """Measure a backbone and its floors on one data set, yielding results as they are known.

    Args:
        backbone: What to measure.
        images: On what.
        settings: How.
        folder: Keeps finished features and results; a run that was interrupted, or asks for more, starts from them.
        name: What to call the backbone in tables; its own name when None.

    Raises:
        InputError: When data, protocols and size do not fit.
    """
    protocols = fitting_protocols(images, settings.protocols)
    parts = split(images, settings.seed)
    extractors: list[Extractor] = [BackboneExtractor(backbone, name)]
    if settings.with_floors:
        extractors += floors(backbone, settings.seed)
    native = max(images.read(0).values.shape[-2:])
    for extractor in extractors:
        floor = extractor is not extractors[0]
        for protocol in protocols:
            size = image_side(extractor, native, protocol, settings.size)
            key = digest(f"{images.fingerprint} {extractor.key} {protocol} {size} {settings.seed} {parts.kind}")
            file = folder / "results" / f"{images.name}-{protocol}-{key}.json"
            if not os.path.exists(file):
                measured = _measure(extractor, images, parts, protocol, size, settings, folder, floor)
                write(file, to_json(measured))
            for found in from_json(file.read_text()):
                yield replace(found, model=extractor.name, floor=floor)  # the same weights may go by another name now


def image_side(extractor: Extractor, native: int, protocol: Protocol, asked: int | None) -> int:
    """Side in pixels that images are brought to.

    Args:
        extractor: Whose whole patches it must be.
        native: Longer side of the images as they are.
        protocol: Decides the number of patches: at least ``CLASS_PATCHES`` or ``SEGMENTATION_PATCHES`` a side, more
            where the image itself has more.
        asked: What the user asked for, instead of the rule.

    Raises:
        InputError: When ``asked`` is not whole patches.
    """
    patch = extractor.patch_size
    if protocol != Protocol.segmentation and not extractor.resizable:
        return max(-(-native // patch), 1) * patch
    if asked is None:
        least = SEGMENTATION_PATCHES if protocol == Protocol.segmentation else CLASS_PATCHES
        return max(round(native / patch), least) * patch
    if asked <= 0 or asked % patch:
        nearest = max(1, round(asked / patch)) * patch
        raise InputError(f"--size {asked} is not whole patches of {patch} pixels; {nearest} is the nearest")
    return asked


def _measure(
    extractor: Extractor,
    images: ImageSet,
    parts: Split,
    protocol: Protocol,
    size: int,
    settings: EvaluationSettings,
    folder: Path,
    floor: bool,
) -> list[Result]:
    def result(metric: str, setting: str, interval: intervals.Interval) -> Result:
        return Result(
            model=extractor.name,
            floor=floor,
            key=extractor.key,
            dataset=images.name,
            fingerprint=images.fingerprint,
            protocol=protocol.value,
            metric=metric,
            setting=setting,
            value=interval.value,
            low=interval.low,
            high=interval.high,
            train=len(parts.train),
            val=len(parts.val),
            test=len(parts.test),
            split=parts.kind,
            size=size,
            seed=settings.seed,
        )

    title = f"{images.name}, {extractor.name}"
    if protocol == Protocol.segmentation:
        total = len(parts.train) + 2 * len(parts.val) + len(parts.test)
        with progress(title, total, show=settings.show_progress) as report:
            score = segmentation.probe(extractor, images, parts, size, seed=settings.seed, progress=report)
        return [result("mIoU", f"C={score.c:.3g}", intervals.mean_iou(score.confusions, settings.seed))]
    labels = images.labels
    assert labels is not None  # fitting_protocols has seen to it
    with progress(title, len(images), show=settings.show_progress) as report:
        cache = folder / "features"
        found = extract(extractor, images, size, cache=cache, progress=report)
    if protocol == Protocol.knn:
        bank = parts.fit
        ks = [k for k in KS if k <= len(bank)]
        predicted = knn.knn_predict(found.summary[bank], labels[bank], found.summary[parts.test], ks=ks)
        return [
            result("accuracy", f"k={k}", intervals.accuracy(predicted[k].numpy(), labels[parts.test], settings.seed))
            for k in ks
        ]
    # a floor's summary is its mean already: twice the same columns would only count its penalty differently
    both = found.summary if np.array_equal(found.summary, found.mean) else np.hstack([found.summary, found.mean])
    fitted = linear.sweep(both, labels, parts.train, parts.val, len(images.classes))
    predicted_test = fitted.predict(both[parts.test])
    return [
        result("accuracy", f"C={fitted.c:.3g}", intervals.accuracy(predicted_test, labels[parts.test], settings.seed))
    ]
