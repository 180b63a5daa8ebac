"""Which patch tokens the student does not see: BEiT's blocks, drawn for a whole batch at once.

Half of the crops are masked; their ratios are a fixed spread over a range rather than random numbers, so every step
hides the same amount. A block is a rectangle with a log-uniform aspect ratio (BEiT, arXiv 2106.08254, algorithm 1);
what the blocks leave open is topped up with single tokens, so a crop's count is exact. Tokens without data are never
masked: there would be nothing to predict.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from pretrain.recipes.views import MaskSettings

# A crop gives up on blocks after this many proposals in a row that do not fit, and is topped up (BEiT's own number).
_ATTEMPTS = 10


def valid_tokens(valid: Tensor, patch_size: int, min_share: float = 0.5) -> Tensor:
    """Tokens that see enough data to take part in a loss.

    Args:
        valid: bool [B, S, S], pixels with data.
        patch_size: Pixels along one side of a token.
        min_share: Smallest share of valid pixels in a token that counts as data.

    Returns:
        bool [B, S / patch_size, S / patch_size].
    """
    if bool(valid.all()):
        size = valid.shape[-1] // patch_size
        return valid.new_ones(valid.shape[0], valid.shape[-2] // patch_size, size)
    share = functional.avg_pool2d(valid.float().unsqueeze(1), patch_size).squeeze(1)
    return share >= min_share


def mask_ratios(crops: int, settings: MaskSettings, generator: torch.Generator) -> Tensor:
    """The share of tokens to hide in each of ``crops`` crops, in random order.

    The masked crops take the right ends of ``linspace(*ratio, n + 1)``, the others 0, so that a step hides the same
    amount whatever the draw.

    Returns:
        float64 [crops] on the CPU.
    """
    masked = int(crops * settings.probability)
    ratios = torch.zeros(crops, dtype=torch.float64)
    low, high = settings.ratio
    ratios[:masked] = torch.linspace(low, high, masked + 1, dtype=torch.float64)[1:]
    return ratios[torch.randperm(crops, generator=generator)]


def block_masks(usable: Tensor, settings: MaskSettings, generator: torch.Generator) -> Tensor:
    """Draw the masks of a batch of crops.

    Args:
        usable: bool [B, h, w], tokens that hold data (`valid_tokens`); only these are masked.
        settings: Amount and shape of the masks.
        generator: CPU generator; the same state gives the same masks on every device.

    Returns:
        bool [B, h, w] on the device of ``usable``: True where the student sees the mask token. Crop ``b`` has exactly
        ``int(ratio_b * n_b)`` masked tokens, where ``n_b`` is its number of usable tokens and ``ratio_b`` its entry of
        `mask_ratios`.
    """
    open_tokens = usable.cpu()
    crops, height, width = open_tokens.shape
    ratios = mask_ratios(crops, settings, generator)
    # The small addition undoes what rounding took from products such as 0.3 * 10.
    wanted = (ratios * open_tokens.sum((1, 2)) + 1e-9).long()
    mask = torch.zeros_like(open_tokens)
    failures = torch.zeros(crops, dtype=torch.long)
    rows = torch.arange(height).view(1, height, 1)
    columns = torch.arange(width).view(1, 1, width)
    largest = settings.max_block * height * width
    while True:
        left = wanted - mask.sum((1, 2))
        active = ((left >= settings.min_block) & (failures < _ATTEMPTS)).nonzero().squeeze(1)
        if not len(active):
            break
        draw = torch.rand(4, len(active), generator=generator, dtype=torch.float64)
        most = left[active].clamp(max=largest).double().clamp(min=settings.min_block)
        area = settings.min_block + draw[0] * (most - settings.min_block)
        aspect = torch.exp((2 * draw[1] - 1) * math.log(1 / settings.aspect))
        tall = (area * aspect).sqrt().round().long().clamp(1, height)
        wide = (area / aspect).sqrt().round().long().clamp(1, width)
        top = (draw[2] * (height - tall + 1)).long()
        start = (draw[3] * (width - wide + 1)).long()
        inside_rows = (rows >= top.view(-1, 1, 1)) & (rows < (top + tall).view(-1, 1, 1))
        inside_columns = (columns >= start.view(-1, 1, 1)) & (columns < (start + wide).view(-1, 1, 1))
        block = inside_rows & inside_columns & open_tokens[active] & ~mask[active]
        new = block.sum((1, 2))
        fits = (new > 0) & (new <= left[active])
        mask[active] |= block & fits.view(-1, 1, 1)
        failures[active] = torch.where(fits, 0, failures[active] + 1)
    return _top_up(mask, open_tokens, wanted, generator).to(usable.device)


def _top_up(mask: Tensor, usable: Tensor, wanted: Tensor, generator: torch.Generator) -> Tensor:
    """Add random usable tokens [B, h, w] until each crop has its ``wanted`` [B] number."""
    crops = mask.shape[0]
    # Masked tokens sort first, then the usable ones in random order, then those without data.
    key = torch.rand(crops, mask[0].numel(), generator=generator)
    key = torch.where(mask.flatten(1), -1.0, torch.where(usable.flatten(1), key, 2.0))
    order = key.argsort(dim=1, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order))
    return (rank < wanted.unsqueeze(1)).view_as(mask)
