# Mask2Former on the light backbone, with few layers; images are looked at in tiles of the size of the training crops.
_base_ = ['cell_mask2former.py', '_base_/lite.py']
channels = _base_.channels
attention = dict(embed_dims=channels, num_heads=4)
ffn = dict(embed_dims=channels, feedforward_channels=2 * channels)
position = dict(num_feats=channels // 2)

model = dict(
    data_preprocessor=_base_.lite_preprocessor,
    tiles=dict(_base_.tiles, max_per_img=_base_.max_dets),
    backbone=_base_.lite_backbone,
    panoptic_head=dict(
        in_channels=_base_.lite_channels,
        feat_channels=channels,
        out_channels=channels,
        pixel_decoder=dict(
            encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=ffn)),
            positional_encoding=position),
        transformer_decoder=dict(
            num_layers=3, layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=ffn)),
        positional_encoding=position),
    train_cfg=dict(num_points=2048),
    test_cfg=dict(max_per_image=_base_.tiles.max_per_tile))
train_dataloader, val_dataloader, test_dataloader = _base_.lite_dataloaders
train_cfg, param_scheduler = _base_.lite_train_cfg, _base_.lite_schedule
optim_wrapper = _base_.lite_optim_wrapper
