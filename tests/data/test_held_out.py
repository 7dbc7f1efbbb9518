"""Who is held out stays held out, and who was trained on stays in training, whatever is added."""

from pathlib import Path

from modules.data.held_out import FEWEST_CLIPS, hold_out
from modules.data.manifest import Utterance


def lines(count: int, start: int = 0) -> list[Utterance]:
    return [Utterance(f"{n}.wav", "s", "en", f"text {n}") for n in range(start, start + count)]


def held(utterances: list[Utterance]) -> set[str]:
    return {utterance.audio for utterance in utterances if utterance.split == "dev"}


def test_splits_stay_when_data_are_added_and_the_share_is_made_up(tmp_path: Path) -> None:
    memory = tmp_path / "splits.json"
    first = hold_out(lines(40), memory)
    assert len(held(first)) == 4 and held(hold_out(lines(40)[::-1], memory)) == held(first)
    more = hold_out(lines(400), memory)
    assert len(held(more)) == 20 and held(more) & {f"{n}.wav" for n in range(40)} == held(first)
    assert held(hold_out(lines(40), memory)) == held(first)
    assert held(hold_out(lines(2000), tmp_path / "other.json")) != set()
    assert len(held(hold_out(lines(5000), tmp_path / "many.json"))) == 64


def test_a_corrected_text_leaves_its_recording_where_it_was(tmp_path: Path) -> None:
    first = hold_out(lines(40), tmp_path / "splits.json")
    corrected = [Utterance(u.audio, "s", "en", u.text + "!") for u in lines(40)]
    assert held(hold_out(corrected, tmp_path / "splits.json")) == held(first)


def test_small_sets_are_trained_on_whole_and_a_list_is_taken_at_its_word(tmp_path: Path) -> None:
    assert held(hold_out(lines(FEWEST_CLIPS - 1), tmp_path / "a.json")) == set()
    own = [*lines(10), Utterance("t.wav", "s", "en", "t", split="test")]
    assert hold_out(own, tmp_path / "b.json") == own and not (tmp_path / "b.json").exists()
    (tmp_path / "c.json").write_text("[")
    assert len(held(hold_out(lines(10), tmp_path / "c.json"))) == 2
