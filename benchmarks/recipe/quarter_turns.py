# All eight symmetries of the square.
_base_ = 'base.py'
turn = dict(type='RandomQuarterTurn')
train_dataloader = dict(dataset=dict(pipeline=[*_base_.load, _base_.cut, turn, _base_.pack]))
