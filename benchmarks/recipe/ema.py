# An average of the weights, over the last 100 steps or so of 300.
_base_ = 'base.py'
custom_hooks = [dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.01, gamma=20, priority=49)]
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=300, val_interval=300)  # which they are meant for
