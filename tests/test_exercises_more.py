"Checkers of the later lessons: each typical wrong answer is told in words what is wrong with it"
import pytest
from exercises import accepts, card, checkers, complaint, says

LESSONS = ("19_truth", "20_lint", "23_metrics", "24_intervene", "25_locate", "26_diverse", "27_collide", "28_card", "29_ingredients", "30_prune", "34_augment", "35_cache", "36_cub", "37_sources", "38_legacy", "39_paper", "40_compare", "41_runs", "42_cli")
WRONG = [  # lesson, checker, a wrong answer (see exercises.says), what the checker says
    ("20_lint", "check_terms_needed", ("terms.abs()", "terms"), "use sizes, and the largest first"),
    ("20_lint", "check_terms_needed", (" + 1", ""), "0 terms cover nothing"),
    ("20_lint", "check_crowded", ("n > most", "n >= most"), "three are not more than three"),
    ("20_lint", "check_crowded", "lambda patches, most: [p.prototype for p in patches if [q.image for q in patches].count(p.image) > most]", "the images are asked for"),
    ("23_metrics", "check_main_part", (".nan_to_num(-1)", ""), "a share that is not a number can't be the largest"),
    ("23_metrics", "check_main_part", ("None if row.isnan().all() else ", ""), "where nothing is known the answer is None"),
    ("23_metrics", "check_convincing", ("m.low", "m.value"), "compare the end of the interval, not the mean"),
    ("23_metrics", "check_convincing", "lambda m: m.low > m.chance", "this measure is better low"),
    ("23_metrics", "check_cheat", ("torch.tensor([0, 0])", "torch.tensor([0, 1])"), "with one a class there is no pair to compare"),
    ("23_metrics", "check_cheat", ("geo.size[0] - 1.0, geo.size[1] - 1.0", "5.0, 5.0"), "move the places further apart"),
    ("24_intervene", "check_largest_lie", "lambda claim, fall: (claim - fall).argmax(1)", "compare ranks, not values"),
    ("24_intervene", "check_largest_lie", ("ranks(claim) - ranks(fall)", "ranks(fall) - ranks(claim)"), "part 1 is claimed second and falls least"),
    ("24_intervene", "check_hide_two", "lambda a, b: {'hide': a}", "hide is one text"),
    ("24_intervene", "check_hide_two", "lambda a, b: (a, b)", "a change is a dictionary"),
    ("25_locate", "check_heap_middle", "lambda map: tuple((map > 0).nonzero().float().mean(0).tolist())", "the larger value has three times the weight"),
    ("25_locate", "check_heap_middle", (".clamp(min=0)", ""), "a value below zero is no evidence"),
    ("25_locate", "check_energy_on", (".clamp(min=0)", ""), "the -4 took part in the sum"),
    ("25_locate", "check_energy_on", ("positive.sum((1, 2))", "positive.sum()"), "each has a sum of its own"),
    ("26_diverse", "check_twins_a_class", ("group[1:]", "group"), "The first of a group stays"),
    ("26_diverse", "check_twins_a_class", ("range(int(cls.max()) + 1)", "sorted(set(lost))"), "A class that loses nothing counts as 0"),
    ("26_diverse", "check_inside", ("torch.minimum(area", "torch.maximum(area"), "You divided by the joint area or by the larger one"),
    ("26_diverse", "check_inside", (".clamp(min=0)", ""), "two negative sides make a positive area"),
    ("27_collide", "check_loudest_stranger", "lambda terms, cls, winner: terms.argmax(1)", "leave the winner's own prototypes out"),
    ("27_collide", "check_loudest_stranger", ("terms.masked_fill", "terms.abs().masked_fill"), "do not take sizes"),
    ("27_collide", "check_terms_against", "lambda s, W, y: margin_terms(s, W)[0]", "winner and truth are one class"),
    ("27_collide", "check_terms_against", "lambda s, W, y: (s * (W[(s @ W.T).argmax(1)] - W[y])).sum(1)", "do not sum them"),
    ("28_card", "check_unsure", ("m.low <= m.chance <= m.high", "m.low < m.chance < m.high"), "the ends belong to the interval"),
    ("28_card", "check_unsure", ("m.low <= m.chance <= m.high", "m.chance <= m.high"), "this line is better than chance"),
    ("28_card", "check_gained", ("sign[m.better] * ", ""), "less is better for 'down'"),
    ("28_card", "check_gained", ("'low': -1", "'low': -1, '': 1"), "no direction is better: leave it out"),
    ("29_ingredients", "check_effect", ("(b - a + d - c) / 2", "b - a"), "take the mean over both sizes"),
    ("29_ingredients", "check_effect", ("(b - a + d - c) / 2, (c - a + d - b) / 2", "(c - a + d - b) / 2, (b - a + d - c) / 2"), "the cosine comes first"),
    ("29_ingredients", "check_angle", ("1 - torch.acos", "torch.acos"), "turn it round"),
    ("29_ingredients", "check_angle", (".clamp(-1, 1)", ""), "clamp it"),
    ("30_prune", "check_safest", "lambda count, cls: count.min()", "1 is the worst prototype of all"),
    ("30_prune", "check_safest", "lambda count, cls: count.max()", "the class that vanishes first decides"),
    ("30_prune", "check_safest", ("return ", "return 1 + "), "with threshold=5 class 1 is empty"),
    ("30_prune", "check_safest", "lambda count, cls: 3", "not the largest that is"),
    ("30_prune", "check_alike_count", (".sum(1)", ""), "one number a prototype"),
    ("30_prune", "check_alike_count", ("families[near.label]", "near.label"), "translate `near.label`, too"),
    ("30_prune", "check_alike_count", ("families[cls]", "cls"), "translate `cls` into families, too"),
    ("30_prune", "check_alike_count", ("==", "!="), "as own_count says"),
    ("31_edit", "check_silent", "lambda W: (W == 0).all(1).nonzero()[:, 0].tolist()", "look at columns"),
    ("31_edit", "check_silent", "lambda W: (W.sum(0) == 0).nonzero()[:, 0].tolist()", "the sum is 0, the weights are not"),
    ("32_board", "check_count_words", "lambda words: {j: 1 for j in words}", "these are the prototypes: count their words"),
    ("32_board", "check_count_words", "lambda words: {w: 1 for w in words.values()}", "two were removed"),
    ("33_confound", "check_left_over", "lambda terms, guilty: terms", "one number an image"),
    ("33_confound", "check_left_over", "object_share", "this is the share of the guilty ones"),
    ("33_confound", "check_almost", "lambda seed: ringed_splits(seed, sizes=(2, 1, 1))", "Expected 20 of each of 16 species"),
    ("34_augment", "check_area_kept", (".abs()", ""), "take the absolute value"),
    ("34_augment", "check_area_kept", "lambda M: (M[:, 0, 0] * M[:, 1, 1]).abs()", "the numbers off the diagonal count"),
    ("34_augment", "check_area_kept", "lambda M: torch.linalg.det(M[0, :2, :2]).abs()", "one number for each matrix"),
    ("34_augment", "check_area_kept", (".abs()", ".abs().sqrt()"), "half the width and half the height"),
    ("34_augment", "check_random_crop", ("[share, share, 1.0]", "[1 / share, 1 / share, 1.0]"), "goes from new to old"),
    ("34_augment", "check_random_crop", ("(1 - share)", "share"), "looks out of the picture"),
    ("34_augment", "check_random_crop", ("torch.rand(n, 2)", "torch.rand(1, 2)"), "all crops show the same place"),
    ("34_augment", "check_random_crop", ("torch.rand(n, 2)", "torch.rand(n, 1)"), "lie on a diagonal"),
    ("34_augment", "check_random_crop", ("(2 * torch.rand(n, 2) - 1)", "torch.rand(n, 2)"), "to either side"),
    ("35_cache", "check_sizes", ("f.parent.name", "f.parent"), "the keys are the names of the folders"),
    ("35_cache", "check_sizes", ("-pair[1]", "pair[1]"), "turn the order round"),
    ("35_cache", "check_sizes", ("-pair[1]", "pair[0]"), "sort by the bytes"),
    ("35_cache", "check_sizes", ("f.stat()", "f.parent.stat()"), "weigh that file, not its folder"),
    ("35_cache", "check_fooled", "lambda x: x", "nothing was changed"),
    ("35_cache", "check_fooled", ("x[::-1].copy()", "x[1:]"), "uint8 of shape"),
    ("35_cache", "check_fooled", "lambda x: np.concatenate([x[:1] ^ 1, x[1:]])", "it would be noticed"),
    ("35_cache", "check_fooled", "lambda x: np.copyto(x, x[::-1].copy()) or x", "make a copy"),
    ("37_sources", "check_place_of", "lambda word: read_word(word)[1]", "the name of the set, not a folder"),
    ("37_sources", "check_place_of", (" or 'data'", ""), "sets lie in data"),
    ("37_sources", "check_place_of", ("rest.partition(':')", "rest.rpartition(':')"), "the name of the set, not a folder"),
    ("37_sources", "check_place_of", ("rest.partition(':')[2]", "''.join(rest.split(':')[1:2])"), "cut at the first colon only"),
    ("37_sources", "check_deal_bursts", "lambda burst, share, seed: torch.rand(len(burst), generator=torch.Generator().manual_seed(seed)) < share", "choose bursts, not pictures"),
    ("37_sources", "check_deal_bursts", ("return ", "return ~"), "true are the bursts that were NOT chosen"),
    ("37_sources", "check_deal_bursts", ("generator=torch.Generator().manual_seed(seed)", ""), "with a generator of your own"),
    ("37_sources", "check_deal_bursts", ("manual_seed(seed)", "manual_seed(0)"), "the seed is not used"),
    ("38_legacy", "check_silent", (".amin(1)", ""), "one answer an image"),
    ("38_legacy", "check_silent", ("amin", "amax"), "the nearest decides"),
    ("38_legacy", "check_silent", ("d.masked_fill(~own, torch.inf)", "d"), "look at own prototypes only"),
    ("38_legacy", "check_twins", ("if place[0] >= 0:", "if True:"), "leave out image -1"),
    ("38_legacy", "check_twins", ("zip(found.image.flatten().tolist(), found.cell.flatten().tolist())", "zip(found.image.flatten().tolist())"), "took another cell of the same image"),
    ("38_legacy", "check_twins", ("groups.setdefault(place", "groups.setdefault(place[1]"), "took the same cell of another image"),
    ("38_legacy", "check_twins", ("len(g) > 1", "True"), "nobody is a twin alone"),
    ("39_paper", "check_backbone_rate", ("0.0 if epoch < 5 else ", ""), "the backbone holds still"),
    ("39_paper", "check_backbone_rate", ("(epoch - 5 + legacy)", "(epoch + legacy)"), "the staircase begins with the joint stage"),
    ("39_paper", "check_backbone_rate", ("0.1 **", "0.5 **"), "not half of it"),
    ("39_paper", "check_backbone_rate", ("+ legacy", ""), "epoch 9 has 1e-5"),
    ("39_paper", "check_backbone_rate", ("+ legacy", "+ 2 * legacy"), "epoch 8 has 1e-4"),
    ("39_paper", "check_ping_pong", ("'ping-pong'", "'ping'"), "the stage is named 'ping-pong'"),
    ("39_paper", "check_ping_pong", ("Turn(a, 1), Turn(b, 1)", "Turn(a), Turn(b)"), "runs to the end of its stage"),
    ("39_paper", "check_ping_pong", ("[Turn(a, 1), Turn(b, 1)] * times", "[Turn(a, times), Turn(b, times)]"), "take turns of one row"),
    ("39_paper", "check_ping_pong", ("Turn(a, 1), Turn(b, 1)", "Turn(b, 1), Turn(a, 1)"), "a 1, b 1, a 2, b 2"),
]
TOLD = [  # lesson, checker, a wrong answer that must be told in some words
    ("19_truth", "check_commonest", "lambda shown: max(set(shown[0]), key=shown[0].count)"),
    ("19_truth", "check_disagree", "lambda a, b: [j for j, (u, v) in enumerate(zip(a, b)) if u != v]"),
    ("36_cub", "check_box_share", "lambda cub: (cub.boxes[:, 2] - cub.boxes[:, 0]) * (cub.boxes[:, 3] - cub.boxes[:, 1]) / cub.sizes.prod()"),
    ("36_cub", "check_mirrored", "lambda points, parts, size: torch.stack([(size - 1 - points[..., 0]) * points[..., 2], points[..., 1], points[..., 2]], 2)"),
    ("40_compare", "check_all_terms", "lambda models, x, target: torch.cat([m(x).s * m.last.weight[target] for m in models], 0)"),
    ("40_compare", "check_pooled", "lambda n, L: (n / L, 1.0)"),
    ("41_runs", "check_gain", "lambda choice: choice['candidates'][-1]['accuracy'] - choice['candidates'][1]['accuracy']"),
    ("41_runs", "check_optimism", "lambda p, n, k, rounds=4000: 0.01"),
    ("42_cli", "check_plan", "lambda words: ', '.join(words)"),
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    "Some lessons work in a folder that they make; their checkers alone would write into the reader's"
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("lesson", "checker", "wrong", "phrase"), WRONG, ids=[f"{lesson}-{checker}-{n}" for n, (lesson, checker, *_) in enumerate(WRONG)])
def test_a_wrong_answer_is_told_what_is_wrong(lesson, checker, wrong, phrase): says(lesson, checker, wrong, phrase)


@pytest.mark.parametrize(("lesson", "checker", "wrong"), TOLD, ids=[f"{lesson}-{checker}" for lesson, checker, _ in TOLD])
def test_a_wrong_answer_is_told_in_words(lesson, checker, wrong):
    one = card(lesson, checker)
    said = complaint(one.check, eval(wrong, one.names))
    assert len(said.split()) > 3 and not said.startswith("=="), f"{lesson}: {checker} says only {said!r}"


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_solution_passes(lesson):
    for checker in checkers(lesson): accepts(lesson, checker)


def test_each_checker_is_met():
    lessons = {lesson for lesson, *_ in WRONG}
    slow = {("31_edit", "check_dearest"), ("32_board", "check_taken")}                # these need a trained network: their lessons alone run them
    assert {(lesson, checker) for lesson, checker, *_ in WRONG} | slow == {(lesson, checker) for lesson in lessons for checker in checkers(lesson)}
