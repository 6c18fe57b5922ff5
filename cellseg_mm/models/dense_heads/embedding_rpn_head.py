"""QueryInst's proposals, where cells are."""
import math

import torch
from mmdet.models import dense_heads
from mmdet.registry import MODELS


@MODELS.register_module()
class GridProposals(dense_heads.EmbeddingRPNHead):
    """`EmbeddingRPNHead` whose boxes begin as a grid over the image, instead of as the whole image each.

    Sparse R-CNN (https://arxiv.org/abs/2011.12450) ends equally well from either; hundreds of small cells, each of
    which needs a proposal of its own, are found sooner from boxes that are small and near.
    """

    def init_weights(self):
        """Initialise the boxes: centre, width and height as shares of the image, neighbours half overlapping."""
        super().init_weights()
        rows = round(math.sqrt(self.num_proposals))
        row = torch.arange(self.num_proposals) * rows // self.num_proposals
        count = row.bincount()
        column = torch.arange(self.num_proposals) - (count.cumsum(0) - count)[row]
        boxes = torch.stack([(column + 0.5) / count[row], (row + 0.5) / rows, 2 / count[row], 2 / rows + 0 * row], 1)
        self.init_proposal_bboxes.weight.data.copy_(boxes)
