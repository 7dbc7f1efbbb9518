#!/usr/bin/env bash
# The same set-up as go-webui.sh and the test tools, then lint, format and tests.
# Flags go to pytest, and paths are relative to this folder, for example:
#   ./go-tests.sh --speech DIR      also run the tests that need real recordings
#   ./go-tests.sh tests/test_setup.py -k stamp
#   ./go-tests.sh -n 0              one test after the other, for a debugger
cd "$(dirname "$0")" || exit 1
. tools/set_up.sh
set_up --dev || exit
failed=0
.venv/bin/python -m ruff check . || failed=1
.venv/bin/python -m ruff format --check . || failed=1
.venv/bin/python -m pytest -c pyproject.toml -q -rs -n logical --maxprocesses 4 --dist loadfile "$@" || failed=1
exit $failed
