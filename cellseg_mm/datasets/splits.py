"""Splits that keep look-alike images together: the crops of one patient belong on one side, or validation flatters."""
import numpy as np
from scipy.cluster.hierarchy import linkage
from skimage.color import rgb2lab

from cellseg_mm.errors import UserError

SAMPLED_PIXELS = 128 * 128
GLASS = 0.05  # mean optical density of H&E tissue lies above, of bare glass below
DARKNESS = np.array([0.15, 0.3, 0.45, 0.6])  # mean optical densities, from pale cytoplasm to dark nuclei
PARTS = 5  # features are those of the whole image and of its quarters
LARGEST_GROUP = 0.2  # share of the images: five folds, and a validation share of 15%, can still be made
RESTARTS, PAIRS, STATES = 6, 20_000, 20_000


def appearance_features(image):
    """Statistics of colour and stain that crops of one slide share, whatever their size and content.

    Of what is darker than glass (of all where nothing is): percentiles of the optical density of each colour and of CIE
    Lab, and the stain's hue, which is each colour's share of the optical density, at fixed darkness. All this for the
    whole image and for its four quarters, whose differences show how far mere content sways each statistic. Large
    images are sampled on a regular grid.

    Args:
        image (ndarray): uint8 (H, W, 3), BGR, of at least one pixel.

    Returns:
        ndarray: float64 (D,), always finite; D is the same for every image.
    """
    step = max(1, int(np.ceil(np.sqrt(image.shape[0] * image.shape[1] / SAMPLED_PIXELS))))
    rgb = image[::step, ::step, ::-1]
    density = -np.log10((rgb + 1.0) / 256)  # Beer-Lambert, in the terms of Ruifrok & Johnston 2001
    pixels = np.concatenate([density, rgb2lab(rgb) / 50], axis=2)
    row, col = pixels.shape[0] // 2, pixels.shape[1] // 2
    quarters = [pixels[rows, cols] for rows in (slice(max(1, row)), slice(row, None))
                for cols in (slice(max(1, col)), slice(col, None))]
    return np.concatenate([_stain_statistics(part.reshape(-1, 6)) for part in (pixels, *quarters)])


def _stain_statistics(pixels):
    """Statistics (38,) of pixels (M, 6) of three optical densities and three Lab values."""
    tissue = pixels[:, :3].mean(1) > GLASS
    if tissue.any():
        pixels = pixels[tissue]
    density = pixels[:, :3] + 1e-3
    hue = (density / density.sum(1, keepdims=True))[:, :2]
    near = np.exp(-((density.mean(1) - DARKNESS[:, None]) / 0.1) ** 2)
    # Few pixels of a darkness say little of its hue: 20 more of the mean hue steady it.
    hues = (near @ hue + 20 * hue.mean(0)) / (near.sum(1, keepdims=True) + 20)
    return np.concatenate([np.percentile(pixels, (5, 25, 50, 75, 95), axis=0).ravel(), hues.ravel()])


def group_by_appearance(features):
    """Group look-alike images by Ward clustering of their features.

    Distances are counted in units of how much the statistics vary between the quarters of one image, all images pooled:
    that is content, not slide. The tree is then cut as high as it can be while no group holds more than
    `LARGEST_GROUP` of the images: a cut through a patient leaks, so there are as few groups as a split needs. Images with equal
    features are never parted.

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
    tree = linkage(_in_units_of_content(features[order].reshape(count, PARTS, -1)), 'ward')
    members = {leaf: [leaf] for leaf in range(count)}
    for node, (left, right) in enumerate(tree[:, :2].astype(int), count):
        members[node] = members[left] + members[right]
    nodes, group = [2 * count - 2], 0
    while nodes:
        node = nodes.pop()
        if len(members[node]) > max(1, LARGEST_GROUP * count) and tree[node - count, 2] > 1e-9:
            nodes += tree[node - count, :2].astype(int).tolist()
        else:
            groups[order[members[node]]] = group
            group += 1
    return groups


def _in_units_of_content(parts):
    """Features (N, d) of whole images, whitened by the scatter between quarters; `parts` is (N, PARTS, d)."""
    parts = (parts - np.median(parts[:, 0], axis=0)) / np.maximum(parts[:, 0].std(0), 1e-6)
    content = (parts[:, 1:] - parts[:, 1:].mean(1, keepdims=True)).reshape(-1, parts.shape[2])
    scatter = content.T @ content / len(content)
    # Shrinkage, as few images, or flat ones, do not tell all directions.
    scatter = 0.7 * scatter + (0.3 * np.trace(scatter) / len(scatter) + 1e-6) * np.eye(len(scatter))
    values, vectors = np.linalg.eigh(scatter)
    white = parts[:, 0] @ vectors / np.sqrt(values)
    # Odd images must not make a group each: beyond three deviations all is equally far.
    return np.clip(white / max(white.std(), 1e-9), -3, 3)


def split_groups(groups, class_counts, fraction, seed):
    """Choose whole groups for validation.

    Each class that occurs in two groups or more occurs on both sides, wherever all such classes can at once; where they
    cannot, as many as possible do, the classes with fewer cells before the others. (The search for this is exact up to
    50,000 distinct states, which ten classes seldom need.) Among such splits one is searched whose shares of images
    and of each class's cells are close to `fraction`.

    Args:
        groups (ndarray): int (N,), the group of each image.
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
    return _assign(weights, np.array([1 - fraction, fraction]), seed, _both_sides(weights))[members] == 1


