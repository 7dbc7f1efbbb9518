"""The page driven as an API, the way gradio_client does it."""

from pathlib import Path
from typing import Any

import pytest
import soundfile
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from tools.webui.services import Services


@pytest.fixture(scope="module")
def client(address: str) -> Client:
    return Client(address, verbose=False)


def arguments(example: Path, text: str = "A short line.", **others: Any) -> dict[str, Any]:
    empty = {f"reference_{i}_audio": None for i in range(2, 5)}
    return {"text": text, "reference_1_audio": handle_file(example), **empty, "api_name": "/speak", **others}


def test_only_speak_is_public_and_its_arguments_have_names(client: Client) -> None:
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert list(endpoints) == ["/speak"]
    names = [parameter["parameter_name"] for parameter in endpoints["/speak"]["parameters"]]
    assert {"text", "reference_1_audio", "reference_4_weight", "speed", "seed", "cut", "preset"} <= set(names)
    assert "language" not in " ".join(names)


def test_a_call_speaks(client: Client, example: Path) -> None:
    player, table, status, seed = client.predict(**arguments(example, seed=11, random_seed=False))
    assert soundfile.info(player).duration > 0
    assert seed == 11
    assert len(table["value"]["data"] if "value" in table else table["data"]) == 1
    assert "seed 11" in status


def test_calls_wait_for_each_other_and_do_not_mix(client: Client, example: Path, services: Services) -> None:
    other = services.examples / "emil.wav"
    jobs = [client.submit(**arguments(audio, seed=1, random_seed=False)) for audio in (example, other, example)]
    first, second, third = (Path(job.result(timeout=120)[0]).read_bytes() for job in jobs)
    assert first == third
    assert first != second


def test_a_mistake_is_told_as_one_sentence(client: Client, example: Path, tmp_path: Path) -> None:
    fake = tmp_path / "words.wav"
    fake.write_text("only words", encoding="utf-8")
    with pytest.raises(AppError, match=r"words\.wav cannot be read as audio"):
        client.predict(**arguments(fake))
    with pytest.raises(AppError, match="no text to speak"):
        client.predict(**arguments(example, text=""))
