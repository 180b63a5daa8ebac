"""The server's backbone: named without loading it, loaded once."""

from pathlib import Path

from app.work.backbone import backbone, weights_hash


def test_the_card_names_the_weights_as_the_loaded_backbone_does(tiny_backbone: Path) -> None:
    assert weights_hash(str(tiny_backbone)) == backbone(str(tiny_backbone)).hash
    assert backbone(str(tiny_backbone)) is backbone(str(tiny_backbone))


def test_the_packaged_backbone_has_one_name() -> None:
    assert weights_hash(None) == weights_hash("packaged") == backbone(None).hash
