"""Splits that keep look-alike images together: the crops of one patient belong on one side, or validation flatters."""
import numpy as np
from scipy.cluster.hierarchy import linkage

from cellseg_mm.errors import UserError

SAMPLED_PIXELS = 128 * 128
GLASS = 0.05  # mean optical density of H&E tissue lies above, of bare glass below
DARKNESS = np.array([0.15, 0.3, 0.45, 0.6])  # mean optical densities, from pale cytoplasm to dark nuclei
VIEWS = 5  # features are those of the whole image and of its quarters
LARGEST_GROUP = 0.15  # share of the images: a usual validation share, and small enough for five folds
SMALL_GROUP = 5  # images of one patient that may stay together however few there are, if they are a third or less
RESTARTS, PAIRS, STATES = 6, 20_000, 20_000


def appearance_features(image):
    """Statistics of colour and stain that crops of one slide share, whatever their size and content.

    Of what is darker than glass (of everything where nothing is): percentiles of each colour's optical density, and the
    stain's hue, which is each colour's share of the optical density, at fixed darkness. All this for the whole image
    and for its four quarters, whose differences show how far mere content sways each statistic. Large images are
    sampled on a regular grid. Optical density as in Ruifrok & Johnston 2001.

    Args:
        image (ndarray): uint8 (H, W, 3), BGR, of at least one pixel.

    Returns:
        ndarray: float64 (D,), always finite; D is the same for every image.
    """
    step = max(1, int(np.ceil(np.sqrt(image.shape[0] * image.shape[1] / SAMPLED_PIXELS))))
    density = -np.log10((image[::step, ::step] + 1.0) / 256)
    row, col = density.shape[0] // 2, density.shape[1] // 2
    quarters = [density[rows, cols] for rows in (slice(max(1, row)), slice(row, None))
                for cols in (slice(max(1, col)), slice(col, None))]
    # A quarter of bare glass says nothing of what content does: the whole image stands in for it.
    quarters = [quarter if (quarter.mean(2) > GLASS).any() else density for quarter in quarters]
    return np.concatenate([_stain_statistics(view.reshape(-1, 3)) for view in (density, *quarters)])


def _stain_statistics(density):
    """Statistics (23,) of the optical densities (M, 3) of pixels."""
    tissue = density.mean(1) > GLASS
    if tissue.any():
        density = density[tissue]
    percentiles = np.percentile(density, (5, 25, 50, 75, 95), axis=0)
    # The offset gives white, which has no hue, the hue of grey.
    hue = ((density + 1e-3) / (density + 1e-3).sum(1, keepdims=True))[:, :2]
    near = np.exp(-((density.mean(1) - DARKNESS[:, None]) / 0.1) ** 2)
    # Few pixels of a darkness say little of its hue: 20 more of the mean hue steady it.
    hues = (near @ hue + 20 * hue.mean(0)) / (near.sum(1, keepdims=True) + 20)
    return np.concatenate([percentiles.ravel(), hues.ravel()])


def group_by_appearance(features):
    """Group look-alike images by Ward clustering of their features.

    Distances are counted in units of how much the statistics vary between the quarters of one image, all images pooled:
    that is content, not slide. The tree is then cut as high as it can be while no group holds more than `largest_group`
    allows: a cut through a patient leaks, so there are as few groups as a split needs. Images with equal features are
    never parted, however many they are.

    Args:
        features (ndarray): float (N, D), a row of `appearance_features` for each image.

    Returns:
        ndarray: int64 (N,), groups 0..G-1. The order of the images changes nothing but the groups' numbers.
    """
    features = np.asarray(features, np.float64)
    count = len(features)
    groups = np.zeros(count, np.int64)
    if count < 2:
        return groups
    order = np.lexsort(features.T[::-1])
    tree = linkage(in_units_of_content(features[order]), 'ward')
    members = {leaf: [leaf] for leaf in range(count)}
    for node, (left, right) in enumerate(tree[:, :2].astype(int), count):
        members[node] = members[left] + members[right]
    nodes, group = [2 * count - 2], 0
    while nodes:
        node = nodes.pop()
        if len(members[node]) > largest_group(count) and tree[node - count, 2] > 1e-9:
            nodes += tree[node - count, :2].astype(int).tolist()
        else:
            groups[order[members[node]]] = group
            group += 1
    return groups


