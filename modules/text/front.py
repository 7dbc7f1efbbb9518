"""What a system's text is: ids of a tokenizer and, where its preset has them, features of a frozen encoder.

Shapes: U text units, D feature width.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

CACHE_BYTES = 256 << 20
"""About 2,000 sentences of 30 units of BGE-M3."""


class Tokenizer(Protocol):
    """Text to ids."""

    @property
    def size(self) -> int: ...
    def encode(self, text: str) -> list[int]: ...


class TextEncoder(Protocol):
    """Ids to states in context."""

    dim: int

    def states(self, ids: Sequence[Sequence[int]]) -> list[np.ndarray]: ...


class TextFrontEnd:
    """Text to ids and features.

    Args:
        tokenizer: gives the ids.
        size: number of ids that tables have; at least the tokenizer's.
        encoder: gives the features, None for none.
        identity: tells what made them, computed when it is first asked for.
        cache_bytes: features kept of the sentences that were asked for last.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        size: int,
        encoder: TextEncoder | None,
        identity: Callable[[], str],
        cache_bytes: int = CACHE_BYTES,
    ):
        self.tokenizer, self.size, self.encoder = tokenizer, size, encoder
        self._identity, self._known_identity = identity, ""
        self._cache = SentenceCache(cache_bytes)

    @property
    def has_features(self) -> bool:
        """Whether there is an encoder."""
        return self.encoder is not None

    @property
    def feature_dim(self) -> int:
        """Width of the features; 0 without an encoder."""
        return self.encoder.dim if self.encoder else 0

    @property
    def identity(self) -> str:
        """Changes when the tokenizer, the encoder or its precision does."""
        self._known_identity = self._known_identity or self._identity()
        return self._known_identity

    def encode(self, text: str) -> list[int]:
        """Ids of a text, all below `size`."""
        return self.tokenizer.encode(text)

    def features(self, texts: Sequence[str]) -> list[np.ndarray] | None:
        """float32 [U, D] for each text, one row for each of its ids; None without an encoder.

        Sentences that were asked for before are remembered; the others go through the encoder together.
        """
        if self.encoder is None:
            return None
        found = {text: self._cache.get(text) for text in dict.fromkeys(texts)}
        if missing := [text for text, states in found.items() if states is None]:
            for text, states in zip(missing, self.encoder.states([self.encode(t) for t in missing]), strict=True):
                found[text] = states
                self._cache.put(text, states)
        # Copies: who changes what it got must not change what the next one gets.
        return [found[text].copy() for text in texts]


class SentenceCache:
    """The sentences that were used last, up to a number of bytes; several threads may ask."""

    def __init__(self, max_bytes: int):
        self.max_bytes, self.bytes = max_bytes, 0
        self._states: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._states)

    def get(self, text: str) -> np.ndarray | None:
        """The features of a text, None when they are not kept."""
        with self._lock:
            if text in self._states:
                self._states.move_to_end(text)
            return self._states.get(text)

    def put(self, text: str, states: np.ndarray) -> None:
        """Keep the features of a text; what was used longest ago gives way, and what is too large is not kept."""
        with self._lock:
            if text in self._states or states.nbytes > self.max_bytes:
                return
            self._states[text] = states
            self.bytes += states.nbytes
            while self.bytes > self.max_bytes:
                self.bytes -= self._states.popitem(last=False)[1].nbytes
