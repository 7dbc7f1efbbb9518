"""From the values of the inference tab to spoken audio, step by step. Knows names and values, no components."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.errors import Stopped, UserError
from tools.webui.history import reference_record, save_output
from tools.webui.messages import Translator
from tools.webui.services import Services
from tools.webui.weights import ModelChoice

if TYPE_CHECKING:
    from modules.inference.options import Progress, Segment, SpeakOptions
    from modules.inference.synthesizer import Synthesizer
    from modules.inference.voice import Reference, Voice
    from tools.webui.live import LiveSound

REFERENCES = 4
"""Rows of references on the page."""
TABLE_AT_ONCE, TABLE_SECONDS = 20, 2.0
"""Up to so many sentences the table follows each of them, later once in so many seconds."""

OPTION_NAMES = (
    "top_k",
    "top_p",
    "temperature",
    "repetition_penalty",
    "guidance",
    "speed",
    "pause_seconds",
    "noise_scale",
    "cut",
    "fuse_gpt",
    "fuse_decoder",
    "guards",
)
"""Controls that are fields of `SpeakOptions` under the same name."""

REFERENCE_NAMES = tuple(
    f"reference_{i}_{part}" for i in range(1, REFERENCES + 1) for part in ("audio", "weight", "text")
)
MODEL_NAMES = ("preset", "gpt_weights", "vits2_weights")
FORM_NAMES = ("text", *REFERENCE_NAMES, *OPTION_NAMES, "seed", "random_seed", "freeze", *MODEL_NAMES)

ProgressBar = Callable[[tuple[int, int] | float, str], None]


@dataclass(frozen=True)
class LastRun:
    """What freeze needs: the segments of the last run of this tab and what they were made from."""

    text: str
    preset: str
    seed: int
    segments: tuple["Segment", ...]


def model_choice(values: Mapping[str, Any]) -> ModelChoice:
    """The model that the controls name."""
    return ModelChoice(values["preset"] or "nano", values["gpt_weights"] or "", values["vits2_weights"] or "")


def speak_options(values: Mapping[str, Any]) -> "SpeakOptions":
    """The controls as options; an emptied number field means the default.

    Raises:
        UserError: a value is out of its bounds; the message names the field.
    """
    from modules.inference.options import SpeakOptions

    chosen = {name: values[name] for name in OPTION_NAMES if values.get(name) is not None}
    if "top_k" in chosen:
        chosen["top_k"] = int(chosen["top_k"])
    seed = values.get("seed")
    keep = not values.get("random_seed") and seed is not None
    return SpeakOptions(**chosen, seed=int(seed) if keep else None)


@dataclass(frozen=True)
class ReferenceRow:
    """One filled row of references as it stands on the page."""

    audio: Path
    text: str | None
    weight: float


def reference_rows(values: Mapping[str, Any]) -> list[ReferenceRow]:
    """The rows that hold audio, from top to bottom.

    Raises:
        UserError: reference_needed when every row is empty.
    """
    rows = []
    for number in range(1, REFERENCES + 1):
        audio = values.get(f"reference_{number}_audio")
        weight = values.get(f"reference_{number}_weight")
        if audio:
            text = (values.get(f"reference_{number}_text") or "").strip() or None
            rows.append(ReferenceRow(Path(audio), text, 1.0 if weight is None else float(weight)))
    if not rows:
        raise UserError(
            "reference_needed", "There is no reference voice; upload or record one, or pick an example voice."
        )
    return rows


class Speech:
    """One press of Speak.

    Args:
        services: the shared services.
        values: the form's values by name (`FORM_NAMES`).
        last: the previous run of this tab, for freeze.
        say: the reader's language.
        progress: shows how far the work is.
        should_stop: asked often; True ends the run and keeps the finished sentences.
        live: gets the sound while it is made, but for a frozen rendering; None when nobody listens.
    """

    def __init__(
        self,
        services: Services,
        values: Mapping[str, Any],
        last: LastRun | None,
        say: Translator,
        progress: ProgressBar,
        should_stop: Callable[[], bool],
        live: "LiveSound | None" = None,
    ):
        self.services, self.values, self.last, self.say = services, dict(values), last, say
        self.progress, self.should_stop, self.live = progress, should_stop, live
        self.segments: list[Segment] = []
        self._announced = 0
        self.rows: list[ReferenceRow] = []

    def run(self) -> Iterator[dict[str, Any]]:
        """Updates of the page by name: after every sentence the table, at the end player, seed and status.

        Raises:
            UserError: something in the form is wrong. Finished sentences are saved and shown before any failure.
        """
        values, say = self.values, self.say
        if not (values.get("text") or "").strip():
            raise UserError("text_empty", "There is no text to speak; type at least one word.")
        self.rows = reference_rows(values)
        choice = model_choice(values)
        self._check_freeze(choice)
        if not self.services.engine.is_loaded(choice):
            self.progress(0.0, say("message.loading_model"))
        from modules.inference.voice import Voice  # here, because it imports torch: cheap mistakes are told before

        options = speak_options(values)
        synthesizer = self.services.engine.synthesizer(choice)
        self.progress(0.0, say("message.listening"))
        references = self._load_references(synthesizer)
        voice, started = Voice(tuple(references)), time.monotonic()
        shown = started
        failure: Exception | None = None
        try:
            for segment in self._segments(synthesizer, voice, options):
                if segment is None:
                    yield {"status": self._first_sound()}
                    continue
                self.segments.append(segment)
                update: dict[str, Any] = {
                    "status": say("message.sentence_done", done=len(self.segments), total=segment.total)
                }
                # A long table is drawn anew as a whole: at every sentence the browser would fall behind.
                if len(self.segments) <= TABLE_AT_ONCE or time.monotonic() - shown > TABLE_SECONDS:
                    update["table"], shown = self.table(), time.monotonic()
                yield update
        except Stopped:
            pass
        except Exception as problem:  # what is finished is shown first, then the failure is told
            failure = problem
        if self.segments:
            yield self._finished(synthesizer, references, options, time.monotonic() - started)
        elif failure is None:
            yield {"status": say("message.stopped_early")}
        if failure is not None:
            raise failure

    def table(self) -> dict[str, list]:
        """The finished sentences: number, text, seconds, how each ended."""
        ends = {
            "eos": self.say("stopped_by.eos"),
            "limit": self.say("stopped_by.limit"),
            "guard": self.say("stopped_by.guard"),
        }
        headers = [
            "#",
            self.say("speech.column_text"),
            self.say("speech.column_seconds"),
            self.say("speech.column_end"),
        ]
        data = [
            [s.index + 1, s.text, round(float(s.seconds), 2), self._retried(ends.get(s.stopped_by, s.stopped_by), s)]
            for s in self.segments
        ]
        return {"headers": headers, "data": data}

    def _retried(self, end: str, segment: "Segment") -> str:
        """How a sentence ended, and how often it was spoken again before."""
        return self.say("speech.retried", end=end, count=segment.retries) if segment.retries else end

    def _check_freeze(self, choice: ModelChoice) -> None:
        if not self.values.get("freeze"):
            return
        if self.last is None:
            raise UserError(
                "freeze_nothing", "There is nothing to render again yet; switch freeze off and speak the text once."
            )
        if self.last.text.strip() != self.values["text"].strip():
            raise UserError(
                "freeze_text_changed",
                "The text has changed since it was spoken; switch freeze off to speak the new text.",
            )
        if self.last.preset != choice.preset:
            raise UserError(
                "freeze_other_preset",
                "The last speech was made with preset {preset}; choose it again or switch freeze off.",
                preset=self.last.preset,
            )

    def _segments(
        self, synthesizer: "Synthesizer", voice: "Voice", options: "SpeakOptions"
    ) -> Iterator["Segment | None"]:
        """The sentences as they are finished; and None once, when the first sound is on its way to the listener."""
        if self.values.get("freeze") and self.last is not None:
            for segment in synthesizer.render(voice, self.last.segments, options):
                if self.should_stop():
                    return
                yield segment
            return
        run = (voice, self.values["text"], options)
        asked = {"on_progress": self._on_progress, "should_stop": self.should_stop}
        if self.live is None:
            yield from synthesizer.speak(*run, **asked)
            return
        told = False
        for chunk in synthesizer.stream(*run, **asked):
            self.live.put(chunk.wav, synthesizer.sample_rate)
            if not told:
                told = True
                yield None
            if chunk.segment is not None:
                yield chunk.segment

    def _first_sound(self) -> str:
        """How long the listener waited, in words; empty when nothing was heard while it was made."""
        seconds = None if self.live is None else self.live.first_seconds
        return "" if seconds is None else self.say("message.first_sound", seconds=f"{seconds:.1f}")

    def _on_progress(self, state: "Progress") -> None:
        # Asked at every frame; a message each would keep the browser from hearing the stop button.
        if state.sentence == self._announced:
            return
        self._announced = state.sentence
        self.progress(
            (state.sentence - 1, state.total), self.say("message.sentence", number=state.sentence, total=state.total)
        )

    def _load_references(self, synthesizer: "Synthesizer") -> list["Reference"]:
        """The references of the rows, prepared at the first press and kept for the next."""
        cache, audio = self.services.references, synthesizer.preset.audio
        return [cache.load(row.audio, row.text, row.weight, audio) for row in self.rows]

    def _finished(
        self, synthesizer: "Synthesizer", references: Sequence["Reference"], options: "SpeakOptions", elapsed: float
    ) -> dict[str, Any]:
        """Join, save and show what there is."""
        wav = synthesizer.join(self.segments, options.pause_seconds)
        seconds, total = len(wav) / synthesizer.sample_rate, self.segments[0].total
        complete = len(self.segments) == total
        choice = model_choice(self.values)
        frozen = self.last if self.values.get("freeze") else None
        seed = frozen.seed if frozen else synthesizer.used_seed
        settings = {
            "text": self.values["text"],
            "references": [
                reference_record(self.services.output, row.audio, row.text, row.weight, reference)
                for row, reference in zip(self.rows, references, strict=True)
            ],
            "options": {**dataclasses.asdict(options), "seed": seed},
            "model": {
                "folder": str(self.services.weights.models / choice.preset),
                "preset": choice.preset,
                "gpt": choice.gpt,
                "vits2": choice.vits2,
                "hashes": synthesizer.hashes,
            },
            "complete": complete,
            "frozen": frozen is not None,
            # Sound that is heard while it is made is levelled as it comes, so it differs a little from the other way.
            "streamed": self.live is not None and frozen is None,
            "seconds": round(seconds, 3),
            "rtf": round(elapsed / max(seconds, 1e-3), 4),
            "sample_rate": synthesizer.sample_rate,
            "seed": seed,
            "sentences": [segment.report() for segment in self.segments],
        }
        path = save_output(self.services.output, wav, settings)
        status = self.say(
            "message.finished" if complete else "message.kept",
            seconds=f"{seconds:.1f}",
            elapsed=f"{elapsed:.1f}",
            seed=seed,
            file=path.name,
            done=len(self.segments),
            total=total,
        )
        return {
            "player": str(path),
            "table": self.table(),
            "status": " ".join(filter(None, (status, self._first_sound()))),
            "seed": seed,
            "last_run": LastRun(self.values["text"], choice.preset, seed, tuple(self.segments)),
        }


def notes_of(references: Sequence["Reference"], say: Translator) -> list[str]:
    """What `load_reference` remarked about each reference, in the reader's language."""
    return [say(f"note.{note.code}", **note.fields) for reference in references for note in reference.notes]