def largest_group(count):
    """How many of `count` images one group by appearance may hold.

    `LARGEST_GROUP` of them; or, where that is more, a third (rounded up), but no more than `SMALL_GROUP` images. So at
    least three groups are left, but two of four images.
    """
    return max(int(LARGEST_GROUP * count), min(SMALL_GROUP, -(-count // 3)))


def in_units_of_content(features):
    """Features of whole images, whitened by the scatter between quarters: the space that images are grouped in.

    Args:
        features (ndarray): float (N, D), a row of `appearance_features` for each image, N of one or more.

    Returns:
        ndarray: float64 (N, D / VIEWS).
    """
    views = np.asarray(features, np.float64).reshape(len(features), VIEWS, -1)
    views = (views - np.median(views[:, 0], axis=0)) / np.maximum(views[:, 0].std(0), 1e-6)
    content = (views[:, 1:] - views[:, 1:].mean(1, keepdims=True)).reshape(-1, views.shape[2])
    scatter = content.T @ content / len(content)
    # Shrinkage, as few images, or flat ones, do not tell all directions.
    scatter = 0.7 * scatter + (0.3 * np.trace(scatter) / len(scatter) + 1e-6) * np.eye(len(scatter))
    values, vectors = np.linalg.eigh(scatter)
    white = views[:, 0] @ vectors / np.sqrt(values)
    # Odd images must not make a group each: beyond three deviations all is equally far.
    return np.clip(white / max(white.std(), 1e-9), -3, 3)


def split_groups(groups, class_counts, fraction, seed):
    """Choose whole groups for validation.

    Each class that occurs in two groups or more occurs on both sides, wherever all such classes can at once; where they
    cannot, as many as possible do, and of equally many those with fewer cells. (The search for this is exact up to
    20,000 states, which only dozens of classes with few groups exceed.) Among such splits, a local search looks for
    one whose shares of images and of each class's cells are close to `fraction`: it minimises the sum of squared
    relative deviations on both sides. With few groups one split is best, and all seeds find it.

    Args:
        groups (ndarray): (N,), the number or name of the group of each image.
        class_counts (ndarray): int (N, K), the cells of each class in each image.
        fraction (float): Share of the images to validate on, between 0 and 1.
        seed (int): The same seed gives the same split, in whatever order the images come.

    Returns:
        ndarray: bool (N,), True where the image is for validation.

    Raises:
        UserError: If `fraction` is not between 0 and 1, or there are fewer than two groups.
    """
    if not 0 < fraction < 1:
        raise UserError(f'the validation fraction is {fraction}: give one between 0 and 1, such as 0.15')
    weights, members = _group_weights(groups, class_counts)
    if len(weights) < 2:
        raise UserError('all images belong to one group, which cannot be split: add images of another patient, '
                        'or name groups of your own in a CSV file')
    targets, present = np.array([1 - fraction, fraction]), weights > 0
    side = _assign(weights, targets, seed, np.arange(len(weights)) % 2)
    if not (present[side == 0].any(0) & present[side == 1].any(0) | (present.sum(0) < 2)).all():
        side = _assign(weights, targets, seed, _both_sides(weights))
    return side[members] == 1


def fold_groups(groups, class_counts, folds, seed):
    """Deal whole groups out over folds of like size, with each class's cells spread as evenly as the groups allow.

    Args:
        groups (ndarray): (N,), the number or name of the group of each image.
        class_counts (ndarray): int (N, K), the cells of each class in each image.
        folds (int): How many folds, two or more.
        seed (int): The same seed gives the same folds, in whatever order the images come.

    Returns:
        ndarray: int64 (N,), the fold of each image, 0..folds-1; no fold is empty.

    Raises:
        UserError: If `folds` is below two or above the number of groups.
    """
    if folds < 2:
        raise UserError(f'{folds} folds asked for: cross-validation needs two or more')
    weights, members = _group_weights(groups, class_counts)
    if len(weights) < folds:
        raise UserError(f'{len(weights)} groups of images cannot fill {folds} folds: ask for {len(weights)} or fewer')
    return _assign(weights, np.full(folds, 1 / folds), seed, np.arange(len(weights)) % folds)[members]


def _group_weights(groups, class_counts):
    """Images and cells of each class in each group, (G, 1 + K), sorted; and each image's row in it, (N,)."""
    _, members = np.unique(groups, return_inverse=True)
    counts = np.column_stack([np.ones(len(members), np.int64), np.asarray(class_counts, np.int64)])
    weights = np.zeros((members.max(initial=-1) + 1, counts.shape[1]), np.int64)
    np.add.at(weights, members, counts)
    # Groups are known by what they hold, not by their number, which changes with the order of the images.
    order = np.lexsort(weights.T[::-1])
    return weights[order], np.argsort(order)[members]


def _priority(weights):
    """Worth of images (first, most) and of each class in a part; no class outweighs two others, rare ones win ties."""
    cells = weights[:, 1:].sum(0)
    rank = np.argsort(np.argsort(-cells, kind='stable'), kind='stable')
    return np.concatenate([[3 * (len(cells) + 1) ** 3], (len(cells) + 1) ** 2 + rank])


def _both_sides(weights):
    """Side 0 or 1 of each group so that the classes worth most are on both (set splitting, by dynamic programming)."""
    present = weights > 0
    wanted = present.sum(0) >= 2
    side = np.zeros(len(weights), np.int64)
    while True:
        # Two groups that hold the same open classes go to either side and settle these, without a loss to others.
        seen = {}
        for group, row in enumerate(present & wanted):
            twin = seen.setdefault(row.tobytes(), group)
            if row.any() and twin != group:
                side[group], side[twin] = 1, 0
                wanted &= ~row
                break
        else:
            break
    masks = [sum(1 << int(k) for k in np.flatnonzero(row)) for row in present & wanted]
    priority = _priority(weights)

    def worth(state):
        return sum(priority[k] for k in range(len(priority)) if (state[0] & state[1]) >> k & 1)

    states = {(0, 0): ()}
    for group, mask in enumerate(masks):
        if mask:
            states = {key: choice for (zero, one), chosen in states.items()
                      for key, choice in (((zero, one | mask), (*chosen, (group, 1))),
                                          ((zero | mask, one), (*chosen, (group, 0))))}
            if len(states) > STATES:
                states = {key: states[key] for key in sorted(states, key=worth)[-STATES:]}
    for group, choice in states[max(states, key=worth)]:
        side[group] = choice
    return side


def _assign(weights, targets, seed, start):
    """Local search for the part (0..P-1) of each group.

    Coverage, that no part lacks what another can spare, comes before balance.

    Args:
        weights (ndarray): int (G, C), images and cells of each class in each group.
        targets (ndarray): float (P,), the share that each part should have; they add up to 1.
        seed (int): Seeds the starts and the choice among moves.
        start (ndarray): int (G,), parts to start from; the result covers at least as much.

    Returns:
        ndarray: int64 (G,), the best parts found.
    """
    rng = np.random.default_rng(seed)
    parts = len(targets)
    # A last, empty group, to swap with: it turns a swap into a move.
    present = np.vstack([weights > 0, np.zeros(weights.shape[1], bool)]).astype(np.int64)
    shares = np.vstack([weights / np.maximum(weights.sum(0), 1), np.zeros(weights.shape[1])])
    priority = _priority(weights)

    def missing(number):
        return (number == 0) @ priority

    def deviation(share, part):
        return ((share / targets[part][:, None] - 1) ** 2).sum(1)

    best, best_cost = None, (np.inf, np.inf)
    for attempt in range(RESTARTS):
        part = start.copy() if attempt == 0 else rng.choice(parts, len(start), p=targets)
        total = np.stack([shares[:-1][part == p].sum(0) for p in range(parts)])
        number = np.stack([present[:-1][part == p].sum(0) for p in range(parts)])
        while True:
            first, second, target = _moves(part, parts, rng)
            source = part[first]
            share, held = shares[first] - shares[second], present[first] - present[second]
            lacks, strays = missing(number), deviation(total, np.arange(parts))
            covers = (lacks[source] + lacks[target]
                      - missing(number[source] - held) - missing(number[target] + held))
            evens = (strays[source] + strays[target]
                     - deviation(total[source] - share, source) - deviation(total[target] + share, target))
            # Coverage first; balance decides among moves that serve coverage equally.
            move = int(np.argmax(np.where(covers == covers.max(), evens, -np.inf)))
            if covers[move] < 0 or (covers[move] == 0 and evens[move] < 1e-9):
                break
            old, new = source[move], target[move]
            total[[old, new]] += [-share[move], share[move]]
            number[[old, new]] += [-held[move], held[move]]
            part[first[move]] = new
            if second[move] < len(part):
                part[second[move]] = old
        if (cost := (lacks.sum(), strays.sum())) < best_cost:
            best, best_cost = part, cost
    return best


def _moves(part, parts, rng):
    """Groups to move (M,), groups to take in exchange (M,) with G for none, and the parts to move to (M,)."""
    count = len(part)
    first, target = np.nonzero(part[:, None] != np.arange(parts))
    if count * count <= PAIRS:
        left, right = np.nonzero(part[:, None] < part)
    else:
        left, right = rng.integers(0, count, (2, PAIRS))
        differ = part[left] != part[right]
        left, right = left[differ], right[differ]
    return np.r_[first, left], np.r_[np.full(len(first), count), right], np.r_[target, part[right]]
