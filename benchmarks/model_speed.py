"""What a backbone's size costs on this machine: pixels a second of bare models, in turn, over the packaged one's.

    python benchmarks/model_speed.py [--rounds 3] [--side 288] [--batch 4] [ARCHITECTURE...]

Also timm's own forward pass of each, in turn with ours.

Random weights, since speed does not depend on them; every model at its own token grid, in its default arithmetic, on
the same windows. A cube or a map costs more than this; `features.py` says how much.
"""

import argparse
import statistics

from geodino.process import settle_process

settle_process()  # before torch is imported

import torch

from geodino.backbones.backbone import Backbone, load_backbone, untrained_backbone

from features import seconds  # isort: skip - the neighbour, when run as a script

ARCHITECTURES = [
    "vit_tiny_patch16_dinov3_qkvb",
    "vit_small_patch16_dinov3_qkvb",
    "vit_base_patch16_dinov3_qkvb",
    "vit_large_patch16_dinov3_qkvb",
    "vit_small_patch8_224",
    "convnext_tiny",
]


@torch.inference_mode()
def plain_forward(backbone: Backbone, batch: torch.Tensor) -> torch.Tensor:
    """Run timm's own forward pass."""
    features: torch.Tensor = backbone.module.forward_features(batch.to(backbone.device, backbone.dtype))
    return features


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architectures", nargs="*", default=ARCHITECTURES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=288)
    parser.add_argument("--batch", type=int, default=4)
    options = parser.parse_args()
    models = [load_backbone(), *map(untrained_backbone, options.architectures)]
    times: list[list[float]] = [[] for _ in models]
    timms: list[list[float]] = [[] for _ in models]
    batch = torch.randn(options.batch, 3, options.side, options.side)
    for model in models:
        model.encode(batch)  # warm
    for _ in range(options.rounds):
        for model, found, timm in zip(models, times, timms, strict=True):
            found.append(float(seconds(lambda one=model: one.encode(batch))[0]))  # type: ignore[misc]
            timm.append(float(seconds(lambda one=model: plain_forward(one, batch))[0]))  # type: ignore[misc]
    packaged = statistics.median(times[0])
    precision = str(models[0].dtype).removeprefix("torch.")
    print(
        f"bare models, {options.batch} × {options.side} × {options.side} px, {precision}, {models[0].device}, "
        f"{torch.get_num_threads()} threads, median of {options.rounds} rounds in turn"
    )
    print(
        "| backbone | parameters | patch | Mpx/s over the packaged one's | Mpx/s | over timm's |"
        "\n|---|---|---|---|---|---|"
    )
    for model, found, timm in zip(models, times, timms, strict=True):
        middle = statistics.median(found)
        size = sum(p.numel() for p in model.module.parameters()) / 1e6
        print(
            f"| {model.architecture if model is not models[0] else 'packaged'} | {size:.1f} M | {model.patch_size} | "
            f"{packaged / middle:.3f} | {batch[:, 0].numel() / 1e6 / middle:.3f} | "
            f"{statistics.median(timm) / middle:.2f} |"
        )


if __name__ == "__main__":
    main()
