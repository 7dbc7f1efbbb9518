"""The flags of webui.py and what happens before the page exists."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

import webui
from modules.paths import PROJECT_ROOT


def test_the_page_is_private_by_default() -> None:
    options = webui.parse_arguments([])
    assert (options.listen, options.port, options.password) == ("127.0.0.1", 9874, None)


def test_others_may_come_in_only_with_a_password(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        webui.parse_arguments(["--listen", "0.0.0.0"])
    assert "--password" in capsys.readouterr().err
    assert webui.parse_arguments(["--listen", "0.0.0.0", "--password", "x"]).password == "x"
    assert webui.parse_arguments(["--listen", "localhost"]).password is None


@pytest.mark.parametrize("flags", [["--port", "0"], ["--port", "70000"], ["--language", "xx"], ["--device", "tpu"]])
def test_wrong_flags_are_refused(flags: list[str]) -> None:
    with pytest.raises(SystemExit):
        webui.parse_arguments(flags)


def test_a_busy_port_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not webui.port_is_free("127.0.0.1", port)
        assert webui.main(["--port", str(port), "--no-browser"]) == 1
    assert f"Port {port}" in capsys.readouterr().err
    assert webui.port_is_free("127.0.0.1", port)


def test_the_page_is_built_without_the_heavy_libraries() -> None:
    """Torch and transformers take seconds to import; the page must answer before that."""
    script = (
        "import sys; from tools.webui.app import build_app; from tools.webui.services import make_services;"
        "build_app(make_services()); heavy = {'torch', 'transformers', 'matplotlib'} & set(sys.modules); print(heavy);"
        "sys.exit(bool(heavy))"
    )
    subprocess.run([sys.executable, "-c", script], cwd=PROJECT_ROOT, check=True, timeout=120)


def test_failures_are_written_to_the_log(tmp_path: Path) -> None:
    import logging

    path = tmp_path / "deep" / "webui.log"
    before = list(logging.getLogger().handlers)
    webui.write_log(path)
    logging.getLogger("page").error("something broke")
    for handler in set(logging.getLogger().handlers) - set(before):
        logging.getLogger().removeHandler(handler)
        handler.close()
    assert "something broke" in path.read_text(encoding="utf-8")