def fold_groups(groups, class_counts, folds, seed):
    """Deal whole groups out over folds of like size, with each class's cells spread as evenly as the groups allow.

    Args:
        groups (ndarray): int (N,), the group of each image.
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
    counts = np.column_stack([np.ones(len(members), np.int64), np.reshape(class_counts, (len(members), -1))])
    weights = np.zeros((members.max(initial=-1) + 1, counts.shape[1]), np.int64)
    np.add.at(weights, members, counts)
    # Groups are known by what they hold, not by their number, which changes with the order of the images.
    order = np.lexsort(weights.T[::-1])
    return weights[order], np.argsort(order)[members]


def _priority(weights):
    """What it is worth to have a class on all sides: about 1, rare classes a little more; images, the most."""
    cells = weights[:, 1:].sum(0)
    rank = np.argsort(np.argsort(-cells, kind='stable'), kind='stable')
    return np.concatenate([[2 * len(cells) + 2], 1 + rank / max(1, len(cells)) ** 2])


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
        return sum(priority[k] for k in range(len(priority)) if state[0] & state[1] >> k & 1)

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

    Args:
        weights (ndarray): int (G, C), what each group holds of what is to be shared out.
        targets (ndarray): float (P,), the share that each part should have; they add up to 1.
        seed (int): Seeds the starts and the choice among moves.
        start (ndarray): int (G,), parts that leave none empty; the result lacks nothing in any part that this has.

    Returns:
        ndarray: int64 (G,), the best parts found.
    """
    rng = np.random.default_rng(seed)
    parts = len(targets)
    # A last, empty group, to swap with: it turns a swap into a move.
    present = np.vstack([weights > 0, np.zeros(weights.shape[1], bool)]).astype(np.int64)
    shares = np.vstack([weights / np.maximum(weights.sum(0), 1), np.zeros(weights.shape[1])])
    priority = _priority(weights)
    # Whatever is the best for balance must not outweigh coverage: the deviations add up to less than this.
    priority = priority * 2 * weights.shape[1] * parts / targets.min() ** 2

    def cost(share, number, part):
        deviation = ((share - targets[part][:, None]) / targets[part][:, None]) ** 2
        return (deviation + priority * (number == 0)).sum(1)

    best, best_cost = None, np.inf
    for attempt in range(RESTARTS):
        part = start.copy() if attempt == 0 else rng.choice(parts, len(start), p=targets)
        total = np.stack([shares[:-1][part == p].sum(0) for p in range(parts)])
        number = np.stack([present[:-1][part == p].sum(0) for p in range(parts)])
        while True:
            first, second, target = _moves(part, parts, rng)
            source = part[first]
            share, held = shares[first] - shares[second], present[first] - present[second]
            now = cost(total, number, np.arange(parts))
            gain = (now[source] + now[target] - cost(total[source] - share, number[source] - held, source)
                    - cost(total[target] + share, number[target] + held, target))
            move = int(np.argmax(gain))
            if gain[move] < 1e-9:
                break
            a, b, old, new = first[move], second[move], source[move], target[move]
            total[old] -= share[move]
            total[new] += share[move]
            number[old] -= held[move]
            number[new] += held[move]
            part[a] = new
            if b < len(part):
                part[b] = old
        if now.sum() < best_cost - 1e-9:
            best, best_cost = part, now.sum()
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
