"""Spectrograms as PNG files, without a plotting library.

Shapes: S samples, M mel bands, T frames.
"""

import struct
import zlib

import numpy as np
import torch

from modules.audio.spectral import LogMel

RATE = 16000
HEIGHT, FRAMES_PER_SECOND = 96, 100
_RANGE_NEPERS = 9.0
_STOPS = np.array([[13, 8, 40], [88, 24, 110], [190, 55, 84], [249, 142, 9], [252, 255, 196]], dtype=np.float64)
"""Colours from silence to the loudest, dark to light, readable without colour vision."""


def spectrogram_png(wav: np.ndarray) -> bytes:
    """wav float32 [S] at 16 kHz -> PNG, `HEIGHT` mel bands, 100 columns a second."""
    hop = RATE // FRAMES_PER_SECOND
    padded = np.pad(np.nan_to_num(wav.astype(np.float32)), (0, max(0, 1024 - len(wav))))
    mel = LogMel(RATE, 1024, hop, HEIGHT)(torch.from_numpy(padded)[None])[0].numpy()
    level = np.clip(1 + (mel - mel.max()) / _RANGE_NEPERS, 0, 1)[::-1]
    place = level * (len(_STOPS) - 1)
    low = np.minimum(place.astype(int), len(_STOPS) - 2)
    share = (place - low)[..., None]
    return png((_STOPS[low] * (1 - share) + _STOPS[low + 1] * share).astype(np.uint8))


def png(pixels: np.ndarray) -> bytes:
    """uint8 [height, width, 3] as a PNG (ISO/IEC 15948): one chunk of data, no filter."""
    height, width, _ = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, width * 3)], 1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(rows.tobytes(), 6)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
