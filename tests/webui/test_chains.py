"""What a chain of steps promises: it goes on, waits, ends as a whole, and holds up no other."""

from pathlib import Path

import pytest

from tests.webui.dataset_helpers import ENGLISH, finish, jobs_in, refused
from tools.jobs import Job, JobStore
from tools.webui import chains as chains_module
from tools.webui.chains import Chain, Chains
from tools.webui.jobs_view import jobs_view
from tools.webui.steps import SLICE, TRANSCRIBE, Work


@pytest.fixture
def jobs(tmp_path: Path) -> JobStore:
    return jobs_in(tmp_path)


@pytest.fixture
def chains(jobs: JobStore, tmp_path: Path) -> Chains:
    return Chains(tmp_path / "chains", jobs)


def works(*outputs: str) -> list[Work]:
    """Slicing, then transcribing, into these folders."""
    return [
        Work(step, Path("/in"), Path(output), ("--input=/in", f"--output={output}"))
        for step, output in zip((SLICE, TRANSCRIBE), outputs)
    ]


def foreign(jobs: JobStore, work: Work, *arguments: str) -> Job:
    """A job of somebody else at the place of a step."""
    return jobs.start("theirs", work.step.module, arguments, work.work_key)


def now(chains: Chains, chain: Chain) -> Chain:
    chains.advance()
    found = chains.find(chain.id)
    assert found is not None
    return found


def test_a_chain_waits_for_another_job_at_its_place_and_adopts_only_its_own(jobs: JobStore, chains: Chains) -> None:
    steps = works("/o1", "/o2")
    chain = chains.start(steps)
    other = foreign(jobs, steps[1], "--input=/other", "--output=/o2")
    finish(jobs.job(chain.links[0].job))
    waiting = now(chains, chain)
    assert waiting.links[1].job == "" and waiting.ended == ""
    finish(other)
    started = now(chains, chain).links[1].job
    assert started not in ("", other.id) and "--input=/in" in jobs.job(started).config().argv

    chain = chains.start(works("/o3", "/o4"))
    own = foreign(jobs, works("", "/o4")[1], "--input=/in", "--output=/o4")
    finish(jobs.job(chain.links[0].job))
    assert now(chains, chain).links[1].job == own.id, "the app ended before it noted the job down"


def test_a_chain_is_refused_while_any_of_its_places_is_taken(jobs: JobStore, chains: Chains) -> None:
    busy = foreign(jobs, works("", "/o2")[1])
    assert refused(lambda: chains.start(works("/o1", "/o2"))) == "job_twice"
    finish(busy)
    chains.start(works("/o1", "/o2"))
    assert refused(lambda: chains.start(works("/o3", "/o2"))) == "chain_twice"
    assert len(chains.all()) == 1 and len(jobs.jobs()) == 2


def test_a_chain_goes_on_after_a_finished_job_of_it_was_removed(jobs: JobStore, chains: Chains) -> None:
    chain = chains.start(works("/o1", "/o2"))
    finish(jobs.job(chain.links[0].job))
    chain = now(chains, chain)
    jobs.remove(jobs.job(chain.links[0].job))
    assert now(chains, chain).ended == ""
    finish(jobs.job(chain.links[1].job))
    assert now(chains, chain).ended == "done"


def test_stop_ends_the_whole_chain_even_between_two_steps(jobs: JobStore, chains: Chains) -> None:
    chain = chains.start(works("/o1", "/o2"))
    first = jobs.job(chain.links[0].job)
    assert jobs_view(jobs, chains, first.id, ENGLISH).can_stop
    finish(first)
    assert jobs_view(jobs, chains, first.id, ENGLISH).can_stop
    assert chains.stop(first.id) and now(chains, chain).ended == "stopped" and len(jobs.jobs()) == 1
    assert not jobs_view(jobs, chains, first.id, ENGLISH).can_stop and not chains.stop(first.id)

    chain = chains.start(works("/o1", "/o2"))
    second = jobs.job(chain.links[0].job)
    assert chains.stop(second.id) and second.state() == "stopped" and now(chains, chain).ended == "stopped"


def test_a_chain_that_cannot_start_its_step_holds_up_no_other_and_ends_with_the_reason(
    jobs: JobStore, chains: Chains, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = chains.start(works("/o1", "/o2")), chains.start(works("/o3", "/o4"))
    for chain in (good, bad):
        finish(jobs.job(chain.links[0].job))
    start = jobs.start

    def refusing(name: str, module: str, arguments: tuple[str, ...], *others: str) -> Job:
        if "--output=/o4" in arguments:
            raise OSError("argument <too> long")
        return start(name, module, arguments, *others)

    monkeypatch.setattr(jobs, "start", refusing)
    chains.advance()
    assert now(chains, good).links[1].job and now(chains, bad).ended == "", "it may be over soon"
    monkeypatch.setattr(chains_module, "LASTING_SECONDS", 0.0)
    assert now(chains, bad).ended == "failed" and now(chains, good).ended == ""
    view = jobs_view(jobs, chains, bad.links[0].job, ENGLISH)
    assert "argument &lt;too&gt; long" in view.details and "argument &lt;too&gt; long" in view.overview
