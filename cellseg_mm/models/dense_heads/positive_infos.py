"""What a box head hands to a mask head in a training step."""


class ForgetsPositives:
    """Mixin for box heads: the positive infos of a step are not kept beyond it.

    They would keep its graph, and a module that holds a graph cannot be copied.
    """

    def get_positive_infos(self):
        positive_infos = super().get_positive_infos()
        self._raw_positive_infos = {}
        return positive_infos
