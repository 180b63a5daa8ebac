import json

import pytest

from geodino.backbones.card import BackboneCard, read_card
from tiles.errors import InputError

CARD = BackboneCard(
    architecture="vit_tiny", mean=(0.1, 0.2, 0.3), std=(0.1, 0.1, 0.1), patch_size=16, gsd_range_m=(0.5, 10)
)


def test_a_card_survives_the_disk(tmp_path):
    (tmp_path / "backbone.json").write_text(CARD.model_dump_json(indent=2))
    assert read_card(tmp_path / "backbone.json") == CARD


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surprise": 1}, "surprise: Extra inputs are not permitted"),
        ({"bands": ["red"]}, "1 bands need as many means"),
        ({"std": [0.1, 0.0, 0.1]}, "every std must be greater than 0"),
        ({"patch_size": 0}, "patch_size: Input should be greater than 0"),
    ],
)
def test_a_card_that_cannot_be_true_is_refused(tmp_path, change, message):
    path = tmp_path / "backbone.json"
    path.write_text(json.dumps(CARD.model_dump(mode="json") | change))
    with pytest.raises(InputError, match=rf"backbone\.json is not a backbone card: .*{message}"):
        read_card(path)


def test_a_card_that_is_not_json_is_refused(tmp_path):
    (tmp_path / "backbone.json").write_text("{")
    with pytest.raises(InputError, match="is not a backbone card"):
        read_card(tmp_path / "backbone.json")
