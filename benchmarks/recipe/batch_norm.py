# The backbone's batch norms take the statistics of each batch, and learn those of the data.
_base_ = 'base.py'
model = dict(backbone=dict(norm_eval=False))
