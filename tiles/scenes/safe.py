"""What a Sentinel-2 product states in its own metadata: baseline, offsets and the number that means a reflectance of 1.

Source: Sentinel-2 Products Specification Document, issue 14.9, section 4.
"""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

_NAME = re.compile(r"MTD_(?:MSI|SAF)(L1C|L2A)", re.IGNORECASE)
# Bands as `band_id` counts them.
_ORDER = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")


@dataclass(frozen=True)
class SafeMetadata:
    """Metadata of one product.

    Attributes:
        path: The file.
        level: ``L1C`` or ``L2A``.
        baseline: Processing baseline, such as ``05.09``, or None.
        quantification: Digital number of a reflectance of 1.
        offsets: Digital number to add, by band identifier; empty where the product states none.
        taken: Time of acquisition as the file has it, or None.
    """

    path: Path
    level: str
    baseline: str | None
    quantification: float
    offsets: dict[str, float]
    taken: str | None


def safe_metadata(path: str, notes: list[str]) -> SafeMetadata | None:
    """Metadata of the product that a file or folder belongs to, or None; a file that cannot be read is said.

    It lies beside the bands, or at the top of the product, above ``GRANULE``.
    """
    place = Path(path)
    parts = place.parts
    folders = [place, place.parent]
    if "GRANULE" in parts:
        folders.append(Path(*parts[: parts.index("GRANULE")]))
    for folder in folders:
        if "://" in path or not os.path.isdir(folder):
            continue
        for file in sorted(folder.glob("*MTD_*.xml")):
            found = _NAME.search(file.name)
            if found:
                try:
                    return _read(file, found.group(1).upper())
                except (ElementTree.ParseError, OSError, ValueError) as error:
                    notes.append(f"{file.name} cannot be read ({error}), so names and dates decide in its place")
    return None


def _read(file: Path, level: str) -> SafeMetadata:
    root = ElementTree.parse(file).getroot()
    texts = {element.tag.rpartition("}")[2]: (element.text or "").strip() for element in root.iter()}
    offsets = {}
    for element in root.iter():
        if element.tag.rpartition("}")[2] in ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET"):
            number = int(element.get("band_id", "-1"))
            if 0 <= number < len(_ORDER):
                offsets[_ORDER[number]] = float(element.text or "")
    quantification = float(texts.get("BOA_QUANTIFICATION_VALUE") or texts.get("QUANTIFICATION_VALUE") or 10_000)
    if not 0 < quantification < math.inf or not all(map(math.isfinite, offsets.values())):
        raise ValueError("its numbers are none")
    taken = texts.get("PRODUCT_START_TIME") or texts.get("DATATAKE_SENSING_START")
    return SafeMetadata(file, level, texts.get("PROCESSING_BASELINE") or None, quantification, offsets, taken)
