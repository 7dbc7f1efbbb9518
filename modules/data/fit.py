"""Whether extracted features are those that a preset learns from.

An extraction leaves in its index what made the features. Plain stores, and folders of before that was kept, say
nothing: of these only the widths that their rows show are compared.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modules.config import Preset
from modules.data.columns import Rows
from modules.data.encoders import step_hash
from modules.data.features import CODES, LineStore
from modules.data.line_index import codes_hash
from modules.errors import UserError

F0_RATE_HZ = 100
SPARE_FRAMES = 2
"""By so many an encoder's frames may differ from what the length of the contour says."""


def describe(preset: Preset) -> dict[str, dict[str, Any]]:
    """What makes a preset's features, for `LineWriter`.

    Of form "grouped" the token rate is left out: the features do not depend on it.
    """
    text, speech = preset.text, preset.tokenizer
    words = {"tokenizer": text.tokenizer, "features": text.features}
    if text.features != "embedding":
        words["feature_dim"] = text.feature_dim
    if speech.form == "grouped":
        names = ("encoder", "layer", "feature_dim", "feature_rate")
        return {"text": words, "speech": {"form": speech.form} | {n: getattr(speech.grouped, n) for n in names}}
    return {"text": words, "speech": {n: getattr(speech, n) for n in ("form", "encoder", "frame_rate")}}


def check_fit(stores: Sequence[Rows], preset: Preset) -> None:
    """Refuse stores whose features were made by another text side or other speech encoders than the preset has.

    Raises:
        UserError: features_of_another_preset, ssl_width_differs, no_text_features.
    """
    wanted = describe(preset)
    if preset.text.features == "embedding":
        del wanted["text"]["features"]  # features that are there beside the ids are not read
    for store in stores:
        made = store.described if isinstance(store, LineStore) else {}
        for step in wanted:
            _compare(store, step, made.get(step), wanted[step], preset.name)
        grouped = preset.tokenizer.grouped
        if preset.tokenizer.form == "grouped" and "ssl" in store.columns:
            _check_ssl_width(store, grouped.feature_dim, grouped.feature_rate)
    if preset.text.features != "embedding":
        check_text_features(stores, preset.text.feature_dim)


def check_text_features(stores: Sequence[Rows], dim: int) -> None:
    """Every store must hold, for each text unit, `dim` features. Raises UserError no_text_features."""
    for store in stores:
        if not len(store):
            continue
        if "text_features" in store.columns:
            row = store.row(0, ("text_ids", "text_features"))
            if len(row["text_features"]) == len(row["text_ids"]) * dim:
                continue
        raise UserError(
            "no_text_features",
            "The feature store {store} holds no text features of width {width}, which this preset reads; extract it "
            "with this preset, or choose one with text.features = embedding.",
            store=store.folder,
            width=dim,
        )


def check_codes(stores: Sequence[Rows], preset: str, decoder: str) -> None:
    """Refuse stores without codes, and those of which some lines have none: they would be left out unseen.

    Args:
        preset, decoder: named in the remedy.

    Raises:
        UserError: codes_missing, codes_incomplete.
    """
    for store in stores:
        if "codes" not in store.columns:
            raise UserError(
                "codes_missing",
                "The features in {store} hold no speech tokens yet: the decoder had to learn them first. Make them "
                "with tools.extract --only codes --preset {preset} --decoder {decoder}.",
                store=str(store.folder),
                preset=preset,
                decoder=decoder,
            )
        # Lines that lack other features too are not seen at all, as with any preset; codes alone would not help them.
        if isinstance(store, LineStore) and store.missing.get(CODES):
            if lacking := int(np.count_nonzero(store.array("codebooks") == 0)):
                raise UserError(
                    "codes_incomplete",
                    "{count} lines in {store} have no speech tokens yet, for they were added later. Make them with "
                    "tools.extract --only codes --preset {preset} --decoder {decoder}.",
                    count=lacking,
                    store=str(store.folder),
                    preset=preset,
                    decoder=decoder,
                )


def check_codes_made_by(stores: Sequence[Rows], quantizer: str, preset: str, decoder: str) -> None:
    """Refuse stores whose codes another quantiser made than that of `decoder`.

    Args:
        quantizer: its `quantizer_hash`.
        preset, decoder: named in the remedy.

    Raises:
        UserError: codes_of_another_decoder.
    """
    for store in stores:
        made = store.made if isinstance(store, LineStore) else {}
        if not made.get(CODES) or made[CODES] == codes_hash(step_hash(quantizer), made["speech"]):
            continue
        raise UserError(
            "codes_of_another_decoder",
            "The speech tokens in {store} were not made by {decoder}, or it was trained on since. Make them anew with "
            "tools.extract --only codes --preset {preset} --decoder {decoder}, or choose the decoder that made them.",
            store=str(store.folder),
            preset=preset,
            decoder=decoder,
        )


def _compare(store: Rows, step: str, made: Mapping[str, Any] | None, wanted: Mapping[str, Any], preset: str) -> None:
    if not made:
        return
    # "both" and "features" read the same.
    same = {"both": "features"}
    theirs = {name: same.get(made.get(name), made.get(name)) for name in wanted}
    ours = {name: same.get(value, value) for name, value in wanted.items()}
    differing = [name for name in wanted if theirs[name] != ours[name]]
    if differing:
        raise UserError(
            "features_of_another_preset",
            "The features in {store} are not those of the preset {preset}: {step} was made with {theirs}, the preset "
            "has {ours}. Extract again with this preset, or train the preset that they were made for.",
            store=str(store.folder),
            preset=preset,
            step=step,
            theirs=", ".join(f"{name} {made.get(name)}" for name in differing),
            ours=", ".join(f"{name} {wanted[name]}" for name in differing),
        )


def _check_ssl_width(store: Rows, dim: int, rate: int) -> None:
    """Rows are flat: another width would be read as more or fewer frames. How many there are, the contour tells."""
    if not len(store):
        return
    row = store.row(0, ("ssl", "f0"))
    expected = len(row["f0"]) * rate / F0_RATE_HZ
    if not expected:
        return
    if len(row["ssl"]) % dim or abs(len(row["ssl"]) / dim - expected) > SPARE_FRAMES:
        raise UserError(
            "ssl_width_differs",
            "The self-supervised features in {store} are about {found} wide, those of this preset {expected}; extract "
            "again with this preset.",
            store=str(store.folder),
            found=round(len(row["ssl"]) / expected),
            expected=dim,
        )
