"""Rows out of a store: prompts of the same speaker, the mix, budgets, resuming."""

from dataclasses import replace

import numpy as np
import pytest

from modules.data.batching import Loader
from modules.data.store import StoreWriter
from modules.errors import UserError
from modules.gpt import dataset as gpt_dataset
from modules.gpt.batching import Collate, MixSampler, batches_of
from modules.gpt.dataset import MixOptions, PromptDataset, validation_rows
from modules.gpt.measuring import measure_unit_frames, quiet_codes

PAIRS = MixOptions(pair_ratio=1.0, text_drop=0.0)


def rng(index: int) -> np.random.Generator:
    return np.random.default_rng((0, 0, index))


def test_prompts_are_other_utterances_of_the_same_speaker(store_folder):
    dataset = PromptDataset([store_folder], "train", PAIRS)
    sizes = set()
    for index in range(len(dataset)):
        parts = dataset.get(index, rng(index)).parts
        assert len({int(part.codes[0, 0]) for part in parts}) == 1
        assert len({int(part.text_ids[0]) for part in parts}) == len(parts)
        sizes.add(len(parts))
    assert sizes == {1, 2, 3}  # the speaker with a single utterance stands alone


def test_the_ratio_of_pairs_is_kept(store_folder):
    dataset = PromptDataset([store_folder], "train", MixOptions(pair_ratio=0.5))
    pairs = [len(dataset.choose(i)) > 1 for i in range(20 * len(dataset))]
    assert np.mean(pairs) == pytest.approx(0.5, abs=0.06)


def test_recordings_of_like_pace_stand_before_synthetic_speech(store_folder, monkeypatch):
    monkeypatch.setattr(gpt_dataset, "ALIKE", 2)
    dataset = PromptDataset([store_folder], "train", replace(PAIRS, max_references=1, foreign_prompts=1.0))
    rows = [dataset.choose(i) for i in range(40 * len(dataset))]
    foreign = [(prompt, target) for *prompts, target in rows for prompt in prompts if not dataset.recorded[target]]
    assert foreign and all(dataset.recorded[prompt] for prompt, _ in foreign)
    own = [(prompt, target) for *prompts, target in rows for prompt in prompts if dataset.recorded[target]]
    assert own and all(dataset.speaker_of[prompt] == dataset.speaker_of[target] for prompt, target in own)
    # Slow recordings before slow speech: how slow each is, in ranks among those like it.
    slow = [[dataset._pace[i] for i in pair] for pair in foreign]
    assert np.corrcoef(np.array(slow).T)[0, 1] > 0.6
    mixed = PromptDataset([store_folder], "train", replace(PAIRS, foreign_prompts=0.5))
    found = [mixed.recorded[row[0]] for row in map(mixed.choose, range(20 * len(mixed))) if not mixed.recorded[row[-1]]]
    assert 0.4 < np.mean(found) < 0.7


def test_only_the_asked_split_and_sensible_lengths(store_folder):
    train, dev = (PromptDataset([store_folder], split, PAIRS) for split in ("train", "dev"))
    rows = {int(d.part(i).text_ids[0]) for d in (train,) for i in range(len(d))}
    assert rows.isdisjoint({int(dev.part(i).text_ids[0]) for i in range(len(dev))})
    assert 7 not in rows  # 20 seconds
    with pytest.raises(UserError, match="test"):
        PromptDataset([store_folder], "test", PAIRS)


def test_get_follows_the_plan(store_folder):
    dataset = PromptDataset([store_folder], "train", MixOptions())
    for index in range(len(dataset)):
        row = dataset.get(index, rng(index))
        assert [int(p.text_ids[0]) for p in row.parts if len(p.text_ids)] == [
            int(dataset.part(i).text_ids[0])
            for i, part in zip(dataset.choose(index), row.parts, strict=True)
            if len(part.text_ids)
        ]


def test_prompts_may_lose_their_text_but_targets_never(store_folder):
    dataset = PromptDataset([store_folder], "train", MixOptions(pair_ratio=1.0, text_drop=1.0))
    parts = dataset.get(0, rng(0)).parts
    assert len(parts) > 1
    assert all(len(part.text_ids) == 0 for part in parts[:-1])
    assert len(parts[-1].text_ids) > 0


def test_rows_stay_within_the_longest_length(store_folder):
    options = MixOptions(pair_ratio=1.0, max_references=3, max_length=80)
    dataset = PromptDataset([store_folder], "train", options)
    assert max(dataset.length(dataset.choose(i)) for i in range(len(dataset))) <= 80


def test_batches_keep_the_budget_and_miss_nobody(store_folder):
    dataset = PromptDataset([store_folder], "train", MixOptions(text_drop=0.0))
    sampler = MixSampler(dataset, budget=400, seed=0, pad_multiple=16)
    batches = sampler.batches(0)
    assert sorted((np.concatenate(batches) % len(dataset)).tolist()) == list(range(len(dataset)))
    # As the loader hands them out, with the prompts that the plan was made for.
    loader = Loader(dataset, sampler, Collate(64, 16))
    real = padded = 0
    for epoch in range(3):
        for sequences, batch in zip(loader, sampler.batches(epoch), strict=True):
            assert sequences.kinds.numel() <= 400
            assert sequences.kinds.shape[1] % 16 == 0
            planned = max(dataset.length(dataset.choose(int(i))) for i in batch)
            assert int(sequences.lengths.max()) == planned
            real, padded = real + int(sequences.lengths.sum()), padded + sequences.kinds.numel()
        assert sampler.padding_waste == pytest.approx(1 - real / padded)
        assert sampler.padding_waste < 0.25  # few rows, so neighbours differ more than in a real store
        real = padded = 0


