"""What cropping and masking cost, as a share of the training step that they feed.

    python benchmarks/crops.py [--tile 64] [--batch 128] [--global-size 112] [--local-size 48] [--locals 4]

Both are measured in one run, in turn, on one thread, in seconds of processor time, which a busy machine changes less
than it changes the clock: `make_crops` and `block_masks` for a batch, and forward and backward of a ViT-Ti/16 student
with the forward of its teacher on those crops (bfloat16 autocast, the MATH attention kernel, no heads and no losses: a
lower bound of a step, so the share printed is an upper bound).
"""

import argparse
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import timm
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from pretrain.data.crops import Crops, make_crops
from pretrain.data.masking import block_masks, valid_tokens
from pretrain.recipes.views import CropSettings, MaskSettings


def main() -> None:
    """Measure and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tile", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--global-size", type=int, default=112)
    parser.add_argument("--local-size", type=int, default=48)
    parser.add_argument("--locals", type=int, default=4)
    parser.add_argument("--gram-scale", type=float, default=None)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)

    generator = torch.Generator().manual_seed(0)
    values = torch.rand(options.batch, 3, options.tile, options.tile, generator=generator)
    valid = torch.ones(options.batch, options.tile, options.tile, dtype=torch.bool)
    gsd_m = torch.ones(options.batch)
    settings = CropSettings(
        global_size=options.global_size,
        local_size=options.local_size,
        local_count=options.locals,
        gram_scale=options.gram_scale,
    )
    normalization: Any = SimpleNamespace(mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2))
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, dynamic_img_size=True)

    def crop() -> Crops:
        crops = make_crops(values, valid, gsd_m, settings, normalization, generator)
        seen = torch.cat([valid_tokens(view.valid, 16) for view in crops.global_views])
        block_masks(seen, MaskSettings(), generator)
        return crops

    crops = crop()

    def step() -> None:
        wide = torch.cat([view.pixels for view in crops.global_views])
        narrow = torch.cat([view.pixels for view in crops.local_views])
        with torch.autocast("cpu", dtype=torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            with torch.no_grad():
                model(wide)
            total = model(wide).float().square().mean() + model(narrow).float().square().mean()
        total.backward()
        model.zero_grad()

    times: dict[str, list[float]] = {"crops": [], "step": []}
    work: dict[str, Callable[[], object]] = {"crops": crop, "step": step}
    for turn in range(options.rounds + 1):
        for name, run in work.items():
            start = time.process_time()
            run()
            if turn:
                times[name].append(time.process_time() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(
        f"batch {options.batch}, {options.tile} px tiles, 2 x {options.global_size} + {options.locals} x "
        f"{options.local_size} px, ViT-Ti/16, one thread, processor time: "
        f"crops and masks {medians['crops'] * 1e3:.0f} ms, "
        f"forward and backward {medians['step'] * 1e3:.0f} ms, ratio {medians['crops'] / medians['step']:.3f}"
    )


if __name__ == "__main__":
    main()
