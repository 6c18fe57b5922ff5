# 20 epochs; the learning rate falls to a tenth when validation AP50 has not risen for 3 epochs.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=20, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.005, momentum=0.9, weight_decay=0.0005))
# `end` is far off so that a run resumed with more epochs still lowers its rate.
param_scheduler = dict(
    type='ReduceOnPlateauLR',
    monitor='cells/AP50_dense',
    rule='greater',
    factor=0.1,
    patience=3,
    by_epoch=True,
    end=100_000)
auto_scale_lr = dict(enable=False, base_batch_size=4)
