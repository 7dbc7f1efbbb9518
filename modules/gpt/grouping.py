"""What a step of several frames needs beyond a step of one: one vector in, one hidden state for each frame out.

On the way in the frames' embeddings stand side by side and go through one matrix, as in VALL-E 2: the tables of codes
are shared by all places in the group, so that a rare code learns wherever it stands, and a large codebook is not stored
G times; where a frame stands is the matrix's business. On the way out the content classes and the heads are shared too;
each frame after the first has a small network of its own that turns the step's hidden state to it, after the frames
before it in the group were added (a matrix for every distance).

Shape letters: P steps, G frames of a group, H hidden.
"""

from collections.abc import Sequence

from torch import Tensor, nn


class Grouping(nn.Module):
    """The learned parts of a group.

    Args:
        hidden: model width.
        group_size: frames of a step, at least 2.
        chained: whether a frame depends on those before it in its group.
        joins: whether frames enter as embeddings here (vector models have their own way in).
    """

    def __init__(self, hidden: int, group_size: int, chained: bool, joins: bool):
        super().__init__()
        if joins:
            self.join = nn.Linear(group_size * hidden, hidden, bias=False)
            # The sum of the frames is then as large as one of them, and their order can be told from the start.
            nn.init.normal_(self.join.weight, std=(group_size * hidden) ** -0.5)
        later = range(group_size - 1)
        self.before = nn.ModuleList(nn.Linear(hidden, hidden, bias=False) for _ in later if chained)
        self.turn = nn.ModuleList(
            nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden)) for _ in later
        )

    def place(self, hidden: Tensor, place: int, frames: Sequence[Tensor]) -> Tensor:
        """The step's hidden state [P, H] to the one that frame `place` of the group is predicted from.

        Args:
            frames: embeddings [P, H] of the frames before it in the group, read when they are chained.
        """
        if place == 0:
            return hidden
        for matrix, frame in zip(self.before, reversed(frames), strict=False):  # the nearest first
            hidden = hidden + matrix(frame)
        return hidden + self.turn[place - 1](hidden)
