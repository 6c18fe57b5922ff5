# The first layers learn, too.
_base_ = 'base.py'
model = dict(backbone=dict(frozen_stages=-1))
