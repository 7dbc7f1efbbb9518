"""Laws of the typed configuration."""

import dataclasses
import json

import pytest

from modules.config import GPTConfig, Preset, VITS2Config, differing_keys, from_dict, load, load_preset, to_dict
from modules.errors import ConfigError


@pytest.mark.parametrize("name", ["nano", "base"])
def test_presets_round_trip(name: str) -> None:
    preset = load_preset(name)
    assert preset.name == name
    assert from_dict(Preset, to_dict(preset)) == preset


def test_base_has_the_designs_sizes() -> None:
    base = load_preset("base")
    gpt = base.gpt
    assert (gpt.hidden, gpt.heads, gpt.kv_heads, gpt.layers, gpt.intermediate) == (768, 16, 2, 20, 4096)
    assert (base.vits2.hidden, base.vits2.heads, base.vits2.filter, base.vits2.head) == (256, 4, 1024, "istft")
    assert base.text.features == "features" and base.text.feature_dim == 1024


def test_an_unknown_key_is_named_with_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match="widht.*hidden"):
        from_dict(GPTConfig, {"widht": 3})


@pytest.mark.parametrize(
    ("key", "value", "word"), [("layers", "six", "layers"), ("layers", True, "layers"), ("dropout", 2.0, "dropout")]
)
def test_a_wrong_value_names_its_field(key: str, value: object, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        from_dict(Preset, {"gpt": {key: value}})


def test_a_choice_outside_the_list_is_refused() -> None:
    with pytest.raises(ConfigError, match="istft or hifigan"):
        from_dict(VITS2Config, {"head": "wavenet"})


def test_differing_keys_are_dotted() -> None:
    a = Preset()
    b = dataclasses.replace(a, name="x", gpt=dataclasses.replace(a.gpt, layers=7))
    assert differing_keys(a, b) == ["gpt.layers", "name"]
    assert differing_keys(a, to_dict(a)) == []


def test_a_file_may_be_a_preset(tmp_path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"name": "mine", "gpt": {"layers": 2}}))
    assert load_preset(str(path)).gpt.layers == 2


def test_a_broken_file_is_named(tmp_path) -> None:
    path = tmp_path / "mine.json"
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"mine\.json"):
        load(Preset, path)


def test_an_unknown_preset_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match="base-wide, nano"):
        load_preset("giant")


def test_every_field_has_a_help_text() -> None:
    for cls in (Preset, *(type(getattr(Preset(), f.name)) for f in dataclasses.fields(Preset) if f.name != "name")):
        assert all(f.metadata.get("help") for f in dataclasses.fields(cls)), cls
