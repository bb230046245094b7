"""The exercises of the lessons 00 to 12: each checker accepts the solution, and tells a typical mistake in words. How an exercise is
taken out of its lesson: tests/exercises.py."""
import pytest
from conftest import ROOT
from exercises import accepts, card, checkers, complaint, says

LESSONS = [p.stem for p in sorted(ROOT.glob("nbs/[01][0-9]_*.ipynb")) if p.stem < "13"]
ALL = [(lesson, checker) for lesson in LESSONS for checker in checkers(lesson)]

WRONG = {  # (lesson, checker) -> a wrong answer (its source, or what is replaced in the solution) and a piece of what the checker says
    ("00_core", "check_decided"): [
        ("lambda s, W, c: s.argmax().item()", "multiply before you compare"),
        ("lambda s, W, c: W[c].argmax().item()", "the largest weight"),
        ("lambda s, W, c: (s * W[c]).abs().argmax().item()", "not the largest in size"),
        ("lambda s, W, c: (s * W[0]).argmax().item()", "take the row W[c]")],
    ("00_core", "check_place"): [
        (("shape[3]", "shape[2]"), "the height of the map"),
        ("lambda out, n, j: divmod(out.cell[n, j].item(), 5)[::-1]", "row and column have changed places"),
        ("lambda out, n, j: (1, 2)", "use n and j")],
    ("00_core", "check_private"): [
        ("lambda seed, n: (torch.manual_seed(seed), torch.rand(n))[1]", "the global generator has moved"),
        ("lambda seed, n: torch.rand(n)", "the same seed gave other numbers"),
        (("manual_seed(seed)", "manual_seed(0)"), "use the seed")],
    ("01_birds", "check_shared_part"): [
        ("lambda i, j: 'breast'", "a pair is expected"),
        ("lambda i, j: (2, 0)", "names are expected"),
        (("a == b", "a != b"), "hold the *same* number"),
        ("lambda i, j: ('breast', 'ember bib')", "use both numbers")],
    ("01_birds", "check_newcomers"): [
        (("max(", "min("), "look at the most similar one"),
        (("<= 2", "<= 3"), "they share three parts or more"),
        (("<= 2", "< 2"), "sharing exactly two parts is allowed"),
        ("lambda: 2 * newcomers()", "give each code once")],
    ("01_birds", "check_behind"): [
        ("lambda part, species, index: 0.0", "partly hidden"),
        (("((), ('occluder',))", "(('occluder',), ())"), "which of the two counts"),
        ("lambda part, species, index: min(1, (draw_bird(species, 0, index).parts == PART_ID['occluder']).sum() / 500)", "only the pixels of the part"),
        (("1 - np.divide", "-1 + 1 / np.divide"), "divide by the pixels of the whole part")],
    ("02_data", "check_brighten"): [
        ("lambda x: x * 1.2", "bytes were expected"),
        ("lambda x: ((x.int() * 6) // 5).to(torch.uint8)", "clamp in float"),
        ("lambda x: (x.int() + 51).clamp(0, 255).to(torch.uint8)", "times 1.2, not plus"),
        ("lambda x: x.copy_((x.float() * 1.2).clamp(0, 255).round())", "changed the batch")],
    ("02_data", "check_near_leaks"): [
        ((" / a.x[0].numel()", ""), "average the differences, do not add them"),
        ("lambda a, b, most: [(a.names[i], b.names[j]) for i in range(len(a)) for j in range(len(b)) if (a.x[i] - b.x[j]).float().mean() < most]", "bytes wrap round"),
        ("lambda a, b, most: [(a.names[i], b.names[j]) for i in range(len(a)) for j in range(len(b)) if abs((a.x[i].float() - b.x[j].float()).mean()) < most]", "absolute"),
        (("(a.names[i], b.names[j])", "(i, j)"), "pairs of names"),
        (("difference < most", "difference < 4"), "use `most`")],
    ("02_data", "check_stats_of"): [
        (("images.x / 255", "images.x.float()"), "divide by 255"),
        ("lambda images: Stats((images.x / 255).mean().item(), (images.x / 255).std().item())", "one number for each channel"),
        (("x.std((0, 2, 3))", "x.std((2, 3)).mean(0)"), "all pixels of all images together")],
    ("03_show", "check_one_scale"): [
        ("lambda maps: [(m.min().item(), m.max().item()) for m in maps]", "a scale for each map"),
        ("lambda maps: (maps[0].min().item(), maps[0].max().item())", "the lowest value over all maps"),
        (("max((", "max(0, *("), "do not start from 0")],
    ("03_show", "check_box_above"): [
        (("rows.max().item() + 1, cols.max().item() + 1", "rows.max().item(), cols.max().item()"), "the ends are excluded"),
        (("map >= level", "map > level"), ">=, not >"),
        ("lambda map, level: (3, 2, 7, 5)", "rows come first"),
        ("lambda map, level: (2, 3, 5, 7)", "use `level`")],
    ("04_backbone", "check_field_of"): [
        (("(kernel - 1) * step", "kernel * step"), "each adds k - 1"),
        (("step * stride", "step"), "2 pixels apart"),
        (("(kernel - 1) * step", "(kernel - 1) * step * stride"), "counts for the layers after it"),
        (("step * stride", "step + stride - 1"), "strides multiply")],
    ("04_backbone", "check_seen_share"): [
        (("field_box", "cell_box"), "those are the pixels of the cell's box"),
        (("geometry.size[0] * geometry.size[1]", "geometry.size[0] ** 2"), "height times width"),
        ("lambda cell, g: g.field[0] * g.field[1] / (g.size[0] * g.size[1])", "cut by the rim")],
    ("04_backbone", "check_tiny"): [
        ("lambda pretrained: nn.Conv2d(3, 16, 4, 4)", "wrap your layers in Backbone"),
        (("nn.Conv2d(3, 8, 4, 2, padding=1)", "nn.Conv2d(3, 8, 3, 2, padding=1)"), "are all kernels that step even"),
        (("nn.Conv2d(16, 16, 3, padding=1)", "nn.Conv2d(16, 16, 1)"), "too narrow"),
        (("channels=16", "channels=8"), "16 channels come out"),
        (("nn.Conv2d(16, 16, 3, padding=1)", "nn.Conv2d(16, 64, 3, padding=1)"), "`channels` says")],
    ("05_prototypes", "check_distance_at"): [
        (("1 - eps * s.exp()", "eps * s.exp() - 1"), "check the sign"),
        (("1 - eps * s.exp()", "1"), "you left eps out"),
        (("eps * s.exp()", "0.0001 * s.exp()"), "use the argument")],
    ("05_prototypes", "check_second_distances"): [
        (("kthvalue(2).values", "amin(2)"), "that is the nearest patch"),
        (("kthvalue(2).values", "topk(2).values[..., 1]"), "*farthest*"),
        ("lambda z, p: distance_maps(z, p).sort().values[..., 1]", "flatten the map first"),
        ("lambda z, p: distance_maps(z, p).unique()[1].view(1, 1)", "count patches, not different numbers")],
    ("05_prototypes", "check_soft_distances"): [
        (("(-d / t)", "(d / t)"), "the sign in the softmax is wrong"),
        (("-d / t", "-d * t"), "divide by t, do not multiply"),
        (("softmax(2)", "softmax(1)"), "over the cells"),
        ("lambda z, p, t: min_distances(z, p)[0]", "plain mean"),
        ("lambda z, p, t: soft_distances(z, p, t).detach()", "has no gradient")],
    ("06_model", "check_without"): [
        ("lambda model, out, j: out.s - out.s[:, j, None]", "take column j"),
        ("lambda model, out, j: out.logits - out.s[:, j, None]", "multiply by W[:, j]"),
        ("lambda model, out, j: out.logits - out.s[:, j] * model.last.weight[:, j]", "an axis of its own"),
        ("lambda model, out, j: (model.last.weight.data[:, j].zero_(), out.s @ model.last.weight.T)[1]", "leave the model as it is"),
        (("[:, j]", "[:, 0]"), "exactly one contribution goes")],
    ("06_model", "check_drop"): [
        (("new.last.weight.copy_(model.last.weight[:, keep])", "pass"), "copy the columns that stay"),
        (("layer.vectors.copy_(model.prototypes.vectors[keep])", "pass"), "copy vectors[keep]"),
        (("model.add_on, layer", "__import__('copy').deepcopy(model.add_on), layer"), "pass model.add_on itself"),
        (("model.cls[keep]", "model.cls[:3]"), "the classes of those that stay"),
        ("lambda model, j: model", "a new ProtoPNet is wanted")],
    ("07_loss", "check_moved"): [
        ("lambda d, own: own.any(0).nonzero().flatten().tolist()", "only the nearest one"),
        ("lambda d, own: d.argmin(1).unique().tolist()", "of another class"),
        ("lambda d, own: (d * own).argmin(1).unique().tolist()", "fill with infinity"),
        ((".unique()", ""), "each named once")],
    ("07_loss", "check_separation_capped"): [
        ("lambda d, own, cap: separation(d, own).clamp_max(cap)", "cap each image before the mean"),
        ("lambda d, own, cap: separation(d, own)", "nothing was capped"),
        (("~own", "own"), "separation looks at the others"),
        ("lambda d, own, cap: separation_capped(d, own, cap).detach()", "has no gradient")],
    ("08_seeding", "check_evidence_spread"): [
        ((".sum(1).float().mean()", ".sum()"), "the mean over the images"),
        (("e.flatten(1).amax(1, keepdim=True)", "e.amax()"), "each image has its own largest"),
        ((".sum(1).float().mean()", ".float().mean()"), "the share of the cells")],
    ("08_seeding", "check_cover"): [
        (("len(tells[v] - told)", "len(tells[v])"), "rivals not told yet"),
        ((" if v not in chosen", ""), "chosen twice"),
        (("range(len(tells))", "reversed(range(len(tells)))"), "of equals the first"),
        (("(set(), [])", "(tells[0], [])"), "word 0 tells three rivals")],
    ("09_train", "check_ramp"): [
        (("step / (epochs * batches)", "step / epochs"), "the number of all steps"),
        (("step / (epochs * batches)", "step / (epochs * batches - 1)"), "not by one less"),
        (("step / (epochs * batches)", "(step + 1) / (epochs * batches)"), "the first step has the number 0"),
        ("lambda optimizer, epochs, batches: None", "return the LambdaLR")],
    ("09_train", "check_average"): [
        (("state['done'] = done + 1", "pass"), "write the number of epochs done into state"),
        (("stage.name = 'average'", "pass"), "set stage.name"),
        ((" / 2)", ")"), "is the head changed in place")],
    ("10_project", "check_purity"): [
        (("mean(1)", "mean(0)"), "the mean goes over the neighbours"),
        (("cls[:, None]", "cls"), "row j belongs to prototype j"),
        ((".float().mean(1)", ".sum(1)"), "divided by the number of neighbours"),
        (("mean(1)", "mean()"), "one number for each prototype")],
    ("10_project", "check_crowded"): [
        ("lambda patches, m: sorted({p.name for p in patches if sum(q.name == p.name for q in patches) > m})", "count images"),
        (("> m", ">= m"), "more than m"),
        (("sorted({p.name for p in patches if count[p.image] > m})", "[p.name for p in patches if count[p.image] > m]"), "not once a prototype")],
    ("10_project", "check_best_total"): [
        ("lambda d: without_replacement(d, [list(range(len(d)))] * len(d)).tolist()", "greedy"),
        ("lambda d: d.argmin(1).tolist()", "the same patch"),
        ("lambda d: [best_total(d).index(k) for k in range(len(d))]", "which prototype each *patch* gets")],
    ("11_last_layer", "check_soft"): [
        ("lambda v, price: v - price * v.sign()", "the corner 0"),
        ("lambda v, price: (v.abs() - price).clamp(min=0)", "keep the sign"),
        ("lambda v, price: v * (v.abs() > price)", "pays the price as well"),
        (("- price", "- 1"), "use `price`")],
    ("11_last_layer", "check_against"): [
        ((" and (not own[c, j])", ""), "leave own prototypes out"),
        (("W[c, j] < 0 and ", ""), "only weights below 0"),
        (("W[c].argsort().tolist()", "range(W.shape[1])"), "the strongest comes first"),
        (("W[c].argsort()", "W[0].argsort()"), "the strongest comes first")],
    ("11_last_layer", "check_silence"): [
        (("max().item()", "max().item() / 2"), "the price is too low"),
        (("[~task.own].abs().max()", "[~task.own].max()"), "too low"),
        (("[~task.own].abs()", ".abs()"), "only the slopes of *off* weights"),
        ("lambda s, y, cls: slope(problem(s, y, cls), problem(s, y, cls).own.double())[1][~problem(s, y, cls).own].abs().max().item()", "that `solve` finds")],
    ("12_explain", "check_enough"): [
        ((".sort(descending=True).values", ""), "sort, the largest first"),
        ((" + 1", ""), "count from 1"),
        (("share * logit", "share * terms.clamp(min=0).sum()"), "2 terms, not"),
        ("lambda terms, logit, share: min(2, enough(terms, logit, share))", "before the negative terms come")],
    ("12_explain", "check_versus"): [
        (("W[a] - W[b]", "W[b] - W[a]"), "the sign is turned round"),
        (("W[a] - W[b]", "W[a]"), "it also takes 1.5 from class 1"),
        (("s * (W[a] - W[b])", "W[a] - W[b]"), "multiply by the similarity"),
        ("lambda s, W, a, b: versus(s, W, a, b).sum()", "do not sum")],
    ("12_explain", "check_half_box"): [
        ("lambda map: box_round(map >= (map.min() + map.max()) / 2)", "use peak_region"),
        (("(map.min() + map.max()) / 2", "map.max()"), "it belongs to the box"),
        (("(map.min() + map.max()) / 2", "map.max() / 2"), "half of the way from the *smallest* value")],
}
CASES = [(*key, wrong, phrase) for key, cases in WRONG.items() for wrong, phrase in cases]


@pytest.mark.parametrize("lesson, checker", ALL, ids=[checker for _, checker in ALL])
def test_the_solution_is_accepted(lesson, checker): accepts(lesson, checker)


@pytest.mark.parametrize("lesson, checker, wrong, phrase", CASES, ids=[f"{checker}-{phrase}" for _, checker, _, phrase in CASES])
def test_the_checker_says_what_is_wrong(lesson, checker, wrong, phrase): says(lesson, checker, wrong, phrase)


def test_every_checker_has_wrong_answers():
    "Two at least for each"
    assert set(WRONG) == set(ALL)
    assert not [key for key, cases in WRONG.items() if len(cases) < 2]


def test_a_content_checker_is_found_out():
    "The proof can fail: a checker that is content with a wrong answer, one that speaks of something else, and a solution that isn't there"
    one = card("00_core", "check_decided")
    assert complaint(lambda f: None, one.solution) == ""
    with pytest.raises(AssertionError, match="is content"): says("00_core", "check_decided", one.solution, "multiply")
    with pytest.raises(AssertionError, match="and not"): says("00_core", "check_decided", "lambda s, W, c: 0", "the height of the map")
    with pytest.raises(AssertionError, match="does not contain"): card("00_core", "check_decided", "argmin", "argmax")
