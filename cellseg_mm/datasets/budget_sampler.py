"""Training for a number of iterations, whatever the number of images."""
import torch
from mmdet.registry import DATA_SAMPLERS
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler


@DATA_SAMPLERS.register_module()
class BudgetSampler(Sampler):
    """Shuffled passes over the images, one after another, cut into epochs of so many batches.

    A pass has each image once, in the order in which MMEngine's `DefaultSampler` gives it in the epoch of that number.
    Passes go on where an epoch ends, and the processes of a distributed run take turns in them. What an epoch holds
    depends on its number and the seed alone, so that a resumed training sees what it would have seen.

    Args:
        dataset (Sized): One image or more.
        iterations (int): Batches of the whole training, of each process.
        per_epoch (int): Batches of an epoch; the last one is shorter where they do not add up.
        batch_size (int): Images of a batch.
        seed (int, optional): Of the order.
    """

    def __init__(self, dataset, iterations, per_epoch, batch_size, seed=None):
        self.size = len(dataset)
        self.iterations, self.per_epoch, self.batch_size = iterations, per_epoch, batch_size
        self.seed = sync_random_seed() if seed is None else seed
        self.rank, self.processes = get_dist_info()
        self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(self._places())

    def __iter__(self):
        current, order = None, None
        for place in self._places():
            number, position = divmod(place * self.processes + self.rank, self.size)
            if number != current:
                current = number
                order = torch.randperm(self.size, generator=torch.Generator().manual_seed(self.seed + number)).tolist()
            yield order[position]

    def _places(self):
        """What this process takes in the epoch, counted over the whole training."""
        start, stop = (min(epoch * self.per_epoch, self.iterations) * self.batch_size
                       for epoch in (self.epoch, self.epoch + 1))
        return range(start, stop)
