"""Components of a page by name.

A callback receives keyword arguments with these names and answers with a dict of names, so no value is ever
read or written by its position.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from gradio.components import Component

C = TypeVar("C", bound=Component)


class Form:
    """The named components of one tab."""

    def __init__(self) -> None:
        self._components: dict[str, Component] = {}

    def add(self, name: str, component: C) -> C:
        """Remember a component under a name that is used once; returns the component."""
        if name in self._components:
            raise ValueError(f"the form has a component named {name} already")
        self._components[name] = component
        return component

    def __getitem__(self, name: str) -> Component:
        return self._components[name]

    def __contains__(self, name: object) -> bool:
        return name in self._components

    def only(self, names: Iterable[str]) -> dict[str, Component]:
        """The components of these names, ready for `inputs_kwargs`."""
        return {name: self._components[name] for name in names}

    def updates(self, values: Mapping[str, Any]) -> dict[Component, Any]:
        """New values by name as the dict by component that Gradio expects from a callback."""
        return {self._components[name]: value for name, value in values.items()}
