"""Features that tokens are learned from (ssl), text features, and the codes that a finished quantiser makes of ssl."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from modules.config import AudioConfig, GroupedConfig, SpeechTokenizerConfig
from modules.data.encoders import Encoders
from modules.data.extraction import ExtractOptions, ExtractReport
from modules.data.features import CODES, STEPS, LineStore, open_store
from modules.data.recordings import Sound
from modules.errors import UserError
from modules.gpt.dataset import MixOptions, PromptDataset
from modules.speech.grouped import GroupedQuantizer, quantizer_hash
from modules.vits2.dataset import DecoderDataset
from tests.data.test_extraction import ENCODERS, Counted, counts, run_extract
from tests.tiny import synthetic_speech

DIM = 12
TOKENIZER = SpeechTokenizerConfig(
    form="grouped",
    prosody_levels=16,
    grouped=GroupedConfig(feature_dim=DIM, vector_dim=8, groups=2, quantizers=1, codebook_size=16),
)


class Voices(Counted):
    """Sounds that differ, of 0.8 s and more."""

    def seconds(self, row: int) -> float:
        return 0.8 + 0.16 * row

    def read(self, row: int) -> Sound:
        return Sound(synthetic_speech(self.seconds(row), 16000, 110 + 9 * row, row), 16000, self.seconds(row))


def features_of(scale: float = 1.0):
    """A stand-in for a self-supervised encoder: the spectrum of each 20 ms, made by a fixed matrix."""
    table = torch.randn(320, DIM, generator=torch.Generator().manual_seed(3)) * scale

    def features(wav: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        frames = wav[:, : wav.shape[1] // 320 * 320].unflatten(1, (-1, 320))
        real = torch.arange(frames.shape[1]) < (lengths // 320)[:, None]
        return (frames @ table) * real.unsqueeze(-1)

    return features


def quantizer(seed: int = 0) -> GroupedQuantizer:
    torch.manual_seed(seed)
    made = GroupedQuantizer(TOKENIZER).train()
    made(torch.randn(1, 400, DIM), torch.ones(1, 200, dtype=torch.bool))
    return made.freeze().eval()


def states(texts: Sequence[str]) -> list[np.ndarray]:
    """Text features that tell the text: a row for each letter."""
    return [np.array([[ord(letter), 1e6] for letter in text], np.float32) for text in texts]


LEARNED = replace(
    ENCODERS, speech=None, ssl=features_of(), feature_dim=DIM, samples_per_token=320, text_features=states,
    text_hash="tf", speech_hash="ssl",
)  # fmt: skip
FIRST = quantizer()


def with_codes(encoders: Encoders = LEARNED, made: GroupedQuantizer = FIRST) -> Encoders:
    return replace(encoders, codes=made.codes, codes_hash=quantizer_hash(made))


def extracted(folder: Path, encoders: Encoders = LEARNED, steps: tuple[str, ...] = STEPS, **more) -> ExtractReport:
    return run_extract(Voices(6), folder, encoders=encoders, steps=steps, **more)


def decoder_rows(folder: Path) -> DecoderDataset:
    return DecoderDataset([open_store(folder)], AudioConfig(), "train", 0.8, (0.5, 1.0), tokenizer=TOKENIZER)


def test_features_are_stored_and_a_decoder_learns_of_them_without_codes(tmp_path: Path) -> None:
    report = extracted(tmp_path)
    store = open_store(tmp_path)
    assert report.done == len(store) == 6 and "codes" not in store.columns and "codebooks" not in store.columns
    assert {"ssl", "f0", "seconds", "text_ids", "text_features"} <= set(store.columns) and not store.missing
    for row in (store[i] for i in range(6)):
        frames = int(row["seconds"] * 16000) // 320
        assert row["ssl"].dtype == row["text_features"].dtype == np.float16
        assert len(row["ssl"]) == frames * DIM and np.isfinite(row["text_features"]).all()
        assert row["text_features"].reshape(-1, 2)[:, 0].tolist() == row["text_ids"].tolist()
        index = next(i for i in range(6) if np.isclose(row["seconds"], 0.8 + 0.16 * i))
        wav = torch.from_numpy(Voices(6).read(index).wav)[None]
        own = features_of()(wav, torch.tensor([wav.shape[1]]))[0].numpy()
        np.testing.assert_allclose(row["ssl"].reshape(frames, DIM), own, rtol=1e-3, atol=1e-4)
    example = decoder_rows(tmp_path).get(0, np.random.default_rng(0))
    assert example.ssl is not None and len(example.ssl) == 2 * len(example.codes)


def test_codes_are_those_of_the_quantiser(tmp_path: Path) -> None:
    extracted(tmp_path)
    before = open_store(tmp_path)
    report = extracted(tmp_path, with_codes(), (CODES,))
    assert counts(report) == {CODES: (6, 0)} and report.done == 6
    store = open_store(tmp_path)
    for row in (store[i] for i in range(6)):
        ssl = torch.from_numpy(row["ssl"].astype(np.float32)).view(1, -1, DIM)
        expected = FIRST.codes(ssl, torch.from_numpy(row["f0"])[None])[0]
        assert row["codes"].dtype == np.int16 and row["codebooks"] == 3
        assert np.array_equal(row["codes"].reshape(-1, 3), expected.numpy())
        assert len(expected) == int(row["seconds"] * 16000) // 640
    assert store.array("codebooks").tolist() == [3] * 6 and store.lengths("codes").min() > 0
    assert len(PromptDataset([tmp_path], "train", MixOptions(pair_ratio=0.0), features=True)) == 6
    assert len(decoder_rows(tmp_path)) == 6, "the decoder can go on learning from the features"
    assert store.keys() == before.keys() and store.fingerprint(codes=False) == before.fingerprint()
    assert store.fingerprint() != before.fingerprint()
    assert counts(extracted(tmp_path, with_codes(), (*STEPS, CODES))) == dict.fromkeys((*STEPS, CODES), (0, 6))


def test_one_go_makes_the_same_as_two(tmp_path: Path) -> None:
    extracted(tmp_path / "two")
    extracted(tmp_path / "two", with_codes(), (CODES,))
    extracted(tmp_path / "one", with_codes(), (*STEPS, CODES))
    one, two = open_store(tmp_path / "one"), open_store(tmp_path / "two")
    assert one.keys() == two.keys() and one.fingerprint() == two.fingerprint()
    assert all(np.array_equal(one[i][name], two[i][name]) for i in range(6) for name in one.columns)
    sharded = tmp_path / "shared"
    for rank in range(2):
        extracted(sharded, with_codes(), (*STEPS, CODES), options=ExtractOptions(rank=rank, world=2))
    assert open_store(sharded).fingerprint() == one.fingerprint()


def test_another_quantiser_begins_anew_and_nothing_is_mixed(tmp_path: Path) -> None:
    extracted(tmp_path, with_codes(), (*STEPS, CODES))
    old = {key: open_store(tmp_path)[i]["codes"] for i, key in enumerate(open_store(tmp_path).keys())}
    other = with_codes(made=quantizer(7))
    mark = open_store(tmp_path).fingerprint()
    assert counts(extracted(tmp_path, other, (CODES,), options=ExtractOptions(limit=4))) == {CODES: (4, 0)}
    store = open_store(tmp_path)
    assert len(store) == 4 and all(not np.array_equal(store[i]["codes"], old[store.keys()[i]]) for i in range(4))
    assert counts(extracted(tmp_path, other, (CODES,))) == {CODES: (2, 4)}
    assert counts(extracted(tmp_path, with_codes(), (CODES,))) == {CODES: (0, 6)}, "the way back costs nothing"
    assert open_store(tmp_path).fingerprint() == mark


def test_another_layer_makes_features_and_codes_again_and_nothing_else(tmp_path: Path) -> None:
    extracted(tmp_path, with_codes(), (*STEPS, CODES))
    deeper = replace(LEARNED, ssl=features_of(2.0), speech_hash="layer 10")
    assert counts(extracted(tmp_path, deeper)) == {"text": (0, 6), "audio": (0, 6), "speech": (6, 0)}
    assert "codes" not in open_store(tmp_path).columns, "codes of other features do not count"
    assert counts(extracted(tmp_path, with_codes(deeper), (CODES,))) == {CODES: (6, 0)}
    texts = replace(deeper, text_features=lambda t: [x + 1 for x in states(t)], text_hash="other")
    assert counts(extracted(tmp_path, texts)) == {"text": (6, 0), "audio": (0, 6), "speech": (0, 6)}
    assert open_store(tmp_path).array("codebooks").tolist() == [3] * 6, "a new text encoder keeps the codes"


def test_a_step_alone_needs_no_encoder_of_the_others(tmp_path: Path) -> None:
    extracted(tmp_path, with_codes(), (*STEPS, CODES))
    absent = replace(LEARNED, ssl=None, speech_hash="")
    assert counts(extracted(tmp_path, absent, ("text",))) == {"text": (0, 6)}
    assert "codes" in open_store(tmp_path).columns and len(open_store(tmp_path)) == 6
    other = with_codes(replace(absent, text=None, text_hash=""), quantizer(7))
    assert counts(extracted(tmp_path, other, (CODES,))) == {CODES: (6, 0)}
    assert len(open_store(tmp_path)) == 6
    fresh = tmp_path / "fresh"
    extracted(fresh, absent, ("text", "audio"))
    assert LineStore(fresh).missing == {"speech": 6}


def test_lines_without_codes_do_not_hide(tmp_path: Path) -> None:
    extracted(tmp_path)
    slow = with_codes()

    class Killed(BaseException):
        pass

    def kill(done: int, total: int, what: str) -> None:
        if what == CODES and done >= 2:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modules.data.extraction.LOOK_LINES", 2)
        with pytest.raises(Killed):
            extracted(tmp_path, slow, (CODES,), on_progress=kill)
    store = open_store(tmp_path)
    assert len(store) == 6 == len(decoder_rows(tmp_path)) and store.missing == {CODES: 4}
    coded = store.array("codebooks")
    assert sorted(coded.tolist()) == [0] * 4 + [3] * 2 and ((store.lengths("codes") > 0) == (coded > 0)).all()
    bare = int(np.flatnonzero(coded == 0)[0])
    assert len(store[bare]["codes"]) == 0 == store[bare]["codebooks"] and len(store[bare]["ssl"]) > 0
    assert [len(codes) > 0 for codes in store.column("codes")] == (coded > 0).tolist()
    assert len(PromptDataset([tmp_path], "train", MixOptions())) == 2, "what has codes can be learned from"
    partly = store.fingerprint()
    assert counts(extracted(tmp_path, slow, (CODES,))) == {CODES: (4, 2)}
    assert not open_store(tmp_path).missing and open_store(tmp_path).fingerprint() != partly


def test_codes_without_features_are_refused_and_of_some_lines_wait(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--only speech") as caught:
        extracted(tmp_path, with_codes(), (CODES,))
    assert caught.value.code == "codes_before_features"
    extracted(tmp_path, options=ExtractOptions(limit=4))
    report = extracted(tmp_path, with_codes(), (CODES,))
    assert counts(report) == {CODES: (4, 0)} and report.skipped == {"no features for codes yet": 2}
    assert LineStore(tmp_path).lines == 6, "they are not left out of the dataset"
