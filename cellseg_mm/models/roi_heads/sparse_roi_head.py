"""QueryInst's head of several stages, free in how many cells are kept, and sane where there are none."""
from mmdet.models import roi_heads
from mmdet.registry import MODELS
from mmengine.config import ConfigDict


@MODELS.register_module()
class CellSparseRoIHead(roi_heads.SparseRoIHead):
    """`SparseRoIHead` that keeps the best of its predictions, `max_per_img` or as many as there are proposals.

    MMDetection's fails unless the two numbers are the same. It also divides the loss of classes by the number of cells
    in a batch, plus 1e-7: without a cell, that loss is millions. Here it is divided by one.
    """

    def __init__(self, *args, test_cfg=None, **kwargs):
        super().__init__(*args, test_cfg=test_cfg, **kwargs)
        self.max_per_img = test_cfg.max_per_img
        for head in self.bbox_head:
            head.loss_cls.register_forward_pre_hook(_divide_by_one_at_least, with_kwargs=True)

    def predict(self, x, rpn_results_list, batch_data_samples, rescale=False):
        """Predicted instances of each image, the best first: list[InstanceData]."""
        self.test_cfg = ConfigDict(self.test_cfg, max_per_img=len(rpn_results_list[0]))
        results = super().predict(x, rpn_results_list, batch_data_samples, rescale)
        return [found[found.scores.argsort(descending=True)[:self.max_per_img]] for found in results]


def _divide_by_one_at_least(_, args, kwargs):
    return args, dict(kwargs, avg_factor=kwargs['avg_factor'].clamp(min=1))
