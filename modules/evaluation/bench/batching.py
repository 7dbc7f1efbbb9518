"""Part "batch": sentences that are spoken together, against the same sentences one by one.

Shapes: T frames of speech tokens, K codebooks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from modules.evaluation.bench.measured import Measured, figure, times
from modules.evaluation.bench.timing import Spread
from modules.evaluation.bench.workshop import Workshop
from modules.evaluation.results import Table
from modules.gpt.decode import Request
from modules.inference.options import SpeakOptions
from modules.inference.sentences import Sentence, Timbre, decode_options, make_sentence
from modules.inference.sounding import sounds
from modules.inference.synthesizer import Synthesizer, sentence_seed
from modules.inference.voice import Voice

TEXTS = (
    "The morning train was late, so we walked along the old river.",
    "She opened the window and listened to the rain for a while.",
    "Nobody had told the baker that the market would be closed.",
    "We counted seven boats before the fog came in from the sea.",
    "My brother keeps his letters in a small box under the bed.",
    "The lamp on the corner has been broken since last winter.",
    "They planted beans, carrots and a row of tall sunflowers.",
    "A grey cat sleeps on the warm stones behind the station.",
    "If you turn left at the bridge, you will see the school.",
    "The doctor wrote three short lines and folded the paper.",
    "Every Sunday the children race their bicycles down the hill.",
    "He forgot his umbrella, and so he waited in the library.",
    "Two musicians played an old song that everyone seemed to know.",
    "The soup needs a little more salt and some fresh bread.",
    "From the tower one can see both lakes on a clear day.",
    "Please leave the key with the woman who sells the flowers.",
)
"""As many as the largest batch has."""
HEADLINE = 8


def first_words(text: str, count: int) -> str:
    """The beginning of a text, as a sentence of its own."""
    words = text.split()
    return text if len(words) <= count else f"{' '.join(words[:count]).rstrip(',')}."


class Batches(Synthesizer):
    """A synthesizer whose batches are chosen from outside: language model and decoder, every sentence once."""

    def prepare(
        self, voice: Voice, texts: Sequence[str], options: SpeakOptions, seed: int, count: int
    ) -> "Prepared":  # fmt: skip
        """So many sentences ready to be spoken, the texts by turns, each with a seed of its own."""
        references = self._prompt_references(voice, options)
        sentences = [make_sentence(self._parts, text, references, options) for text in texts]
        seeds = [sentence_seed(seed, index) for index in range(count)]
        sentences = [sentences[index % len(sentences)] for index in range(count)]
        return Prepared(self._timbre(voice, options), sentences, seeds, options)

    def codes(self, prepared: "Prepared", places: Sequence[int]) -> list[Tensor]:
        """Codes [T, K] of these sentences, spoken together."""
        rate = self._parts.speech.frame_rate
        requests = [
            Request(
                prepared.sentences[i].prompts,
                decode_options(prepared.options, prepared.sentences[i].lengths, prepared.seeds[i], rate),
            )
            for i in places
        ]
        return [generated.codes for generated in self._parts.gpt.generate_batch(requests)]

    def language_model_seconds(self, prepared: "Prepared", places: Sequence[int]) -> float:
        """Speaks codes alone; gives seconds of the sound that they stand for."""
        return sum(len(codes) for codes in self.codes(prepared, places)) / self._parts.speech.frame_rate

    def sound_seconds(self, prepared: "Prepared", places: Sequence[int]) -> float:
        """Speaks these sentences together; gives seconds of sound."""
        written = [prepared.sentences[i].written for i in places]
        seeds = [prepared.seeds[i] for i in places]
        codes = self.codes(prepared, places)
        wavs = sounds(self._parts, codes, written, prepared.timbre, prepared.options, seeds)
        return sum(len(wav) for wav in wavs) / self.sample_rate


@dataclass(frozen=True)
class Prepared:
    """Sentences in a voice, with their seeds."""

    timbre: Timbre
    sentences: list[Sentence]
    seeds: list[int]
    options: SpeakOptions


def measure_batches(workshop: Workshop) -> Measured:
    """Nano from codes to sound; of base the language model alone, all sentences of the same length."""
    nano, base = Batches(workshop.nano("auto")), Batches(workshop.full_size())
    effort, forced = workshop.effort, workshop.effort.batch_seconds
    texts = [first_words(text, effort.batch_words) for text in TEXTS[: max(effort.batches)]]
    plans = {
        "nano": (nano, nano.sound_seconds, SpeakOptions()),
        "base_language_model": (base, base.language_model_seconds, SpeakOptions(forced_seconds=forced)),
    }
    values: dict[str, Any] = {"base_forced_seconds": forced, "words_of_a_sentence": effort.batch_words}
    for name, (system, say, options) in plans.items():
        # Of a given length all sentences cost the same: base reads one, which its text encoder is asked for once.
        said = texts[:1] if options.forced_seconds else texts
        prepared = system.prepare(workshop.voice(), said, options, workshop.seed, len(texts))
        values[name] = _compare(workshop, lambda places, say=say, prepared=prepared: say(prepared, places))
    headlines = {
        f"{label}batch{size}_speedup": values[name]["sizes"][str(size)]["speedup"]
        for label, name in (("", "nano"), ("base_", "base_language_model"))
        for size in (HEADLINE,)
        if size in effort.batches
    }
    tables = (
        _table("Batches of nano, language model and decoder", values["nano"]),
        _table(f"Batches of the language model of base, {figure(forced)} s each", values["base_language_model"]),
    )
    return Measured(values, tables, headlines)


def _compare(workshop: Workshop, say: Callable[[Sequence[int]], float]) -> dict[str, Any]:
    """Every batch in turns with sentences alone; a batch stands against the sum of its own sentences."""
    sizes, clock = workshop.effort.batches, workshop.clock
    sound: dict[str, float] = {}

    def turn(name: str, places: Sequence[int]) -> Callable[[], float]:
        def run() -> float:
            said: list[float] = []
            seconds = clock.seconds(lambda: said.append(say(places)))
            sound[name] = said[0]  # the same in every round: seeds are given
            return seconds

        return run

    turns, alone = {}, 0
    for size in sizes:  # a batch between the sentences that it consists of
        turns[f"together {size}"] = turn(f"together {size}", range(size))
        turns |= {f"alone {i}": turn(f"alone {i}", [i]) for i in range(alone, size)}
        alone = size
    taken = workshop.effort.batch_rounds.run(turns, workshop.should_stop)
    return {"rounds": len(taken["alone 0"]), "sizes": {str(size): _rates(size, taken, sound) for size in sizes}}


def _rates(size: int, taken: dict[str, list[float]], sound: dict[str, float]) -> dict[str, float]:
    """Seconds of sound a second, together and one by one."""
    names = [f"alone {i}" for i in range(size)]
    one_by_one = Spread.of([sum(round_) for round_ in zip(*(taken[name] for name in names), strict=True)])
    together = Spread.of(taken[f"together {size}"])
    rates = {
        "together_sound_seconds_per_second": sound[f"together {size}"] / together.median,
        "one_by_one_sound_seconds_per_second": sum(sound[name] for name in names) / one_by_one.median,
    }
    rates["speedup"] = rates["together_sound_seconds_per_second"] / rates["one_by_one_sound_seconds_per_second"]
    return rates


def _table(title: str, values: dict[str, Any]) -> Table:
    rows = [
        (
            size, figure(told["together_sound_seconds_per_second"]),
            figure(told["one_by_one_sound_seconds_per_second"]), times(told["speedup"]),
        )
        for size, told in values["sizes"].items()
    ]  # fmt: skip
    note = (
        f"Seconds of sound a second of work; median of {values['rounds']} rounds in turns, the same seeds in both ways."
    )
    return Table(title, ("sentences", "as one batch", "one by one", "speed-up"), tuple(rows), note)