def test_epochs_differ_and_repeat_themselves(store_folder):
    dataset = PromptDataset([store_folder], "train", MixOptions())
    one, other = MixSampler(dataset, 400), MixSampler(dataset, 400)
    first = [b.tolist() for b in one.batches(0)]
    assert first != [b.tolist() for b in one.batches(1)]
    assert first == [b.tolist() for b in one.batches(0)] == [b.tolist() for b in other.batches(0)]


def test_recorded_speech_gets_its_share(store_folder):
    dataset = PromptDataset([store_folder], "train", MixOptions(share_recorded=0.5))
    sampler = MixSampler(dataset, 400)
    targets = np.concatenate([np.concatenate(sampler.batches(epoch)) for epoch in range(20)])
    assert dataset.recorded.mean() < 0.2
    assert dataset.recorded[targets % len(dataset)].mean() == pytest.approx(0.5, abs=0.05)


def test_a_share_of_what_teaches_nothing_is_no_share(store_folder, monkeypatch):
    dataset = PromptDataset([store_folder], "train", MixOptions(share_recorded=0.5))
    monkeypatch.setattr(dataset, "_phones", {"a": 0})
    monkeypatch.setattr(PromptDataset, "unlabelled", dataset.recorded)
    weights = dataset.target_weights()
    assert (weights[dataset.recorded] == 0).all() and (weights[~dataset.recorded] > 0).all()
    assert weights.mean() == pytest.approx(1)


def test_languages_can_be_evened_out(store_folder):
    dataset = PromptDataset([store_folder], "train", MixOptions(language_exponent=0.0))
    weights = dataset.target_weights()
    sums = [weights[dataset.language_of == i].sum() for i in range(2)]
    assert sums[0] == pytest.approx(sums[1])
    assert weights.mean() == pytest.approx(1)


def test_a_resumed_loader_goes_on_with_the_same_rows(store_folder):
    def loader() -> Loader:
        dataset = PromptDataset([store_folder], "train", MixOptions())
        return Loader(dataset, MixSampler(dataset, 400), Collate(64))

    whole, first = [s.text_ids.tolist() for s in loader()], loader()
    taken = iter(first)
    start = [next(taken).text_ids.tolist() for _ in range(3)]
    second = loader()
    second.load_state_dict(first.state_dict())
    assert start + [s.text_ids.tolist() for s in second] == whole


def test_validation_has_every_language_alone_and_in_pairs(store_folder):
    dataset = PromptDataset([store_folder], "dev", MixOptions())
    rows = validation_rows(dataset, 3)
    names = [dataset.group_name(row.group) for row in rows]
    assert set(names) == {"en_alone", "en_pair"}  # every dev utterance of the fixture is English
    assert [len(row.parts) for row in rows] == [2 if name.endswith("pair") else 1 for name in names]
    assert sum(map(len, batches_of(rows, 100))) == len(rows)


def test_silence_is_found_where_nothing_is_voiced(tmp_path):
    from modules.data.store import StoreWriter

    with StoreWriter(tmp_path) as writer:
        for i in range(5):
            codes = np.array([[20 + i, 9]] * 10 + [[3, 0]] * 15 + [[4, 0]] * 2 + [[30, 9]] * 10, np.int16)
            writer.add(f"k{i}", speaker="s", language="en", split="train", text="t", seconds=1.5, source="synthetic",
                       text_ids=np.arange(4, dtype=np.int32), codes=codes.reshape(-1), codebooks=2)  # fmt: skip
    assert quiet_codes(PromptDataset([tmp_path], "train", MixOptions())) == [3]


def test_the_usual_length_of_each_unit_is_found(tmp_path):
    truth, draw = np.array([0, 2, 5, 9, 3]), np.random.default_rng(0)
    with StoreWriter(tmp_path / "paced") as writer:
        for i in range(80):
            ids = draw.integers(1, 4, 6)
            frames = int(truth[ids].sum())
            writer.add(
                f"key{i}", speaker="a", language="en", split="train", text="text", seconds=frames / 25,
                source="synthetic", text_ids=ids.astype(np.int32), codes=np.zeros(frames, np.int16), codebooks=1,
            )  # fmt: skip
    dataset = PromptDataset([tmp_path / "paced"], "train", MixOptions())
    found = measure_unit_frames(dataset, 5, strength=0.01)
    np.testing.assert_allclose(found[1:4], truth[1:4], atol=0.05)
    assert found[4] == pytest.approx(dataset.frames_per_unit, rel=1e-3)  # never seen: the mean


def test_a_large_vocabulary_costs_what_occurs_of_it(store_folder):
    dataset = PromptDataset([store_folder], "train", MixOptions())
    small = measure_unit_frames(dataset, 64)
    large = measure_unit_frames(dataset, 250_002)  # a table of all pairs would be 500 GB
    np.testing.assert_allclose(large[:64], small, rtol=1e-5)
    np.testing.assert_allclose(large[64:], dataset.frames_per_unit, rtol=1e-5)
    counts = np.stack([np.bincount(dataset.text_ids(i), minlength=64) for i in range(len(dataset))]).astype(float)
    over = dataset.frames - dataset.frames_per_unit * counts.sum(1)
    whole = dataset.frames_per_unit + np.linalg.solve(20 * np.eye(64) + counts.T @ counts, counts.T @ over)
    np.testing.assert_allclose(small, np.maximum(whole, 0.2), rtol=1e-4)
