"""``action``: a move for every frame, as one vector for every cell."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen.conditioning.base import Part
from vidgen.errors import UserError
from vidgen.latents import Condition
from vidgen.protocols import LatentSpace


class Action(Part):
    """The sum, over a cell's frames, of a vector for the action at that place in the cell.

    The same as a linear layer over the cell's actions one after another as one-hot codes: their order within a cell is told. Cell
    0 of causal tokenizers, which is one frame, has the last place. Like in Genie (Bruce et al., 2024) the vector is added;
    deviation: to what modulates the blocks, and not to the tokens.

    Args:
        width: channels of a token.
        space: the latent space, which says how many frames a cell has.
        num_actions: actions the data has, at least 1.
        dropout: share of training clips that are not told theirs, for guidance.
    """

    field = "action"

    def __init__(self, *, width: int, space: LatentSpace, num_actions: int, dropout: float = 0.1) -> None:
        super().__init__(dropout)
        self.spec, self.num_actions = space.spec, num_actions
        self.table = nn.Embedding(self.spec.stride[0] * (num_actions + 1), width)
        nn.init.normal_(self.table.weight, std=0.02)

    def vector(self, condition: Condition, batch: int, cells: int, start: int) -> Tensor:
        """(batch, cells, width).

        Raises:
            UserError: where there are actions for another number of frames than the window has.
        """
        action, stride = condition.action, self.spec.stride[0]
        frames = self.spec.frames(cells, start)
        if action is None:
            action = torch.full((batch, frames), -1, device=self.table.weight.device)
        if not frames - stride < action.shape[1] <= frames:
            raise UserError(
                f"There are actions for {action.shape[1]} frames, and the window has {frames}: give one for each frame."
            )
        action = F.pad(action, (0, frames - action.shape[1]), value=-1)  # frames that rounding up added
        lone = frames % stride  # 1 where the first cell is one frame
        place = (torch.arange(frames, device=action.device) - lone) % stride
        vectors = self.table(place * (self.num_actions + 1) + torch.where(action < 0, self.num_actions, action))
        whole = vectors[:, lone:].unflatten(1, (-1, stride)).sum(2) if frames > lone else vectors[:, :0]
        return torch.cat([vectors[:, :lone], whole], dim=1)

    def check(self, condition: Condition) -> None:
        action = condition.action
        assert action is not None
        if action.ndim != 2:
            raise UserError(f"Actions are (clips, frames), one a frame, and not of the shape {tuple(action.shape)}.")
        if action.numel() and not -1 <= int(action.min()) <= int(action.max()) < self.num_actions:
            wrong = next(value for value in action.flatten().tolist() if not -1 <= value < self.num_actions)
            raise UserError(f"Actions go from 0 to {self.num_actions - 1}, and {wrong} is not one of them.")
