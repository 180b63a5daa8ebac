"""GDAL's virtual rasters in which bands of several files lie together, beside one alpha band that says what counts.

A warp weighs by alpha, so that nothing which was not measured is mixed into what was: so masks, and nodata that bands
have only together, are kept apart from the ground while resampling.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from tiles.scenes.band import Band
from tiles.scenes.validity import Blank, OwnMask


@dataclass(frozen=True)
class Stacked:
    """What a virtual raster is made of.

    Attributes:
        shape: Rows and columns of the files, which share one grid.
        thinned: Rows and columns of the result; where fewer, the nearest pixels are kept and overviews are used.
        bands: The bands, in order.
        masks: Masks and alpha bands of files that count.
        blank: What is nodata in several bands together, or None.
    """

    shape: tuple[int, int]
    thinned: tuple[int, int]
    bands: tuple[Band, ...]
    masks: tuple[OwnMask, ...]
    blank: Blank | None

    @property
    def has_alpha(self) -> bool:
        """Whether the last band is an alpha band."""
        return bool(self.masks) or self.blank is not None

    def xml(self) -> str:
        """The virtual raster, as GDAL opens it; its place is given to the warp."""
        rows = [
            _band(number, band.dtype, [self._source(band.path, str(band.index))])
            for number, band in enumerate(self.bands, 1)
        ]
        if self.has_alpha:
            factors = [self._mask_source(mask) for mask in self.masks]
            if self.blank is not None:
                factors.append(self._source(_measured_xml(self.shape, self.blank), "1"))
            rows.append(_band(len(rows) + 1, "uint8", factors, joined="mul", colour="Alpha"))
        return _dataset(self.thinned, rows)

    def _mask_source(self, mask: OwnMask) -> str:
        # What is not 0 counts: an opacity of 1 as one of 255 or 65535. GDAL would weigh the first as next to nothing.
        table = "<LUT>-1e-300:255,0:0,1e-300:255</LUT>"
        return _source(mask.path, str(mask.index) if mask.index else "mask,1", self.shape, self.thinned, table)

    def _source(self, path: str, band: str) -> str:
        return _source(path, band, self.shape, self.thinned)


def _measured_xml(shape: tuple[int, int], blank: Blank) -> str:
    """One band: 0 where every band of ``blank`` has its number, else 255."""
    sources = []
    for band, value in zip(blank.bands, blank.values, strict=True):
        table = f"<LUT>{value - 1:.0f}:255,{value:.0f}:0,{value + 1:.0f}:255</LUT>"
        sources.append(_source(band.path, str(band.index), shape, shape, table))
    return _dataset(shape, [_band(1, "uint8", sources, joined="sum")])


def _dataset(shape: tuple[int, int], bands: Sequence[str]) -> str:
    return f'<VRTDataset rasterXSize="{shape[1]}" rasterYSize="{shape[0]}">{"".join(bands)}</VRTDataset>'


def _band(number: int, dtype: str, sources: Sequence[str], *, joined: str = "", colour: str = "") -> str:
    kind = "Byte" if dtype == "uint8" else dtype.title().replace("Uint", "UInt")
    # A function of bands wants two of them.
    derived = ' subClass="VRTDerivedRasterBand"' if len(sources) > 1 else ""
    function = f"<PixelFunctionType>{joined}</PixelFunctionType>" if derived else ""
    meaning = f"<ColorInterp>{colour}</ColorInterp>" if colour else ""
    content = "".join((meaning, function, *sources))
    return f'<VRTRasterBand dataType="{kind}" band="{number}"{derived}>{content}</VRTRasterBand>'


def _source(path: str, band: str, shape: tuple[int, int], to: tuple[int, int], table: str = "") -> str:
    kind = "ComplexSource" if table else "SimpleSource"
    rectangles = "".join(
        f'<{name} xOff="0" yOff="0" xSize="{size[1]}" ySize="{size[0]}"/>'
        for name, size in (("SrcRect", shape), ("DstRect", to))
    )
    return (
        f'<{kind}><SourceFilename relativeToVRT="0">{escape(path)}</SourceFilename><SourceBand>{band}</SourceBand>'
        f"{rectangles}{table}</{kind}>"
    )
