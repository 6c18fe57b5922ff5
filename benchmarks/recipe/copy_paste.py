# Cells of other images pasted in, all classes equally often.
_base_ = 'base.py'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='MultiImageMixDataset',
        dataset=dict(
            type='CellDataset',
            data_root=_base_.data_root,
            ann_file='annotations/train.json',
            metainfo=dict(classes=_base_.classes),
            pipeline=[*_base_.load, _base_.cut]),
        pipeline=[dict(type='CellCopyPaste'), _base_.flip, _base_.pack]))
