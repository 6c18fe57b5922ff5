"""Learning rates that fall with the depth in a backbone."""
from mmdet.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.optim import DefaultOptimWrapperConstructor

from cellseg_mm.errors import UserError
from cellseg_mm.models.backbones.timm_backbone import TimmBackbone


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Give earlier layers of a `TimmBackbone` lower learning rates, since they need to change less than later ones.

    The n-th layer from the end learns at `lr * decay_rate ** n`, all that is not backbone at `lr`
    (https://arxiv.org/abs/2003.10555, section 3.1). Norms, biases and other vectors, and what timm names for each
    model, such as tables of positions, have no weight decay. Frozen parameters are left out.

    Configured as `optim_wrapper=dict(constructor='LayerDecayConstructor', paramwise_cfg=dict(decay_rate=0.9))`.

    Raises:
        UserError: If `paramwise_cfg` holds anything but a `decay_rate` above 0 and up to 1, or the model has no
            `TimmBackbone`.
    """

    def _validate_cfg(self):
        rate = self.paramwise_cfg.get('decay_rate')
        if self.paramwise_cfg.keys() != {'decay_rate'} or not isinstance(rate, (int, float)) or not 0 < rate <= 1:
            raise UserError('optim_wrapper.paramwise_cfg: LayerDecayConstructor takes decay_rate alone, above 0 and up '
                            f'to 1, not {dict(self.paramwise_cfg)}')
        if self.base_lr is None:
            raise UserError('optim_wrapper.optimizer: LayerDecayConstructor lowers lr, which it does not set')

    def add_params(self, params, module, **_):
        scales, without_decay = self._scales(module)
        groups = {}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                key = scales.get(name, 1.0), parameter.ndim > 1 and name not in without_decay
                groups.setdefault(key, []).append(parameter)
        # The first group's rate is the one that the log shows: the heads', which is the config's.
        for scale, decays in sorted(groups, reverse=True):
            options = {} if decays else dict(weight_decay=0.0)
            params.append(dict(params=groups[scale, decays], lr=self.base_lr * scale, **options))

    def _scales(self, model):
        scales, without_decay = {}, set()
        for prefix, module in model.named_modules():
            if isinstance(module, TimmBackbone):
                layers, last = module.layer_ids()
                start = f'{prefix}.model.'.removeprefix('.')
                scales |= {start + name: self.paramwise_cfg['decay_rate']**(last - layer)
                           for name, layer in layers.items()}
                without_decay |= {start + name for name in module.without_decay()}
        if not scales:
            raise UserError('optim_wrapper: LayerDecayConstructor lowers the rates of a TimmBackbone, and the model '
                            'has none; leave out constructor and paramwise_cfg')
        return scales, without_decay
