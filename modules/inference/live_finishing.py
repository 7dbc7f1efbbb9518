"""`finishing` for sound that leaves before its end is known: edges trimmed, level raised, peaks held, no clicks.

The level cannot follow the loudness of the whole sentence. Decoders learn from sound of one loudness and keep near it,
so a fixed gain takes its place, and a curve without memory bends what would pass the ceiling.

Shapes: S samples.
"""

import numpy as np

from modules.inference.finishing import CEILING_DB, FADE_SECONDS, LEAD_SECONDS, LOUDNESS_LUFS, TAIL_SECONDS

QUIET_DB = -50.0
"""Below this level a frame at the edge of a sentence counts as silence; speech of the usual loudness peaks 35 dB above
it."""
_FRAME_SECONDS = 0.01
_KNEE = 0.6


class LiveFinisher:
    """Finishes one sentence piece by piece.

    Args:
        sample_rate: Hz.
        learned_lufs: loudness of the sound that the decoder learned from.
    """

    def __init__(self, sample_rate: int, learned_lufs: float):
        self._gain = 10 ** ((LOUDNESS_LUFS - learned_lufs) / 20)
        self._frame = max(1, int(_FRAME_SECONDS * sample_rate))
        self._lead, self._tail = int(LEAD_SECONDS * sample_rate), int(TAIL_SECONDS * sample_rate)
        self._fade = int(FADE_SECONDS * sample_rate)
        self._held = np.zeros(0, np.float32)
        self._looked = 0
        self._loud_end = 0
        self._begun = False

    def push(self, raw: np.ndarray, final: bool = False) -> np.ndarray:
        """The next raw samples float32 [S] -> what may leave now, float32 [S'].

        What may be the silence at the end is held back until something follows it.
        """
        sound = np.nan_to_num(raw.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0) * self._gain
        self._held = np.concatenate([self._held, bend(sound)])
        self._look()
        if not self._begun:
            if not final:
                return np.zeros(0, np.float32)
            self._loud_end = len(self._held)  # nothing but silence: better that than nothing at all
        end = min(len(self._held), self._loud_end + self._tail)
        if not final:
            end = max(0, min(end - self._fade, self._looked))
        out, self._held = self._held[:end].copy(), self._held[end:]
        self._looked, self._loud_end = self._looked - end, self._loud_end - end
        if final:
            size = min(self._fade, len(out))
            out[len(out) - size :] *= np.linspace(1, 0, size, dtype=np.float32)
        return out

    def _look(self) -> None:
        """Find what is loud among the frames that are new."""
        count = (len(self._held) - self._looked) // self._frame
        if not count:
            return
        new = self._held[self._looked : self._looked + count * self._frame].reshape(count, -1)
        loud = np.flatnonzero(np.square(new, dtype=np.float64).mean(1) > 10 ** (QUIET_DB / 10))
        first, self._looked = self._looked, self._looked + count * self._frame
        if len(loud):
            self._loud_end = first + (int(loud[-1]) + 1) * self._frame
        if len(loud) and not self._begun:
            self._begin(first + int(loud[0]) * self._frame)

    def _begin(self, loud: int) -> None:
        """Leave out the silence before the first loud frame, but for a short lead, and fade in."""
        start = max(0, loud - self._lead)
        self._held, self._begun = self._held[start:].copy(), True
        self._looked, self._loud_end = self._looked - start, self._loud_end - start
        size = min(self._fade, len(self._held))
        self._held[:size] *= np.linspace(0, 1, size, dtype=np.float32)


def bend(sound: np.ndarray) -> np.ndarray:
    """Sound [S] whose samples above the knee approach the ceiling and never pass it."""
    ceiling = 10 ** (CEILING_DB / 20)
    room = ceiling - _KNEE
    size = np.abs(sound)
    bent = _KNEE + room * np.tanh((size - _KNEE) / room)
    return np.where(size > _KNEE, np.copysign(bent, sound), sound).astype(np.float32)
