"""Feature extraction of `geodino eval` over the bare model, on the same images, size, batch and precision, in one run.

The extraction reads 64-px JPEGs out of a zip, enlarges them to 128 px, standardises and encodes; the bare model
encodes as many prepared images from memory. Prints the ratio of images a second; the target is 0.95.
"""

import argparse
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import _share_cores  # noqa: F401 - before torch
import numpy as np
import torch
from PIL import Image

from geodino.backbones.backbone import untrained_backbone
from geodino.evaluation.extract import BackboneExtractor, extract
from geodino.evaluation.open import open_data


def write_images(path: Path, count: int) -> None:
    """A zip of two classes of smooth noise, which decodes about as fast as satellite JPEGs do."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as out:
        for i in range(count):
            coarse = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).resize((64, 64))
            data = BytesIO()
            coarse.save(data, "JPEG", quality=90)
            out.writestr(f"{'ab'[i % 2]}/{i}.jpg", data.getvalue())


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and processor time of one call; on a busy machine only the second says anything."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    """Alternate both and print the ratio of their medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", default="vit_small_patch16_dinov3_qkvb")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    backbone = untrained_backbone(options.architecture)
    extractor = BackboneExtractor(backbone)
    side = 8 * backbone.patch_size
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.zip"
        write_images(path, options.images)
        images = open_data(str(path))
        batch = torch.randn(options.batch, 3, side, side)

        def bare() -> None:
            for start in range(0, options.images, options.batch):
                extractor.describe(batch[: options.images - start])

        def whole() -> None:
            extract(extractor, images, side, batch_size=options.batch)

        bare(), whole()  # warm
        walls, processors = [], []
        for _ in range(options.repeats):
            alone, together = seconds(bare), seconds(whole)
            walls.append(alone[0] / together[0])
            processors.append(alone[1] / together[1])
    print(
        f"{options.architecture}, {backbone.dtype}, {options.images} JPEGs of 64 px at {side} px, "
        f"batch {options.batch}, {torch.get_num_threads()} threads: extraction / bare model = "
        f"{statistics.median(walls):.3f} ({min(walls):.3f} to {max(walls):.3f} in {options.repeats} runs); "
        f"in processor time {statistics.median(processors):.3f}"
    )


if __name__ == "__main__":
    main()
