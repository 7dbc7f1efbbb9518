"""Resuming with other data, beginning anew, and runs that count in epochs."""

import pytest

from modules.data.batching import LengthBuckets, Loader, pad_stack
from modules.errors import UserError
from modules.training.events import read_events
from modules.training.loop import train
from modules.training.runs import set_aside
from modules.training.schedule import epoch_ends
from tests.training.toys import CPU, Regression, Tones, make_loader, settings


def test_changed_data_are_refused_unless_said_so(tmp_path):
    polls = iter(range(100))
    train(Regression(), make_loader(), settings(), tmp_path, resume=False, device=CPU, data="a",
          should_stop=lambda: next(polls) == 7)  # fmt: skip
    with pytest.raises(UserError) as caught:
        train(Regression(), make_loader(30), settings(), tmp_path, resume=True, device=CPU, data="b")
    assert caught.value.code == "resume_data_differs" and str(tmp_path) in str(caught.value)
    result = train(
        Regression(), make_loader(30), settings(), tmp_path, resume=True, device=CPU, data="b", data_added=True
    )
    assert result.step == 20
    train(Regression(), make_loader(30), settings(), tmp_path, resume=True, device=CPU, data="b")


def test_what_is_begun_anew_keeps_the_earlier_run(tmp_path):
    folder = tmp_path / "run"
    assert set_aside(folder) is None
    for number in (1, 2):
        train(Regression(), make_loader(), settings(), folder, resume=False, device=CPU)
        assert set_aside(folder) == tmp_path / f"run-earlier{number}" and not folder.exists()
        assert (tmp_path / f"run-earlier{number}" / "checkpoint.safetensors").is_file()


def test_weights_of_what_is_begun_anew_are_kept_with_it(tmp_path):
    """Left where the page offers them, they would be taken for those of the new run."""
    offered = tmp_path / "offered"

    class Publishing(Regression):
        def save_weights(self, folder, step, epoch, *, last):
            files = super().save_weights(folder, step, epoch, last=last)
            offered.mkdir(exist_ok=True)
            (offered / f"me-e{step}.safetensors").write_bytes(files[0].read_bytes())
            return [*files, offered / f"me-e{step}.safetensors"]

    config = settings(keep_latest=False, save_every_steps=10)
    train(Publishing(), make_loader(), config, tmp_path / "run", resume=False, device=CPU)
    (offered / "you-e20.safetensors").touch()
    kept = set_aside(tmp_path / "run")
    assert [file.name for file in offered.iterdir()] == ["you-e20.safetensors"]
    assert {file.name for file in (kept / "weights").iterdir()} == {"me-e10.safetensors", "me-e20.safetensors"}
    assert (kept / "toy_s20.safetensors").is_file()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("accumulate", [1, 4])
def test_an_epoch_of_few_batches_changes_the_weights_and_saves(tmp_path, count, accumulate):
    ends = epoch_ends(lambda epoch: count, 3, accumulate)
    assert len(ends) == 3 and ends[0] >= 1 and ends[-1] == -(-3 * count // accumulate)
    data = Tones(count)
    loader = Loader(data, LengthBuckets(data.lengths, budget=1), pad_stack)  # a batch for each item
    assert len(loader) == count
    stage = Regression()
    before = {name: p.detach().clone() for name, p in stage.model.named_parameters()}
    config = settings(max_steps=ends[-1], save_at_steps=ends, accumulate=accumulate, warmup_steps=0)
    result = train(stage, loader, config, tmp_path, resume=False, device=CPU)
    assert result.step == ends[-1]
    assert all(not p.equal(before[name]) for name, p in stage.model.named_parameters())
    saved = {event["step"] for event in read_events(tmp_path) if event["kind"] == "weights"}
    assert saved == set(ends)


def test_epochs_of_differing_length_end_where_their_last_batch_is_used():
    assert epoch_ends(lambda epoch: (3, 5, 4)[epoch], 3) == (3, 8, 12)
    assert epoch_ends(lambda epoch: (3, 5, 4)[epoch], 3, 2) == (2, 4, 6)
