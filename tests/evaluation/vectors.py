"""Made-up embeddings for tests."""

import numpy as np


def unit_vectors(rng: np.random.Generator, count: int, size: int = 16) -> np.ndarray:
    """Random directions [count, size] of unit length."""
    vectors = rng.standard_normal((count, size))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
