"""Live sound: what is put in comes out, once, in order; nobody who does not read can hold up or fill the maker."""

import asyncio
import dataclasses
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from tests.webui.live_helpers import RATE, SlowEngine
from tools.webui.app import build_app, launch
from tools.webui.live import LiveSound, LiveSounds, serve_live
from tools.webui.services import Services

T = TypeVar("T")


def wav(samples: int = 1000, value: float = 0.5) -> np.ndarray:
    return np.full(samples, value, np.float32)


def run(work: Coroutine[Any, Any, T]) -> T:
    """What the coroutine gives, from a thread of its own: in this one a browser's loop may be running."""
    with ThreadPoolExecutor(1) as apart:
        return apart.submit(asyncio.run, asyncio.wait_for(work, 30)).result()


def read_all(sound: LiveSound) -> bytes:
    async def collect() -> bytes:
        return b"".join([part async for part in sound.read()])

    return run(collect())


def samples_of(data: bytes) -> np.ndarray:
    return np.frombuffer(data[4:], "<i2")


def test_what_is_put_in_comes_out_after_its_rate() -> None:
    sound = LiveSound()
    for value in (0.5, -2.0, 2.0):
        sound.put(wav(10, value), 24000)
    sound.end()
    sound.put(wav(10), 24000)
    data = read_all(sound)
    assert struct.unpack("<I", data[:4]) == (24000,)
    assert samples_of(data).tolist() == [16384] * 10 + [-32767] * 10 + [32767] * 10
    assert sound.held_bytes == 0 and sound.first_seconds is not None


def test_a_reader_waits_for_what_is_still_being_made() -> None:
    sound = LiveSound()

    def make() -> None:
        for _ in range(5):
            time.sleep(0.02)
            sound.put(wav(100), RATE)
        sound.end()

    maker = threading.Thread(target=make)
    maker.start()
    data = read_all(sound)
    maker.join()
    assert len(samples_of(data)) == 500


def test_a_sound_that_nobody_reads_is_bounded_and_never_waits() -> None:
    sound = LiveSound(most_bytes=5000)
    for _ in range(100):
        sound.put(wav(1000), RATE)
    assert sound.held_bytes <= 5000
    assert len(samples_of(read_all(sound))) == 2000  # what came before is still whole


def test_a_reader_that_goes_away_frees_the_maker() -> None:
    sound = LiveSound()
    sound.put(wav(), RATE)

    async def read_a_bit() -> None:
        reader = sound.read()
        await anext(reader)
        await reader.aclose()

    run(read_a_bit())
    sound.put(wav(), RATE)
    assert sound.held_bytes == 0


def test_a_closing_server_ends_the_waiting_reader() -> None:
    async def read() -> list[bytes]:
        return [part async for part in LiveSound().read(closing=lambda: True)]

    assert run(read()) == []


def test_each_token_is_good_once_and_for_its_own_sound() -> None:
    sounds = LiveSounds()
    mine, other = sounds.open("mine"), sounds.open("other")
    assert mine != other and len(mine) >= 32
    taken = sounds.take("mine")
    assert taken is not None and sounds.take("mine") is None and sounds.take("nobody") is None
    assert sounds.claim(mine) is taken
    assert sounds.claim(mine) is None and sounds.claim("wrong") is None


def test_a_late_reader_hears_all_of_a_short_sound_but_not_for_ever() -> None:
    sounds = LiveSounds(unread_seconds=0.05)
    token = sounds.open("mine")
    sound = sounds.take("mine")
    sound.put(wav(10), RATE)
    sound.end()
    forgotten = sounds.open("mine")
    assert len(samples_of(read_all(sounds.claim(token)))) == 10
    sounds.close("mine")
    time.sleep(0.06)
    sounds.open("other")
    assert sounds.claim(forgotten) is None


def test_runs_that_never_began_do_not_pile_up() -> None:
    sounds = LiveSounds(most_sounds=3)
    tokens = [sounds.open(f"tab {number}") for number in range(10)]
    assert [sounds.claim(token) is not None for token in tokens] == [False] * 7 + [True] * 3
    assert sounds.take("tab 0") is None


def test_an_earlier_sound_of_the_tab_is_ended() -> None:
    sounds = LiveSounds()
    first = sounds.claim(sounds.open("mine"))
    sounds.open("mine")
    assert read_all(first) == b""


def test_without_a_guard_nothing_is_served() -> None:
    with pytest.raises(LookupError):
        serve_live(FastAPI(), LiveSounds())


@pytest.fixture
def slow_services(services_in: Callable[..., Services], tmp_path: Path) -> Services:
    return dataclasses.replace(services_in(tmp_path), engine=SlowEngine())


@pytest.fixture
def guarded_address(slow_services: Services) -> Iterator[str]:
    """The page with a login."""
    app = build_app(slow_services)
    try:
        yield launch(app, slow_services, port=None, auth=("user", "secret"))
    finally:
        app.close()
        slow_services.jobs.close()


def link(address: str, token: str) -> str:
    return f"{address.rstrip('/')}/gpt-sovits2/stream/{token}"


def test_the_route_gives_a_sound_once(
    served: Callable[..., AbstractContextManager[str]], slow_services: Services
) -> None:
    with served(slow_services) as address:
        token = slow_services.live.open("mine")
        sound = slow_services.live.take("mine")
        sound.put(wav(10), RATE)
        sound.end()
        answer = httpx.get(link(address, token))
        assert answer.status_code == 200 and len(samples_of(answer.content)) == 10
        assert "no-store" in answer.headers["cache-control"] and "content-encoding" not in answer.headers
        assert httpx.get(link(address, token)).status_code == 404
        assert httpx.get(link(address, "wrong")).status_code == 404


def test_a_listener_who_leaves_is_noticed(
    served: Callable[..., AbstractContextManager[str]], slow_services: Services
) -> None:
    with served(slow_services) as address:
        token = slow_services.live.open("mine")
        sound = slow_services.live.take("mine")
        sound.put(wav(10), RATE)
        with httpx.stream("GET", link(address, token)) as answer:
            assert next(answer.iter_raw())
        until = time.monotonic() + 30
        while sound.ended_at is None and time.monotonic() < until:
            time.sleep(0.05)
        sound.put(wav(10), RATE)
        assert sound.held_bytes == 0


def test_only_who_has_logged_in_may_listen(guarded_address: str, slow_services: Services) -> None:
    token = slow_services.live.open("mine")
    slow_services.live.close("mine")
    with httpx.Client() as visitor:
        assert visitor.get(link(guarded_address, token)).status_code == 401
        visitor.post(f"{guarded_address}login", data={"username": "user", "password": "secret"})
        assert visitor.get(link(guarded_address, token)).status_code == 200
