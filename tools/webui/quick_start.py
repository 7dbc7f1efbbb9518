"""What makes the page answer sooner. Import this before gradio; it changes nothing that the page does."""

import gc
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import FunctionType, ModuleType
from typing import Any

STUBS_MODULE, STUBS_FUNCTION = "gradio.component_meta", "create_or_modify_pyi"


@contextmanager
def quick_start() -> Iterator[None]:
    """While gradio is imported and the page is built: no search for garbage, no stubs for editors, and what a function
    takes is found out once.

    Nearly all of what is made then stays for good, so searching it again and again finds nothing, and costs a third
    of the start. What is there at the end is not searched later, either. Gradio asks four times for each of the
    seven hundred components of the page what its class takes.
    """
    hook, signature = _WithoutStubs(), inspect.signature
    sys.meta_path.insert(0, hook)
    inspect.signature = _asked_once(signature)
    gc.disable()
    try:
        yield
    finally:
        sys.meta_path.remove(hook)
        inspect.signature = signature
        gc.freeze()
        gc.enable()


@contextmanager
def without_application() -> Iterator[None]:
    """While a page is built: Gradio makes its web application when the page begins, when it gets a queue, when it is
    complete and when it is launched, and only the last one ever answers anybody."""
    from gradio.routes import App

    make = inspect.getattr_static(App, "create_app")
    App.create_app = staticmethod(lambda *_, **__: None)
    try:
        yield
    finally:
        App.create_app = make


def _asked_once(signature: Callable[..., inspect.Signature]) -> Callable[..., inspect.Signature]:
    """`inspect.signature` with a memory for plain functions, whose answers never change; those of others may."""
    known: dict[FunctionType, inspect.Signature] = {}

    def ask(function: Any, **named: Any) -> inspect.Signature:
        if named or type(function) is not FunctionType:
            return signature(function, **named)
        if function not in known:
            known[function] = signature(function)
        return known[function]

    return ask


class _WithoutStubs:
    """Gradio writes a `.pyi` file for editors for each of its sixty components whenever it is imported, by parsing its
    own source twice: a third of its import. Where it does so no more, this has no effect."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != STUBS_MODULE:
            return None
        sys.meta_path.remove(self)  # else it would find itself
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_without(module: ModuleType) -> None:
                execute(module)
                if hasattr(module, STUBS_FUNCTION):
                    setattr(module, STUBS_FUNCTION, lambda *_: None)

            spec.loader.exec_module = execute_without  # of this module's own loader
        return spec
