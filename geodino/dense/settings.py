"""How windows are laid over a scene and what is taken from the backbone; imports no model."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tiles.errors import InputError

if TYPE_CHECKING:
    from geodino.backbones.backbone import Backbone

# A processor gains nothing from larger batches, whose activations leave its caches; a GPU needs them to be busy.
_CPU_BATCH = 2
# Tokens of a window's side and of its halo, where the backbone asks for no smaller ones; bounds of those
# that it asks for.
WINDOW, _HALO = 36, 2
_SMALLEST_WINDOW, _LARGEST_SMALLER_WINDOW = 8, 32
_GPU_BATCH_MOST = 64
# float32 numbers a token needs at once, in units of the width: residual stream, normed copy, queries, keys and values,
# hidden layer and its activation, output.
_ACTIVATIONS_PER_TOKEN = 16


@dataclass(frozen=True)
class DenseSettings:
    """How windows are laid and what is taken from the backbone.

    Attributes:
        window: Tokens along a window's side; None chooses by the backbone (see ``resolved``).
        halo: Tokens of context on each side; neighbouring windows overlap by twice as many and blend over them. None
            chooses by the window.
        upscale: Tokens per patch side: 1, 2 or 4. The scene is enlarged bilinearly by this factor before the backbone
            sees it, so that a token covers ``patch_size / upscale`` pixels.
        layers: Backbone layers whose tokens are concatenated; empty for the final one alone.
        batch_size: Windows a forward pass; None chooses by device and memory (see ``resolved``).
        min_valid: Share of a token's pixels that must be valid, in [0, 1]; tokens below are nodata.
        readers: Reader threads; no effect on the result.
    """

    window: int | None = None
    halo: int | None = None
    upscale: int = 1
    layers: tuple[int, ...] = ()
    batch_size: int | None = None
    min_valid: float = 0.5
    readers: int = 2

    def __post_init__(self) -> None:
        if self.upscale not in (1, 2, 4):
            raise InputError(f"the token grid can be refined by 1, 2 or 4, not by {self.upscale} (--upscale)")
        _check_window(self.window, self.halo)
        if not 0 <= self.min_valid <= 1:
            raise InputError(f"the valid share of a token lies between 0 and 1, not {self.min_valid}")
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"a batch holds at least one window, not {self.batch_size}")

    def resolved(self, backbone: "Backbone") -> "DenseSettings":
        """Fill in window, halo and batch size, so that the settings say everything the result depends on.

        Window and halo: 36 and 2 tokens; with patches of 16 pixels windows then start every 512 pixels, on the usual
        blocks of tiled rasters. Every token attends to its whole window, and a backbone that was trained on crops of
        less than 18 tokens says in each of them what else is in the window and where it lies there: its windows are
        three times as large as its largest crops, 8 to 32 tokens (``docs/features.md``, No seams). The halo of windows
        below 36 tokens is three sixteenths of them: what differs from one to the next then blends over about a third
        of a window.

        Batch size: on a processor as many windows as hold the tokens of two of the largest; on a GPU as many as a
        quarter of its memory holds, at most 64 of the largest. All of its memory and not what is free now: a run that
        goes on later must come to the same number.

        Raises:
            InputError: The halo given does not fit the backbone's window, or the other way round; or the backbone has
                no such layers.
        """
        if self.layers:
            _check_layers(self.layers, backbone)
        window = _window_of(backbone) if self.window is None else self.window
        halo = self.halo
        if halo is None:
            halo = _HALO if window >= WINDOW else max(1, round(3 * window / 16))
        _check_window(window, halo)
        batch = self.batch_size
        if batch is None:
            smaller = max(1, WINDOW**2 // window**2)
            batch = _CPU_BATCH * smaller
            if backbone.device.type == "cuda":
                import torch

                _, memory = torch.cuda.mem_get_info(backbone.device)
                one = window**2 * backbone.embed_dim * _ACTIVATIONS_PER_TOKEN * 4
                batch = int(max(1, min(_GPU_BATCH_MOST * smaller, memory // 4 // one)))
        return DenseSettings(**{**asdict(self), "window": window, "halo": halo, "batch_size": batch})

    def identity(self) -> dict[str, Any]:
        """What the result depends on, for journals and tags; the number of reader threads is left out."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items() if key != "readers"}


def _window_of(backbone: "Backbone") -> int:
    """Tokens of a window's side that suit a backbone."""
    crop = backbone.card.crop_px if backbone.card else None
    if crop is None or 2 * crop >= WINDOW * backbone.patch_size:
        return WINDOW
    return min(_LARGEST_SMALLER_WINDOW, max(_SMALLEST_WINDOW, 6 * round(crop / backbone.patch_size / 2)))


def _check_window(window: int | None, halo: int | None) -> None:
    if (halo is not None and halo < 1) or (window is not None and window < 4 * (halo or 1)):
        raise InputError(f"a window of {window} tokens has no core beside a halo of {halo}; take a larger window")


def _check_layers(layers: tuple[int, ...], backbone: "Backbone") -> None:
    depth = backbone.depth
    if not all(-depth <= layer < depth for layer in layers):
        raise InputError(
            f"{backbone.name} has layers 0 to {depth - 1} (or -{depth} to -1), not {','.join(map(str, layers))}; "
            "choose others with --layers"
        )
    if not hasattr(backbone.module, "blocks") and any(layer not in (-1, depth - 1) for layer in layers):
        raise InputError(f"the layers of {backbone.name} have grids of their own, so only the last can be taken")
