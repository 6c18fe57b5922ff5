# Eight crops a step in place of four, which costs as much as a cascade.
_base_ = 'base.py'
train_dataloader = dict(batch_size=8)
