"""Changes of light, air and sensor that leave the ground the same: radiometric augmentation safe for any set of bands.

An image is seen through another gain and offset, per image and per band, through haze (a mix with a bright, even
veil), at another saturation (distance of the bands from their mean) and through another gamma. Nothing here rotates
hues: a hue has no meaning outside three visible bands. All changes but gamma and solarisation are one affine map of a
pixel's bands, so a batch costs one small matrix product, one clamp and one power.

Blur is drawn here (`blur_sigmas`) and happens while a view is resampled (`pretrain.data.resample.blur_lines`).
"""

import torch
from torch import Tensor

from pretrain.recipes.views import RadiometrySettings

# A veil's brightness: haze over land is bright, and never the darkest thing in a picture.
_VEIL = (0.6, 1.0)


class Radiometry:
    """One drawn change for each image of a batch.

    Drawing and applying are apart so that the draw happens on the CPU's generator, in a fixed amount, whatever the
    settings: switching one change off does not move the others.
    """

    def __init__(self, images: int, bands: int, settings: RadiometrySettings, generator: torch.Generator) -> None:
        draw = torch.rand(images, 9, generator=generator)
        band_draw = torch.rand(images, bands, generator=generator)
        active = (draw[:, 0] < settings.probability).float()
        gain = 1 + active * settings.gain * (2 * draw[:, 1] - 1)
        offset = active * settings.offset * (2 * draw[:, 2] - 1)
        saturation = 1 + active * settings.saturation * (2 * draw[:, 3] - 1)
        haze = active * settings.haze * draw[:, 4]
        veil = _VEIL[0] + (_VEIL[1] - _VEIL[0]) * draw[:, 5]
        gray = draw[:, 6] < settings.gray_probability
        saturation = torch.where(gray, 0.0, saturation)
        band_gain = 1 + active.unsqueeze(1) * settings.band_gain * (2 * band_draw - 1)
        mean_of_bands = torch.full((bands, bands), 1 / bands)
        mix = saturation.view(-1, 1, 1) * torch.eye(bands) + (1 - saturation).view(-1, 1, 1) * mean_of_bands
        clear = 1 - haze
        # What reaches the sensor: band and image gains on a desaturated ground, then the veil in front of it.
        self.matrix = (clear * gain).view(-1, 1, 1) * mix * band_gain.unsqueeze(1)  # [B, C, C]
        self.bias = (clear * offset + haze * veil).view(-1, 1, 1)  # [B, 1, 1]
        strongest = torch.log(torch.tensor(1 / (1 - settings.gamma)))
        self.gamma = torch.exp(active * strongest * (2 * draw[:, 7] - 1))  # [B]
        self.solarized = draw[:, 8] < settings.solarize_probability  # [B]

    def __call__(self, values: Tensor) -> Tensor:
        """Apply the drawn changes.

        Args:
            values: float32 [B, C, H, W] in [0, 1].

        Returns:
            float32 [B, C, H, W] in [0, 1].
        """
        device = values.device
        flat = torch.bmm(self.matrix.to(device), values.flatten(2)).add_(self.bias.to(device)).clamp_(0, 1)
        if bool((self.gamma != 1).any()):
            # x^gamma through base-2 logarithms, in place: less than half the time of pow on a CPU.
            flat.log2_().mul_(self.gamma.to(device).view(-1, 1, 1)).exp2_()
        if bool(self.solarized.any()):
            flat = torch.where(self.solarized.to(device).view(-1, 1, 1) & (flat >= 0.5), 1 - flat, flat)
        return flat.view_as(values)


def blur_sigmas(images: int, probability: float, sigma: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Draw the Gaussian's standard deviation for each image: 0 (no blur) with probability ``1 - probability``.

    The official DINOv2 and DINOv3 code hands the complement to its random apply, so that its first crop is never
    blurred and its second nearly always; here ``probability`` is the probability of a blur.

    Returns:
        float32 [images], pixels.
    """
    draw = torch.rand(images, 2, generator=generator)
    drawn = sigma[0] + (sigma[1] - sigma[0]) * draw[:, 1]
    return torch.where(draw[:, 0] < probability, drawn, 0.0)
