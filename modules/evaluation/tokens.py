"""The two halves of the system apart, so that it is known which one fails.

The decoder alone: true tokens of unseen sentences in a voice, heard by pocketsphinx. The language model alone: phones
that the tokenizer's own recognition head reads in the tokens it wrote; the floor is the same on true tokens.

Shapes: S samples, T tokens, K streams.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch

from modules.audio.resample import resample
from modules.corpus.phones import PAUSE
from modules.data.store import entry_key
from modules.errors import UserError
from modules.evaluation.alignment import EditCounts, count_edits, plain_words, pooled_rate
from modules.evaluation.clips import Clip, own_reference, sentences
from modules.evaluation.english import SAMPLE_RATE, EnglishListener
from modules.evaluation.judging import Judge
from modules.evaluation.results import Finding, Table, percent
from modules.inference.options import Segment, SpeakOptions
from modules.inference.parts import S3_FILE
from modules.inference.voice import Voice
from modules.speech.s3 import BLANK, SemanticTokenizer
from modules.speech.train import load_tokenizer

CLOSED_SET = 20
SENTENCES = 12
"""Sentences a language whose tokens are read."""


def judge_tokens(judge: Judge) -> Finding:
    """Decoder and language model, each alone.

    Raises:
        UserError: judge_needs_corpus, since true tokens come from source audio.
    """
    if not judge.synthetic:
        raise UserError("judge_needs_corpus", "The part {part} needs source audio; give --corpus.", part="tokens")
    tokenizer = load_tokenizer(judge.options.models / S3_FILE)
    values: dict = {}
    values["decoder"], heard = _true_tokens(judge, tokenizer, EnglishListener())
    tables = [heard]
    if judge.token_reader is not None:
        values["language_model"], read = _own_tokens(judge, tokenizer)
        tables.append(read)
    return Finding("tokens", values, tuple(tables))


def _true_tokens(judge: Judge, tokenizer: SemanticTokenizer, listener: EnglishListener) -> tuple[dict, Table]:
    known = [clip for clip in sentences(judge.synthetic, "en", judge.options.seed) if listener.knows(clip.text)]
    known = [clip for clip in known if len(plain_words(clip.text)) >= 3][: min(CLOSED_SET, judge.options.count)]
    note = f"Which of {len(known)} sentences was said, by pocketsphinx. True tokens go through the decoder alone."
    title, header = "True tokens of unseen English sentences", ("sound", "sentences", "right")
    if not known:
        return {}, Table(title, header, (), "The corpus holds no English sentence for pocketsphinx.")
    listener.expect([clip.text for clip in known])
    right: dict[str, int] = defaultdict(int)
    for number, clip in enumerate(known):
        own = own_reference(clip, judge.synthetic) or clip
        other = _another_voice(clip, known, judge.synthetic)
        right["source audio"] += listener.which(judge.reader.wav(clip, SAMPLE_RATE)) == number
        for name, reference in {"true tokens, own voice": own, "true tokens, another voice": other}.items():
            right[name] += listener.which(_rendered(judge, tokenizer, clip, reference)) == number
        judge.progress("decoding true tokens", number + 1, len(known))
    shares = {name: count / len(known) for name, count in right.items()}
    rows = tuple((name, len(known), percent(share)) for name, share in shares.items())
    return shares, Table(title, header, rows, note)


def _another_voice(clip: Clip, known: Sequence[Clip], clips: Sequence[Clip]) -> Clip:
    """A reference of another speaker among those of the set."""
    place = known.index(clip)
    for step in range(1, len(known)):
        other = known[(place + step) % len(known)]
        if other.speaker != clip.speaker:
            return own_reference(other, clips) or other
    return clip


def _rendered(judge: Judge, tokenizer: SemanticTokenizer, clip: Clip, reference: Clip) -> np.ndarray:
    """The true tokens of a clip in the voice of a reference, float32 [S] at 16 kHz."""
    synthesizer = judge.speaker.synthesizer
    codes = _true_codes(judge, tokenizer, clip).to(synthesizer.device)
    segment = Segment(0, 1, clip.text, np.zeros(0, np.float32), 0.0, "eos", codes, judge.options.seed)
    voice = Voice((judge.speaker.reference(reference),))
    rendered = next(synthesizer.render(voice, [segment], SpeakOptions(seed=judge.options.seed)))
    return resample(rendered.wav, synthesizer.sample_rate, SAMPLE_RATE)


def _true_codes(judge: Judge, tokenizer: SemanticTokenizer, clip: Clip) -> torch.Tensor:
    """[T, K]."""
    wav = torch.from_numpy(judge.reader.wav(clip, tokenizer.sample_rate))
    with torch.inference_mode():
        return tokenizer.encode(wav[None])[0]


def _own_tokens(judge: Judge, tokenizer: SemanticTokenizer) -> tuple[dict, Table]:
    """Phone errors read in written tokens, by what stands in the prompt."""
    counts: dict[str, dict[str, list[EditCounts]]] = defaultdict(lambda: defaultdict(list))
    real = [test.reference for test in judge.voice_tests["real"]]
    for language in judge.languages:
        lines = sentences(judge.synthetic, language, judge.options.seed)[: min(SENTENCES, judge.options.count)]
        for number, clip in enumerate(lines):
            own = own_reference(clip, judge.synthetic)
            prompts = {"no prompt": own and _untold(own), "synthetic voice": own}
            prompts["recorded voice"] = real[number % len(real)] if real else None
            true = _true_codes(judge, tokenizer, clip)[:, 0].numpy()
            counts["true tokens"][language].append(_errors(judge, [true], clip))
            for name, reference in prompts.items():
                if reference is not None:
                    seed = (judge.options.seed + number) % 2**31
                    spoken = judge.speaker.say(clip.text, [(reference, 1.0)], seed)
                    counts[name][language].append(_errors(judge, spoken.content(), clip))
            judge.progress(f"reading tokens, {language}", number + 1, len(lines))
    rows, values = [], {}
    for name, found in counts.items():
        rates = {language: pooled_rate(edits).rate for language, edits in found.items()}
        values[name] = {**rates, "mean": float(np.mean(list(rates.values())))}
        shown = [percent(rates.get(language)) for language in judge.languages]
        rows.append((name, *shown, percent(values[name]["mean"])))
    note = (
        "Read by the tokenizer's own recognition head; `true tokens` is its floor. Prompt: a reference with its words."
    )
    return values, Table("Phone error of written tokens", ("prompt", *judge.languages, "mean"), tuple(rows), note)


def _untold(clip: Clip) -> Clip:
    """The same clip with words that nobody knows."""
    return dataclasses.replace(clip, text="", key=entry_key(clip.key, "untold"))


def _errors(judge: Judge, content: Sequence[np.ndarray], clip: Clip) -> EditCounts:
    """Edits between the phones read in the content tokens of all sentences and those of the clip."""
    heard: list[str] = []
    for tokens in content:
        if len(tokens):
            with torch.inference_mode():
                logits = judge.token_reader.label_logits(torch.from_numpy(tokens.astype(np.int64))[None])
            heard += _labels(judge.token_reader, logits[0].argmax(-1).tolist())
    return count_edits(heard, clip.phones)


def _labels(tokenizer: SemanticTokenizer, best: Sequence[int]) -> list[str]:
    """Greedy CTC: repeats joined, blanks and pauses left out."""
    kept = [label for label, before in zip(best, [BLANK, *best]) if label not in (BLANK, before)]
    return [name for label in kept if (name := tokenizer.labels[label - 1]) != PAUSE]
