"""What fewer bits change in what the shipped language model says: frame by frame, with the same history."""

import pytest
import torch
from torch import Tensor

from modules.gpt.decode import Decoder
from modules.inference.options import SpeakOptions
from modules.inference.sentences import Sentence, decode_options, make_sentence
from modules.inference.synthesizer import Synthesizer
from modules.inference.voice import Voice, load_reference
from modules.paths import EXAMPLES

TEXTS = (
    "The quick brown fox jumps over the lazy dog near the river.",
    "Heute scheint die Sonne und wir gehen in den Park.",
)
OPTIONS = SpeakOptions(seed=1)


@pytest.fixture(scope="module")
def synthesizer() -> Synthesizer:
    return Synthesizer.load(precision="float32")


@pytest.fixture(scope="module")
def sentences(synthesizer: Synthesizer) -> list[Sentence]:
    voice = Voice((load_reference(EXAMPLES / "ada.wav", "Hello there my friend"),))
    references = synthesizer._prompt_references(voice, OPTIONS)
    return [make_sentence(synthesizer._parts, text, references, OPTIONS) for text in TEXTS]


def likeliest(decoder: Decoder, sentence: Sentence, said: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
    """The likeliest codes of every stream [T, K] after the frames `said` before them, [1, K] each; without those, after
    what the decoder itself draws. Also gives the frames."""
    options = decode_options(OPTIONS, sentence.lengths, 3, 25)
    if said is None:
        said, embed = [], decoder._embed
        decoder._embed = lambda steps: said.append(steps.clone()) or embed(steps)
        decoder.generate(sentence.prompts, options=options)
        decoder._embed = embed
    hidden, batch, _ = decoder._prefill([list(sentence.prompts)], [options])
    found = []
    for step in said:
        codes = list(step.unbind(1))
        logits = [decoder.first_logits(hidden)]
        logits += [decoder.stream_logits(k, hidden, codes[:k]) for k in range(1, decoder.pattern.streams)]
        found.append(torch.stack([one.argmax(-1)[0] for one in logits]))
        batch.reader.pointers[0].advance(int(step[0, -1]))
        near, there = batch.reader.step()
        hidden = decoder.engine(decoder._embed(step)[:, None] + near, batch.cache, there)[:, -1]
    return torch.stack(found), said


@torch.inference_mode()
def test_fewer_bits_agree_with_float32(synthesizer: Synthesizer, sentences: list[Sentence]) -> None:
    exact = synthesizer._parts.gpt
    told = [likeliest(exact, sentence) for sentence in sentences]
    expected = torch.cat([codes for codes, _ in told])
    for precision in ("bf16", "int8"):
        decoder = Decoder(exact.model, precision)
        pairs = zip(sentences, told, strict=True)
        found = torch.cat([likeliest(decoder, sentence, said)[0] for sentence, (_, said) in pairs])
        phone, content, pitch, advance = (100 * (found == expected).float().mean(0)).tolist()
        print(f"{precision}: {len(found)} frames, phone {phone:.1f} %, content {content:.1f} %, "
              f"pitch {pitch:.1f} %, advance {advance:.1f} %")  # fmt: skip
        assert content > 90 and min(phone, pitch, advance) > 95 and not torch.equal(found, expected)
