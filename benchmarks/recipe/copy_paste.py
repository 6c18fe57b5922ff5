# Cells of other images pasted in, all classes equally often; otherwise as rare_crop.
_base_ = 'rare_crop.py'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='MultiImageMixDataset',
        dataset=dict(_base_.train_dataloader.dataset, pipeline=[*_base_.load, _base_.rare_cut]),
        pipeline=[dict(type='CellCopyPaste'), _base_.flip, _base_.pack]))
