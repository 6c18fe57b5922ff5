# The run itself: logging, checkpoints, seeds.
default_scope = 'mmdet'
custom_imports = dict(imports=['cellseg_mm.register'], allow_failed_imports=False)

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='MasterLoggerHook', interval=20),
    param_scheduler=dict(type='ParamSchedulerHook'),
    epoch_loss=dict(type='EpochLossHook'),
    checkpoint=dict(type='EpochCheckpointHook', save_best='cells/AP50_dense'),
    sampler_seed=dict(type='DistSamplerSeedHook'))
env_cfg = dict(
    cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), dist_cfg=dict(backend='nccl'))
visualizer = dict(type='CellVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer')
log_processor = dict(type='LogProcessor', window_size=20, by_epoch=True)
log_level = 'INFO'
randomness = dict(seed=0)
load_from = None
resume = False
