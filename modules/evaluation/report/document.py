"""The JSON of a judgement: every key is always there; what was not measured is null, with the reason beside it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.checkpoint import write_atomic
from modules.evaluation.ears.hearing import SHOWN
from modules.evaluation.failures.calibration import EITHER
from modules.evaluation.failures.rules import HEARD_KINDS, KINDS
from modules.evaluation.judging import Judge
from modules.evaluation.results import plain

SCHEMA = 1
BEST_GROUPS = {"languages": ("synthetic", "given", "real"), "voices": ("real", "given", "synthetic")}
"""Where a figure is taken from: the first group that has it. Sentences are judged in voices that are easy, voices on
people."""
_PART_OF_KEY = {
    "f0_correlation": "sound", "f0_correlation_female": "sound", "f0_correlation_male": "sound",
    "band_difference_db": "sound", "similarity": "voices", "similarity_same": "voices",
    "similarity_different": "voices", "similarity_one_output": "voices",
    "identified": "voices", "identified_of": "voices", "token_ratio": "drift",
    "token_drift_by_length": "drift", "token_drift_by_place": "drift", "copy_distance": "copies",
    "copy_distance_posterior": "copies", "real_time_factor": "failures", "plausible_rate": "plausible",
    "switching_rate": "switching", "melody_rate": "melody", "melody_contrast_rate": "melody", "leak_rate": "leak",
    "leak_chance": "leak", "similarity_lost_telephone": "robust_references",
    "similarity_lost_noise": "robust_references", "failures_not_heard": "failures",
    **{f"{kind}_rate": "failures" for kind in (*KINDS, EITHER)},
}  # fmt: skip
KEYS = tuple(_PART_OF_KEY)
USELESS_WORD_FLOOR = 0.5
"""An ear that gets more of the words of source audio wrong tells nothing about outputs."""
_NO_LANGUAGE = {
    **dict.fromkeys(("error", "low", "high", "floor")), "count": 0, "error_toneless": None, "floor_toneless": None,
    "shown": False, "group": None, "error_by_group": {}, "reason": None,
    **dict.fromkeys(("word_error", "word_error_raw", "word_floor", "character_error", "character_floor")),
    **dict.fromkeys(("chosen_right", "words_by", "words_reason")),
}  # fmt: skip
"""What is told of a language of which nothing was heard; every language has these keys."""
LANGUAGE_KEYS = tuple(_NO_LANGUAGE)


class Document:
    """Collects figures; a figure that is None needs a reason."""

    def __init__(self, reasons: Mapping[str, str]):
        self.reasons = reasons
        self.figures: dict[str, Any] = {}
        self.intervals: dict[str, list[float]] = {}
        self.counts: dict[str, Any] = {}
        self.floors: dict[str, Any] = {}
        self.not_measured: dict[str, str] = {}

    def put(self, key: str, value: Any, reason: str = "", found: Mapping[str, Any] | None = None) -> None:
        """Set a figure; `found` may hold low, high, count, of and floor."""
        self.figures[key] = value
        if value is None:
            part = _PART_OF_KEY.get(key, key)
            self.not_measured[key] = reason or self.reasons.get(part) or f"the part {part} found nothing to measure"
            return
        found = found or {}
        if found.get("low") is not None:
            self.intervals[key] = [found["low"], found["high"]]
        if found.get("count") is not None:
            self.counts[key] = [found["count"], found["of"]] if "of" in found else found["count"]
        if found.get("floor") is not None:
            self.floors[key] = found["floor"]


def build(judge: Judge, findings: Mapping[str, dict[str, Any]], reasons: Mapping[str, str]) -> dict[str, Any]:
    """The document from the values of parts by name, and why other parts have none."""
    document = Document(reasons)
    findings = {part: plain(values) for part, values in findings.items()}
    languages = _languages(judge, findings.get("intelligibility"), document)
    _failures(findings.get("failures"), document)
    _voices(findings, document)
    _sets(findings, document)
    for key in KEYS:
        if key not in document.figures:
            document.put(key, None)
    return {
        "schema": SCHEMA,
        "model": model_files(judge),
        "judge": _judge(judge),
        "settings": _settings(judge),
        "languages": languages,
        **document.figures,
        "intervals": document.intervals,
        "counts": document.counts,
        "floors": document.floors,
        "without_guards": _without_guards(judge, findings.get("failures")),
        "not_measured": document.not_measured,
        "refused": list(judge.refused.values()),
    }


def write_document(path: Path, document: dict[str, Any]) -> Path:
    """Write it whole."""
    text = json.dumps(plain(document), ensure_ascii=False, indent=1)
    return write_atomic(Path(path), (text + "\n").encode("utf-8"))


def model_files(judge: Judge) -> dict[str, Any]:
    """What was judged: stage, step and hash of each weight file that was used."""
    return {"folder": judge.options.models.name, "files": judge.weight_files}


def _judge(judge: Judge) -> dict[str, Any]:
    ear = judge.ear
    if ear.recognizer is None:
        return {"recognizer": None, "calibrated": False, "reason": ear.reason}
    return {"recognizer": ear.identity, "calibrated": ear.calibration is not None}


def _settings(judge: Judge) -> dict[str, Any]:
    options = judge.options
    outputs = {group: count for group in judge.requests if (count := judge.spoken_count(group))}
    return {"seed": options.seed, "count": options.count, "guards": options.guards or "default", "outputs": outputs}


def _languages(judge: Judge, found: dict[str, Any] | None, document: Document) -> dict[str, Any]:
    if found is None:
        reason = document.reasons.get("intelligibility", "")
        return {language: {**_NO_LANGUAGE, "reason": reason, "words_reason": reason} for language in judge.languages}
    languages = {}
    for language in judge.languages:
        groups = [group for group in BEST_GROUPS["languages"] if language in found.get(group, {})]
        entry = next((found[g][language] for g in groups if found[g][language].get("output")), None)
        if entry is None:
            reason = found[groups[0]][language]["reason"] if groups else "there was no time to speak it"
            told = {"reason": reason}
        else:
            group = next(g for g in groups if found[g][language] is entry)
            heard = {g: found[g][language] for g in groups if found[g][language].get("output")}
            told = {**_heard(group, entry), "error_by_group": {g: _error_of(one) for g, one in heard.items()}}
        languages[language] = {**_NO_LANGUAGE, **told, **_words(language, found)}
    return languages


def _error_of(entry: dict[str, Any]) -> dict[str, Any]:
    output, floor = entry["output"], entry.get("floor")
    return {
        "error": output["rate"],
        "low": output["low"],
        "high": output["high"],
        "count": output["items"],
        "error_toneless": entry["plain"]["rate"],
        "floor": floor["rate"] if floor else None,
    }


def _heard(group: str, entry: dict[str, Any]) -> dict[str, Any]:
    floor, plain_floor = entry.get("floor"), entry.get("plain_floor")
    shown = floor is not None and floor["rate"] <= SHOWN
    reason = None if shown else "the floor is unknown" if floor is None else "the floor is above 10 %"
    return {
        **_error_of(entry),
        "shown": shown,
        "group": group,
        "floor_toneless": plain_floor["rate"] if plain_floor else None,
        "reason": reason,
    }


def _words(language: str, found: dict[str, Any]) -> dict[str, Any]:
    """Whisper's words where it heard the language, else pocketsphinx's of English."""
    if whisper := found["whisper"].get(language):
        names = {"character_error": "characters", "character_floor": "floor"}
        told = {key: whisper[name]["rate"] if name in whisper else None for key, name in names.items()}
        told["words_by"] = "whisper"
        if "words" not in whisper:
            return {**told, "words_reason": "the language is written without spaces; characters are counted instead"}
        return told | _word_error(whisper["words"], whisper.get("word_floor"))
    english = found["english"] if language == "en" else {}
    spoken = next((english[name] for name in english if name.endswith("voices")), None)
    if spoken:
        told = {"chosen_right": spoken["chosen_right"], "words_by": "pocketsphinx"}
        return told | _word_error(spoken["word_error"], english.get("source audio", {}).get("word_error"))
    reason = found["whisper"].get("reason", "") or found["english"].get("reason", "")
    return {"words_reason": reason or "no ear for words knows this language"}


def _word_error(output: dict[str, Any], source: dict[str, Any] | None) -> dict[str, Any]:
    """The word error only where its floor lets it tell something; as it was counted in any case."""
    reason = None
    if source is None:
        reason = "the floor is unknown: these sentences have no source audio"
    elif source["rate"] > USELESS_WORD_FLOOR:
        reason = f"the ear gets {source['rate']:.0%} of the words of source audio wrong"
    return {
        "word_error": None if reason else output["rate"],
        "word_error_raw": output["rate"],
        "word_floor": source["rate"] if source else None,
        "words_reason": reason,
    }


def _failures(found: dict[str, Any] | None, document: Document) -> None:
    if found is None:
        return
    first = next(iter(found.values()))
    document.figures["failures_not_heard"] = sum(item["lost"] is None for item in first["items"])
    for kind in (*KINDS, EITHER):
        why = ""
        if kind in (*HEARD_KINDS, EITHER) and found["deaf"]:
            why = next(iter(found["deaf"].values()))
        document.put(f"{kind}_rate", first[kind]["rate"], why, first[kind])
    document.put("real_time_factor", first["real_time_factor"])


def _without_guards(judge: Judge, found: dict[str, Any] | None) -> dict[str, Any] | None:
    if found is None or judge.options.guards != "both":
        return None
    rates = {f"{kind}_rate": found["off"][kind] for kind in (*KINDS, EITHER)}
    return {
        **{key: share["rate"] for key, share in rates.items()},
        "intervals": {key: [share["low"], share["high"]] for key, share in rates.items() if share["of"]},
        "counts": {key: [share["count"], share["of"]] for key, share in rates.items() if share["of"]},
    }


def _voices(findings: Mapping[str, dict[str, Any]], document: Document) -> None:
    for part, put in (("sound", _put_sound), ("voices", _put_voices)):
        found = findings.get(part)
        group = next((g for g in BEST_GROUPS["voices"] if found and found.get(g)), None)
        if group:
            put(found[group], document)


def _put_sound(found: dict[str, Any], document: Document) -> None:
    few = "fewer than three voices"
    for key, name in (("", "all"), ("_female", "female"), ("_male", "male")):
        pitch = found["pitch"].get(name)
        reason = few if pitch else f"the references do not tell who is {name}"
        document.put(f"f0_correlation{key}", pitch and pitch["correlation"], reason, _ends(pitch))
    bands = [
        {"mean": mean, "low": ends[0], "high": ends[1], "count": count}
        for mean, ends, count in zip(
            found["band_difference_db"], found["band_intervals_db"], found["band_outputs"], strict=True
        )
        if mean is not None
    ]
    largest = max(bands, key=lambda band: abs(band["mean"]), default={})
    document.put("band_difference_db", largest.get("mean"), "no band that the references hold", largest)


def _ends(found: dict[str, Any] | None, prefix: str = "", count: str = "speakers") -> dict[str, Any]:
    """The interval of a figure over voices, and how many they are."""
    return {"low": found[f"{prefix}low"], "high": found[f"{prefix}high"], "count": found[count]} if found else {}


def _put_voices(found: dict[str, Any], document: Document) -> None:
    outputs, recordings = found.get("outputs"), found.get("recordings")
    # Like with like: one clip against other clips of the voice, of outputs as of recordings.
    one = found.get("one output")
    document.put("similarity", outputs and outputs["same"], "", _ends(outputs, count="compared"))
    document.put("similarity_one_output", one and one["same"], "", _ends(one, count="compared"))
    alone = "every voice has one clip alone, so that there is no other to compare it with"
    same = recordings["same"] if recordings and found["alone"] < len(found["speakers"]) else None
    document.put("similarity_same", same, alone, _ends(recordings, count="compared"))
    different = recordings and recordings["different"]
    document.put("similarity_different", different, "fewer than two voices", _ends(recordings, "different_"))
    enough = outputs and outputs["line_up"] >= 2
    identified = outputs["identified"] if enough else None
    document.put("identified", identified, "fewer than two voices", _ends(outputs, "identified_", "compared"))
    document.put("identified_of", outputs["line_up"] if enough else None, "fewer than two voices")


def _sets(findings: Mapping[str, dict[str, Any]], document: Document) -> None:
    def put(part: str, key: str, *path: str, value: str = "rate") -> None:
        found: Any = findings.get(part)
        if found is None:
            return
        reason = found.get("reason", "")
        for step in path:
            found = found.get(step) if found else None
        reason = reason or (found or {}).get("reason", "")
        document.put(key, found.get(value) if found else None, reason, found)

    put("drift", "token_ratio", "ratio", value="mean")
    put("drift", "token_drift_by_length", "by_length", value="mean")
    put("drift", "token_drift_by_place", "by_place", value="mean")
    put("copies", "copy_distance", "from tokens", value="mean")
    put("copies", "copy_distance_posterior", "from the posterior", value="mean")
    put("plausible", "plausible_rate", "all")
    put("switching", "switching_rate", "both")
    put("melody", "melody_rate", "right")
    put("melody", "melody_contrast_rate", "contrast")
    put("leak", "leak_rate", "leaked")
    put("leak", "leak_chance", "chance")
    for version in ("telephone", "noise"):
        put("robust_references", f"similarity_lost_{version}", version, "lost", value="mean")
