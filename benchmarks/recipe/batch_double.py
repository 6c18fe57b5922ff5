# Eight crops a step in place of four.
_base_ = 'base.py'
train_dataloader = dict(batch_size=8)
