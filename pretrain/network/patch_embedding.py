"""Other bands in front of trained weights: the patch embedding's filters follow the bands they were trained on.

timm fills more input bands by repeating red, green and blue in turn, so that a near-infrared band meets the filters of
red; frozen probes lose by it on almost every data set (torchgeo-bench, docs/interesting-findings.md). Here a filter
goes where its band goes, whatever the order; a band that the backbone never saw starts from the mean filter; and the
response to an image whose bands are equal stays exactly what it was, so the blocks behind see activations of the size
that they know.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def expand_patch_embedding(weight: Tensor, known: Sequence[str], wanted: Sequence[str]) -> Tensor:
    """Rearrange the filters of a patch embedding (ViT) or stem (ConvNeXt) for other bands.

    With C known and n new bands, all filters are scaled by C / (C + n). The filters of known bands that are not wanted
    are shared out equally among those that stay, as if the missing band were the mean of the others.

    Args:
        weight: float [D, C, p, p], the convolution's weight; its bias is not touched.
        known: Common names of the C bands it was trained on.
        wanted: Common names of the N bands it will see.

    Returns:
        float [D, N, p, p] with ``sum(dim=1)`` equal to that of ``weight``; new memory.

    Raises:
        ValueError: When the names do not match the weight, or a name comes twice.
    """
    if weight.shape[1] != len(known):
        raise ValueError(f"{len(known)} bands do not describe a weight with {weight.shape[1]} input channels")
    if len({*known}) != len(known) or len({*wanted}) != len(wanted) or not wanted:
        raise ValueError(f"band names must be present and distinct: {', '.join(known)}; {', '.join(wanted)}")
    exact = weight.double()
    place = {band: index for index, band in enumerate(known)}
    kept = [band for band in wanted if band in place]
    lost = [place[band] for band in known if band not in wanted]
    share = exact[:, lost].sum(1) / max(len(kept), 1)
    mean = exact.mean(1)
    filters = [exact[:, place[band]] + share if band in place else mean for band in wanted]
    new = len(wanted) - len(kept)
    # The kept filters together respond as all C did; where none is kept, the n means alone have to.
    scale = len(known) / (len(known) + new) if kept else len(known) / new
    return (torch.stack(filters, dim=1) * scale).to(weight.dtype)
