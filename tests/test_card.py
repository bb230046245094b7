"The report card: when a word is said and when not, what can't be measured, files, and planted networks"
import json
import re
from math import inf, isfinite, nan

import pytest
import torch

from protolab.backbone import geometry, make_backbone
from protolab.card import (BELIEFS, CLEAR, REASONS, STEPS, Asked, Card, Step, apart, card_from_json, card_of, collect, doubt, line_html, number, objection, report, sentence,
                           strip_svg, track)
from protolab.core import seed_everything
from protolab.data import Images, Loader, Splits, bird_splits
from protolab.metrics import Metric, measured, planted
from protolab.model import tiny_model
from protolab.project import project_
from protolab.truth import truth_from_boxes, truth_of


def metric(value=0.5, low=None, high=None, chance=nan, better="high", name="consistency", n=10):
    low, high = value - 0.1 if low is None else low, value + 0.1 if high is None else high
    return Metric(name, value, low, high, n, "prototypes", chance, better, "", "", torch.full((n,), value, dtype=torch.float64))


@pytest.fixture(scope="module")
def birds(): return bird_splits(3, per_class=2, valid=1, test=6).test


@pytest.fixture(scope="module")
def found(birds):
    "Both networks of the lesson: five prototypes a species, each on its part, or all in a corner"
    truth, geo, cls = truth_of(birds), geometry(make_backbone("lite0"), (96, 96)), torch.arange(16).repeat_interleave(5)
    places = {"honest": truth.points[:, torch.arange(80) % 5].float(), "liar": torch.full((len(birds), 80, 2), 4.)}
    return {name: card_of(Asked(planted(birds.y, geo, place, cls), birds, truth), name) for name, place in places.items()}


# -- words --------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("better, value, low, high, chance, limit, said", [
    ("high", 0.9, 0.85, 0.95, 0.1, 0.8, ""),                    # far above both
    ("high", 0.8, 0.75, 0.85, 0.1, 0.8, ""),                    # just at the limit
    ("high", 0.79, 0.75, 0.85, 0.1, 0.8, "at least 0.80"),
    ("high", 0.9, 0.85, 0.95, 0.85, 0.8, "reaches chance"),     # the lower end touches
    ("high", 0.9, 0.86, 0.95, 0.85, 0.8, ""),
    ("high", 0.3, 0.2, 0.4, 0.3, 0.1, "no better than chance"),
    ("high", 0.2, 0.1, 0.25, 0.3, 0.1, "no better than chance"),
    ("low", 0.05, 0.0, 0.1, 0.5, 0.1, ""),
    ("low", 0.11, 0.0, 0.2, 0.5, 0.1, "at most 0.10"),
    ("low", 0.4, 0.3, 0.5, 0.5, 0.9, "reaches chance"),
    ("low", 0.6, 0.55, 0.65, 0.5, 0.9, "no better than chance"),
    ("high", 0.01, 0.0, 0.1, nan, nan, ""),                     # nothing to compare with
    ("", 0.5, 0.4, 0.6, 0.9, 0.9, ""),                          # no direction, no word
])
def test_an_objection_is_made_exactly_when_it_should(better, value, low, high, chance, limit, said):
    got = objection(metric(value, low, high, chance, better), limit)
    assert (said in got) if said else got == ""


def test_nothing_counted_is_no_word(): assert doubt(measured("consistency", [], 0.5)) == ""


def test_a_word_names_belief_measure_and_number():
    assert doubt(metric(0.1, chance=0.2)) == "Do not trust that a prototype means the same part in every image: consistency is 0.10, no better than chance, 0.20."
    assert doubt(metric(0.1, chance=0.2, name="charm")) == "Do not trust what charm stands for: charm is 0.10, no better than chance, 0.20."


