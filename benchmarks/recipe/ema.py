# An average of the weights, over the last 200 steps or so.
_base_ = 'base.py'
custom_hooks = [dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.005, gamma=100, priority=49)]
