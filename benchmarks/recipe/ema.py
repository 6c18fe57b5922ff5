# An average of the weights, over the last 100 steps or so.
_base_ = 'base.py'
custom_hooks = [dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.01, gamma=20, priority=49)]