@pytest.mark.parametrize("name", sorted(name for name, (_, limit) in BELIEFS.items() if isfinite(limit)))
def test_each_limit_can_speak(name):
    "A value on the wrong side of a measure's limit is said, one on the right side is not"
    limit, better = BELIEFS[name][1], "low" if name in ("boxes without a part", "OIRR", "deletion", "prototypes a logit", "cross-class evidence") else "high"
    wrong = 0.1 if better == "low" else -0.1
    assert BELIEFS[name][0] in doubt(metric(limit + wrong, better=better, name=name))
    assert doubt(metric(limit - wrong / 2, better=better, name=name)) == ""


def test_a_value_just_short_of_its_limit_is_told_with_more_digits():
    assert apart(0.504, 0.5) == ("0.504", "0.500") and apart(-0.1, 0.5) == ("−0.10", "0.50")
    assert "OIRR is 0.504, where at most 0.500 is asked" in doubt(metric(0.504, better="low", name="OIRR"))


def test_places_at_random_are_no_objection_to_places_that_differ():
    assert doubt(metric(0.97, 0.95, 0.99, 0.98, name="distinctiveness")) == ""
    assert "at least 0.50 is asked" in doubt(metric(0.2, chance=0.98, name="distinctiveness"))


def test_the_card_says_aloud_when_it_has_no_word():
    good, bad = (Card("a", {}, {"g": [metric(v, chance=0.2)]}) for v in (0.95, 0.1))
    assert CLEAR[0] in good._repr_html_() and CLEAR[0] not in bad._repr_html_() and bad.words[0] in bad._repr_html_()


# -- planted networks ---------------------------------------------------------------------------------------------------------

def test_a_network_that_looks_at_a_corner_says_so(found):
    said = " ".join(found["liar"].words)
    for belief in ("means the same part", "looks at the animal", "points at the animal", "maps stay on the animal", "cover the animal", "different places"): assert belief in said
    values = {m.name: m.value for m in found["liar"].metrics}
    assert values["accuracy"] == 1 and values["consistency"] == 0 and values["pointing game"] == 0 and values["boxes without a part"] > 0.8


def test_a_network_that_looks_at_parts_says_none_of_it(found):
    assert not any("animal" in said or "part" in said for said in found["honest"].words)
    values = {m.name: m.value for m in found["honest"].metrics}
    assert values["accuracy"] == 1 and values["consistency"] == 1 and values["pointing game"] > 0.9 and values["boxes without a part"] < 0.1


def test_every_step_makes_the_lines_that_it_names(found, birds):
    for card in found.values():
        named = [name for step in STEPS if not {"model", "redraw"} & set(step.needs) for name in step.names]
        assert sorted(m.name for m in card.metrics) == sorted(named)
        assert set(card.missing) == {name for step in STEPS for name in step.names} - set(named)


# -- what can't be measured ---------------------------------------------------------------------------------------------------

def test_missing_lines_carry_the_reason_of_their_first_need():
    steps = [Step("g", ("a", "b"), ("points", "redraw"), lambda asked: 1 / 0), Step("g", ("c",), (), lambda asked: [metric(name="c")])]
    groups, missing = collect(Asked(None, None), steps)
    assert missing == {"a": REASONS["points"], "b": REASONS["points"]} and [m.name for m in groups["g"]] == ["c"]


@pytest.fixture(scope="module")
def network():
    "A tiny projected network of two classes, and its splits: labels alone"
    seed_everything(0)
    x, y = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8), torch.arange(2).repeat(6)
    images, model = Images(x, y, ["a", "b"], [f"image {i}" for i in range(12)]), tiny_model(2)
    project_(model, Loader(images), geometry(model.backbone, (32, 32)))
    return model, Splits(images, images, images, images)


def test_labels_alone_still_make_a_card(network):
    card = report(*network)
    names = [m.name for m in card.metrics]
    assert {"accuracy", "distinctiveness", "unique prototypes", "prototypes a logit"} <= set(names)
    assert card.missing["consistency"] == card.missing["stability"] == REASONS["points"] and card.missing["OIRR"] == REASONS["objects"]
    assert card.facts == {"test images": 12, "classes": 2, "prototypes": len(network[0].cls)}
    for what, why in card.missing.items(): assert f"<li>{what}: {why}</li>" in card._repr_html_()


