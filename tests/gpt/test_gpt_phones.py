"""The stream of phones before the content: known, hidden and missing, in training and in speaking."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modules.config import GPTConfig
from modules.data.features import open_store
from modules.data.store import StoreWriter
from modules.errors import ConfigError, UserError
from modules.gpt.dataset import MixOptions, PromptDataset
from modules.gpt.decode import DecodeOptions, Decoder, PromptReference, build_prompts
from modules.gpt.measuring import phone_names
from modules.gpt.patterns import IGNORED, Pattern
from modules.gpt.sequence import arrange
from modules.gpt.train import GPTStage, StageOptions, Validation
from tests.gpt.loud import PHONES, SIZES, loud_model, spoken

CONFIG = GPTConfig(**SIZES, phones=PHONES)
PATTERN = Pattern((PHONES, 64, 8), phones=True)


@pytest.fixture
def model(make_gpt):
    return loud_model(make_gpt, CONFIG)


def test_frames_without_phones_have_a_gap_and_the_end_is_a_phone():
    codes = np.array([[5, 1], [6, 2]])
    entering, predicted = PATTERN.pack(codes)
    assert entering.tolist() == [[IGNORED, 5, 1], [IGNORED, 6, 2]]
    assert predicted.tolist() == [[IGNORED, 5, 1], [IGNORED, 6, 2], [PHONES, IGNORED, IGNORED]]
    assert PATTERN.unpack(predicted)[:, 1:].tolist() == codes.tolist()
    assert (PATTERN.content, PATTERN.end_code) == (1, PHONES)


@pytest.mark.parametrize(("name", "value"), [("group_size", 2), ("codebooks", "delay"), ("codebooks", "parallel")])
def test_phones_need_a_chain_of_single_frames(make_gpt, name, value):
    with pytest.raises(ConfigError) as error:
        make_gpt(config=replace(CONFIG, **{name: value}))
    assert error.value.code == "gpt_phones_chain"
    with pytest.raises(ConfigError) as error:
        make_gpt(config=CONFIG, vector_dim=4)
    assert error.value.code == "gpt_phones_vectors"


@torch.inference_mode()
def test_cached_steps_equal_the_whole_model(model):
    decoder, part = Decoder(model), spoken(3, 11)
    references = [PromptReference(spoken(n).text_ids, spoken(n, 6 + n).codes, 1.0) for n in (1, 2)]
    prompts = build_prompts(references, part.text_ids, 2, "order")
    entering, predicted = model.pattern.pack(part.frames(model.pattern))
    hidden, batch, _ = decoder._prefill([prompts], [DecodeOptions(max_frames=20)])
    place = batch.place
    whole = model(arrange([[*prompts[0].parts[:-1], part]], model.pattern, last_only=True))
    for step, target in enumerate(predicted):
        known = torch.as_tensor(np.minimum(target.clip(0), [PHONES - 1, 63, 7]))[:, None]
        logits = [decoder.first_logits(hidden)]
        logits += [decoder.stream_logits(k, hidden, known[:k]) for k in (1, 2)]
        for w in range(3 if step < len(entering) else 1):
            torch.testing.assert_close(logits[w][0], whole[w][step], atol=1e-4, rtol=1e-4)
        if step < len(entering):
            place = place + 1
            x = decoder._embed(torch.as_tensor(entering[step])[None])[:, None]
            hidden = decoder.engine(x, batch.cache, place)[:, -1]


@torch.inference_mode()
def test_hidden_phones_neither_enter_nor_are_learned(model):
    part = spoken(1)
    other = replace(part, phones=(part.phones + 1) % PHONES)
    target = spoken(2)
    hidden, hidden_other = (replace(p, hidden=True) for p in (part, other))
    batches = [arrange([[p, target]], model.pattern) for p in (part, other, hidden, hidden_other)]
    logits = [model(batch)[0][-8:] for batch in batches]
    assert not torch.allclose(logits[0], logits[1])
    assert torch.equal(logits[2], logits[3]), "what is hidden must not be heard of"
    assert len(batches[2].targets) == len(target.codes) + 1, "a hidden part teaches nothing"
    assert (batches[2].codes[: len(part.codes), 0] == IGNORED).all()
    unknown = arrange([[replace(part, phones=None)]], model.pattern)
    assert (unknown.codes[:, 0] == IGNORED).all() and (unknown.targets[:-1, 0] == IGNORED).all()


@torch.inference_mode()
def test_the_content_depends_on_the_phone_of_its_frame(model):
    part = spoken(1)
    changed = part.phones.copy()
    changed[-1] = (changed[-1] + 1) % PHONES
    before, after = (model(arrange([[replace(part, phones=c)]], model.pattern)) for c in (part.phones, changed))
    assert torch.equal(before[0][:-1], after[0][:-1])
    assert not torch.allclose(before[1][-2], after[1][-2]) and torch.equal(before[1][:-2], after[1][:-2])


def test_the_gradient_reaches_every_parameter(model):
    batch = arrange([[spoken(1), spoken(2, 12)]], model.pattern)
    logits = model.train()(batch)
    sum(F.cross_entropy(x, batch.targets[:, w], ignore_index=IGNORED) for w, x in enumerate(logits)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_text_is_learned_by_heart_and_spoken_with_its_phones(make_gpt):
    torch.manual_seed(0)
    model = make_gpt(config=CONFIG).train()
    parts = [spoken(n, 5 + n) for n in range(4)]
    stage = GPTStage(model, StageOptions(learning_rate=1e-2), Validation(), "tiny")
    assert stage.weights == {"prosody": 0.3}
    optimizer, batch = stage.optimizers["gpt"], arrange([[part] for part in parts], model.pattern)
    for _ in range(60):
        losses = stage.losses("gpt", batch)
        assert {"phones", "content", "prosody", "_accuracy", "_eos"} <= set(losses)
        optimizer.zero_grad()
        sum(loss for name, loss in losses.items() if not name.startswith("_")).backward()
        optimizer.step()
    decoder, heard = Decoder(model.eval()), []
    options = DecodeOptions(top_k=1, phone_top_k=1, prosody_top_k=1, ras_window=0, max_frames=20)
    for part in parts:
        heard.clear()
        prompts = build_prompts([], part.text_ids, 2)
        generated = decoder.generate(prompts, options=options, on_frame=lambda n, f: heard.append(f.tolist()))
        assert generated.stopped_by == "eos"
        assert generated.codes.tolist() == part.codes.tolist() == heard
        assert generated.phones.tolist() == part.phones.tolist()


@pytest.fixture
def told_store(tmp_path):
    """Six utterances of two speakers; the last has no phones."""
    with StoreWriter(tmp_path / "store") as writer:
        for n in range(6):
            part = spoken(n, 8)
            writer.add(
                f"{n:032x}", text_ids=part.text_ids.astype(np.int32), codebooks=2, seconds=1.0, speaker=f"s{n % 2}",
                codes=part.codes.flatten().astype(np.int16), language="en", split="train", source="synthetic",
                phones="" if n == 5 else " ".join(f"p{k}" for k in part.phones),
            )  # fmt: skip
    return tmp_path / "store"


def test_rows_know_the_phones_of_their_store(told_store):
    names = phone_names([open_store(told_store)])
    assert names == sorted(set(names)) and set(names) <= {f"p{k}" for k in range(PHONES)}
    data = PromptDataset(
        [told_store], "train", MixOptions(pair_ratio=1.0, hidden_prompts=1.0), pattern=PATTERN, phones=names
    )
    prompted = 0
    for index in range(30):
        row, n = data.get(index, np.random.default_rng(0)), index % 6
        target, prompts = row.parts[-1], row.parts[:-1]
        prompted += len(prompts)
        assert all(part.hidden for part in prompts) and target.hidden == (n == 5), "what nobody knows teaches nothing"
        assert target.codes.tolist() == spoken(n, 8).codes.tolist()
        if n == 5:
            assert target.phones is None
        else:
            assert [names[k] for k in target.phones] == [f"p{k}" for k in spoken(n, 8).phones]
        arrange([row.parts], PATTERN)
    assert prompted > 15
    without_text = MixOptions(pair_ratio=0.0, untold=1.0)
    untold = PromptDataset([told_store], "train", without_text, pattern=PATTERN, phones=names)
    target = untold.get(0, np.random.default_rng(0)).parts[-1]
    assert len(target.text_ids) == 0 and target.phones.tolist() == data.part(0).phones.tolist(), (
        "its phones still teach"
    )
    assert target.reads is None and not target.hidden
    assert data.unlabelled.tolist() == [False] * 5 + [True] and data.target_weights().tolist() == [1.2] * 5 + [0.0]
    assert list(data.label(lambda *_: pytest.fail("the store tells that nobody knows"))) == []
    some = PromptDataset([told_store], "train", MixOptions(), pattern=PATTERN, phones=names[:1])
    assert {IGNORED, 0} >= {int(k) for n in range(5) for k in some.part(n).phones}
    without = PromptDataset([told_store], "train", MixOptions())
    assert without.part(0).phones is None


def test_a_store_that_tells_of_no_phones_is_labelled(store_folder):
    data = PromptDataset([store_folder], "train", MixOptions(), pattern=PATTERN, phones=["p0", "p1"])
    with pytest.raises(UserError) as error:
        data.target_weights()
    assert error.value.code == "gpt_nothing_labelled"
    refused = data.text_ids(3)[0]

    def labels(text_ids, codes, features):
        if text_ids[0] == refused:
            return None
        return np.ones(len(codes), np.int64), np.zeros(len(codes), np.int64)

    assert list(data.label(labels)) == list(range(1, len(data) + 1))
    assert data.unlabelled.sum() == 1 and (data.target_weights() == 0).sum() == 1
    assert data.part(0).phones.tolist() == [1] * len(data.part(0).codes) and not data.part(0).hidden
    assert data.part(3).hidden
