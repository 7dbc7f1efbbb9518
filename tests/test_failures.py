"""Why a process failed is told by the best witness there is, in words that a person can act on."""

from pathlib import Path

import pytest

from modules.failures import Remains, error_lines, explain_failure, known_cause, log_tail

LOG = Path("log.txt")


def test_python_and_torch_words_for_a_full_memory_are_known() -> None:
    names = {"name": "train", "log": LOG}
    gpu = ("torch.OutOfMemoryError: CUDA out of memory. Tried", "MPS backend out of memory (x)")
    ram = ("MemoryError", "DefaultCPUAllocator: can't allocate memory: you", "[Errno 12] Cannot allocate memory")
    for codes, texts in (("job_gpu_memory", gpu), ("job_memory", ram)):
        for text in texts:
            known = known_cause(text, **names)
            assert known is not None and known.code == codes
    assert known_cause("ValueError: odd", **names) is None


@pytest.mark.parametrize(
    ("remains", "code", "words"),
    [
        (Remains("a", LOG), "job_vanished", "was cut off"),
        (Remains("a", LOG, -9, ["50 %"]), "job_killed", "memory ran out"),
        (Remains("a", LOG, -9, ["MemoryError"]), "job_memory", "smaller batch"),
        (Remains("a", LOG, -11), "job_failed", "SIGSEGV"),
        (Remains("a", LOG, 0xC0000005), "job_failed", "0xc0000005"),
        (Remains("a", LOG, 1, ["ValueError: odd", "bye"]), "job_failed", "ValueError: odd"),
        (Remains("a", LOG, None, [], {}, "no such program"), "job_failed", "no such program"),
        (Remains("a", LOG, 1, ["x"], {"error": "the event"}), "job_failed", "the event"),
        (Remains("a", LOG, 2, ["x"], {"error": "No {x}.", "code": "path_missing", "fields": {"path": 1}}),
         "path_missing", "No {x}."),
    ],
)  # fmt: skip
def test_the_best_witness_is_heard(remains: Remains, code: str, words: str) -> None:
    told = explain_failure(remains)
    assert told.code == code and words in str(told)


def test_a_log_is_read_from_its_end_as_a_person_saw_it(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    assert log_tail(log, 5) == []
    log.write_bytes(b"Traceback 1\n\x1b[31mred\x1b[0m\n 10 %\r 20 %\r\n\nTraceback 2\n  at\nOops: \xff\n")
    assert log_tail(log, 3) == ["Traceback 2", "  at", "Oops: \ufffd"]
    assert log_tail(log, 99)[1:3] == ["red", " 20 %"]
    assert error_lines(log, 12) == ["Traceback 2", "  at", "Oops: \ufffd"]
    assert error_lines(log, 1) == ["Oops: \ufffd"]