def test_boxes_alone_allow_what_asks_for_the_animal(network):
    model, data = network
    truth = truth_from_boxes(torch.tensor([[4, 4, 28, 28]] * 12), (32, 32))
    card = report(model, data, truth)
    assert {"pointing game", "OIRR"} <= {m.name for m in card.metrics} and card.missing["consistency"] == REASONS["points"]
    assert not {"pointing game", "OIRR"} & set(card.missing)


def test_a_report_leaves_the_network_as_it_was(network):
    model, data = network
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    first, second = report(model, data), report(model, data)
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [sentence(m) for m in first.metrics] == [sentence(m) for m in second.metrics]
    model.eval()


# -- looks --------------------------------------------------------------------------------------------------------------------

def test_numbers(): assert [number(x) for x in (0.5, -0.126, nan, inf, 12)] == ["0.50", "−0.13", "–", "–", "12.00"]


def test_the_plot_stands_where_the_numbers_are():
    "138 pixels for 0 to 1, after a margin of 6"
    svg = strip_svg(metric(0.5, 0.25, 0.75, 0.1))
    assert 'circle cx="75.0"' in svg and 'x="40.5" y="7" width="69.0"' in svg and 'x1="19.8"' in svg
    assert 'role="img"' in svg and f'aria-label="{sentence(metric(0.5, 0.25, 0.75, 0.1))}"' in svg
    assert 'class="tick"' not in strip_svg(metric(chance=nan)) and "circle" not in strip_svg(measured("a", [], 0.5))


def test_the_track_grows():
    assert track(metric(0.5)) == (0, 1) and track(metric(7, 6, 9)) == (0, 10) and track(metric(12)) == (0, 20) and track(metric(-0.2, -0.4, 0)) == (-1, 1)
    assert "<small>0.00 to 20.00</small>" in line_html(metric(12)) and "0.00 to 1.00" not in line_html(metric(0.5, 0.4, 0.6))


def test_names_are_escaped():
    html = Card("<i>", {"<b>": "<u>"}, {"<g>": [metric(name='<x a="1">')]}, {"<m>": "<why>"})._repr_html_()
    for bad in ("<i>", "<b>", "<u>", "<g>", "<x ", "<m>", "<why>"): assert bad not in html
    assert not re.search(r'aria-label="[^"]*<', html)


# -- files --------------------------------------------------------------------------------------------------------------------

def same(a, b): return a[:3] == b[:3] and a[4:6] == b[4:6] and a[7:10] == b[7:10] and torch.equal(a.values, b.values) and number(a.chance) == number(b.chance)


def test_a_card_comes_back(tmp_path, found):
    odd = Card("odd", {"a": 1}, {"g": [measured("empty", []), metric(chance=nan, better="")], "none": []}, {"x": "why"})
    for card in (odd, *found.values()):
        card.to_json(tmp_path/"card.json")
        back = card_from_json(tmp_path/"card.json")
        assert (back.title, back.facts, back.missing, back.words) == (card.title, card.facts, card.missing, card.words)
        assert list(back.groups) == list(card.groups) and back._repr_html_() == card._repr_html_()
        assert all(same(a, b) or (a.n == b.n == 0 and b.value != b.value) for a, b in zip(card.metrics, back.metrics))


def test_the_file_is_json_for_everybody(tmp_path, found):
    def refuse(word): raise AssertionError(f"{word} is no JSON")
    found["honest"].to_json(tmp_path/"card.json")
    told = json.loads((tmp_path/"card.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert told["words"] == found["honest"].words and any(row["chance"] is None for rows in told["groups"].values() for row in rows)
    assert [p.name for p in tmp_path.iterdir()] == ["card.json"]


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path):
    (tmp_path/"card.json").write_text("old")
    with pytest.raises(TypeError): Card("a", {"x": object()}, {}).to_json(tmp_path/"card.json")
    assert (tmp_path/"card.json").read_text() == "old" and len([*tmp_path.iterdir()]) == 1


def test_another_format_is_refused(tmp_path):
    (tmp_path/"card.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="write the card again"): card_from_json(tmp_path/"card.json")
