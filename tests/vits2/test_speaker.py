"""The speaker encoder: what it hears, how it is trained, and what it tells the decoder."""

import numpy as np
import pytest
import torch

from modules.audio.augmentation import AugmentOptions
from modules.checkpoint import Lineage
from modules.data.store import FeatureStore, StoreWriter
from modules.errors import UserError
from modules.vits2.speaker import SpeakerEncoder, contrastive_loss, load_speaker_encoder, save_speaker_encoder
from modules.vits2.speaker_training import DifferentSpeakers, PairBatch, SpeakerPairs, SpeakerStage, right_share

RATE = 16000


def voice(number: int, seconds: float, seed: int = 0) -> np.ndarray:
    """A buzz whose pitch and colour tell the speaker, its loudness and timing do not."""
    rng = np.random.default_rng((number, seed))
    time = np.arange(int(seconds * RATE)) / RATE
    pitch = 90 * 1.12**number * (1 + 0.02 * np.sin(2 * np.pi * rng.uniform(2, 5) * time))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    wav = sum(np.sin(k * phase) * np.exp(-(((k * pitch - 500 - 180 * number) / 600) ** 2)) for k in range(1, 30))
    wav = wav * (0.6 + 0.4 * np.sin(2 * np.pi * rng.uniform(2, 6) * time + rng.uniform(0, 6)))
    return (0.1 * wav + 0.002 * rng.standard_normal(len(time))).astype(np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> FeatureStore:
    """Eight speakers with three clips each, a lonely ninth, a tenth that is too short, and four of dev."""
    folder = tmp_path_factory.mktemp("speakers")
    with StoreWriter(folder) as writer:
        clips = [(s, c, 4.0) for s in range(8) for c in range(3)] + [(8, 0, 4.0), (9, 0, 1.0)]
        clips += [(s, c, 4.0) for s in range(10, 14) for c in range(2)]
        for number, (speaker, clip, seconds) in enumerate(clips):
            pcm = (voice(speaker % 10, seconds, clip) * 32767).astype(np.int16)
            split = "dev" if speaker >= 10 else "train"
            writer.add(f"{number:032x}", audio=pcm, speaker=f"s{speaker}", split=split)
    return FeatureStore(folder)


def small() -> SpeakerEncoder:
    torch.manual_seed(0)
    return SpeakerEncoder(RATE, width=16, hidden=24, layers=2)


@torch.inference_mode()
def test_vectors_have_length_one_and_padding_does_not_matter():
    model, wav = small(), torch.from_numpy(voice(1, 2.0))[None]
    alone = model(wav)
    assert alone.norm(dim=1).item() == pytest.approx(1.0, abs=1e-5)
    padded = torch.cat([wav, torch.zeros(1, 8000)], 1)
    torch.testing.assert_close(model(padded, torch.tensor([wav.shape[1]])), alone, atol=1e-5, rtol=1e-4)
    together = model(torch.cat([wav, wav.flip(1)]))
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=1e-4)


def test_what_belongs_together_has_the_least_loss():
    rows = torch.nn.functional.normalize(torch.randn(6, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    assert contrastive_loss(rows, rows) < contrastive_loss(rows, rows.roll(1, 0)) - 1
    assert right_share(rows, rows) == 1 and right_share(rows, rows.roll(1, 0)) == 0


def test_pairs_are_two_pieces_of_one_speaker(store):
    pairs = SpeakerPairs([store], RATE, "train")
    assert pairs.speakers == [f"s{n}" for n in range(9)], "the tenth is too short for two pieces"
    for index in range(9):
        first, second = pairs.get(index, np.random.default_rng(0))
        assert len(first) == len(second) == pairs.piece and not np.array_equal(first, second)
        again = pairs.get(index, np.random.default_rng(0))
        assert np.array_equal(first, again[0]) and np.array_equal(second, again[1])
    poor = SpeakerPairs([store], RATE, "train", AugmentOptions.of_references(1.0))
    clean, dirty = poor.get(0, np.random.default_rng(0))
    assert np.array_equal(clean, pairs.get(0, np.random.default_rng(0))[0])
    assert not np.array_equal(dirty, pairs.get(0, np.random.default_rng(0))[1])
    with pytest.raises(UserError) as error:
        SpeakerPairs([store], RATE, "test")
    assert error.value.code == "no_audio_rows"


def test_a_batch_holds_different_speakers():
    sampler = DifferentSpeakers(9, 4, seed=1)
    for epoch in range(3):
        batches = sampler.batches(epoch)
        assert len(batches) == 2 and all(len(set(b.tolist())) == 4 for b in batches)
    assert not np.array_equal(sampler.batches(0), sampler.batches(1))
    assert DifferentSpeakers(3, 8).batches(0)[0].tolist() != [] and len(DifferentSpeakers(3, 8).batches(0)[0]) == 3


def test_training_tells_unheard_speakers_apart(store, tmp_path):
    pairs, held = SpeakerPairs([store], RATE, "train"), SpeakerPairs([store], RATE, "dev")
    batch = held.collate([held.get(i, np.random.default_rng(i)) for i in range(len(held))])
    stage = SpeakerStage(small(), [batch], 5e-3, "tiny")
    with torch.inference_mode():
        before = stage.validate()
    optimizer = stage.optimizers["speaker"]
    for step in range(25):
        data = pairs.collate([pairs.get(i, np.random.default_rng((step, i))) for i in range(len(pairs))])
        optimizer.zero_grad()
        stage.losses("speaker", data)["contrastive"].backward()
        optimizer.step()
    with torch.inference_mode():
        after = stage.validate()
    assert after["own"] - after["others"] > before["own"] - before["others"] + 0.2 and after["right"] >= 0.75
    (path,) = stage.save_weights(tmp_path, 25, 1, last=True)
    loaded = load_speaker_encoder(path)
    assert not any(p.requires_grad for p in loaded.parameters())
    with torch.inference_mode():
        torch.testing.assert_close(loaded(batch.first), stage.model.eval()(batch.first), atol=2e-2, rtol=0)


def test_another_file_is_refused(tmp_path):
    path = save_speaker_encoder(tmp_path / "speaker.safetensors", small(), Lineage("tiny", "speaker", 1, 0))
    assert load_speaker_encoder(path).width == 16
    from modules.checkpoint import save_weights

    save_weights(tmp_path / "other.safetensors", {"x": torch.zeros(1)}, {}, Lineage("tiny", "gpt", 1, 0))
    with pytest.raises(UserError) as error:
        load_speaker_encoder(tmp_path / "other.safetensors")
    assert error.value.code == "weights_wrong_stage"


def test_the_gradient_of_a_voice_reaches_the_sound():
    model = small().requires_grad_(False)
    wav = torch.from_numpy(voice(2, 1.6))[None].requires_grad_(True)
    wanted = model(torch.from_numpy(voice(5, 1.6))[None])
    (1 - (model(wav) * wanted).sum()).backward()
    assert torch.isfinite(wav.grad).all() and wav.grad.abs().max() > 0
    assert isinstance(PairBatch(wav, wav).to(torch.device("cpu")), PairBatch)
