@echo off
rem Windows: the first run sets everything up in .venv, every run opens the page.
rem All flags go to the page, for example: go-webui.bat --no-browser --port 9874
setlocal
pushd "%~dp0"
set "FOUND="
call :try .venv\Scripts\python.exe
call :try py -3.13
call :try py -3.12
call :try py -3.11
call :try py -3
call :try python3
call :try python
if not defined FOUND goto no_python
%FOUND% tools\setup_environment.py
if errorlevel 1 goto failed
.venv\Scripts\python.exe webui.py %*
if errorlevel 1 goto failed
popd
exit /b 0

:no_python
echo GPT-SoVITS2 needs Python 3.11 or newer, 64-bit, and none was found.
echo Install it from python.org (tick "Add python.exe to PATH"), or run: winget install Python.Python.3.12
echo Then start this file again.

:failed
popd
rem Opened by a double click, the window would close before the message can be read.
pause
exit /b 1

rem A name may be the store's placeholder, which only prints an error: so each one is tried by running it.
:try
if defined FOUND exit /b 0
%* -c "import sys; sys.exit(sys.version_info < (3, 11))" >nul 2>&1
if not errorlevel 1 set "FOUND=%*"
exit /b 0
