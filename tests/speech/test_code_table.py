"""Laws of the vectors of speech codes."""

import pytest
import torch

from modules.speech.code_table import CodeTable


def test_a_table_of_fsq_codes_is_the_free_table_plus_its_digits():
    levels = (4, 3, 5)
    table = CodeTable(60, 8, levels)
    matrix = table.matrix()
    for code in range(60):
        digits = [code % 4, code // 4 % 3, code // 12]
        expected = table.free[code] + sum(d[i] for d, i in zip(table.digits, digits, strict=True))
        torch.testing.assert_close(matrix[code], expected)


def test_levels_that_do_not_make_the_codebook_are_refused():
    with pytest.raises(ValueError, match="64"):
        CodeTable(64, 8, (4, 4, 5))
