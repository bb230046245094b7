"The board without a browser: buttons are pressed, the desk answers, the page shows it"
import io
import re

import pytest
import torch
from looking import living
from PIL import Image

from protolab.backbone import geometry
from protolab.board import BoardGallery, board_card, board_view, destinations, edit_lines, edit_words, scene_of
from protolab.core import seed_everything
from protolab.data import Images, Loader, Loaders
from protolab.edit import Desk
from protolab.gallery import Album, Thumbs
from protolab.model import tiny_model
from protolab.project import project_

SIZE = 32


def made():
    "Three classes, two prototypes each, on random pictures"
    seed_everything(0)
    model, y = tiny_model(), torch.arange(24) % 3
    images = Images(torch.randint(256, (24, 3, SIZE, SIZE), dtype=torch.uint8), y, model.classes, [f"picture {i} <b>" for i in range(24)])
    dls = Loaders(*[Loader(images, model.backbone.stats)] * 4)
    model.eval()
    project_(model, dls.project, geometry(model.backbone, (SIZE, SIZE)))
    return Desk(model, dls), Album(model.provenance, Thumbs(images.x), model.classes)


@pytest.fixture
def board():
    one = BoardGallery(*made())
    yield one
    one.close()


def press(board, name, *chosen):
    board.chosen.value = chosen
    board.buttons[name].click()


def test_remove_undo_redo(board):
    press(board, "remove", 1)
    assert edit_words(board.desk.state) == {1: "removed"} and "fitted again in" in board.said
    board.buttons["undo"].click()
    assert not board.desk.edits and board.buttons["undo"].disabled and not board.buttons["redo"].disabled
    board.buttons["redo"].click()
    assert [e.kind for e in board.desk.edits] == ["remove"] and board.buttons["redo"].disabled


def test_several_at_once_and_the_class_that_is_left_without(board):
    press(board, "forbid", 2, 3)
    assert [e.prototype for e in board.desk.edits] == [2, 3]
    assert board.screen.value.count("class 1 has no prototype left") == 1 and 'class="pl-warn"' in board.screen.value


def test_require_takes_the_weight_of_the_slider(board):
    board.least.value = 1.5
    press(board, "require", 4)
    state = board.desk.state
    assert board.desk.edits[0].least == 1.5 and state.W[2, 4] >= 1.5 and edit_words(state) == {4: "required"}


def test_move_goes_where_the_list_says(board):
    board.chosen.value = (5,)
    there = [value for _, value in board.to.options]
    board.to.value = there[2]
    board.buttons["move"].click()
    paper = board.desk.state.papers[5]
    assert (paper.image, paper.cell) == there[2] and edit_words(board.desk.state) == {5: "moved"}
    assert board.shown()[0].album.patches[5].image == paper.image, "the wall shows where it went"
    assert board.shown()[0].album.patches[4] is board.album.patches[4], "the others keep their boxes"


def test_the_sliders_choose_by_keyboard(board):
    "Left end: none; the list is heard back, and several that were chosen at once stay chosen"
    board.step.value = 5
    assert board.chosen.value == (5,) and "<small>chosen</small>" in board_card(board.shown()[0], 5)
    board.place.value = 2
    assert board.to.index == 2 and board.place.max == len(board.to.options) - 1
    board.chosen.value = (2,)
    assert board.step.value == 2 and board.place.value == 0
    board.chosen.value = (3, 4)
    assert board.chosen.value == (3, 4) and board.step.value == 2
    board.step.value = -1
    assert board.chosen.value == () and board.buttons["remove"].disabled


def test_destinations_are_the_nearest_of_the_class_in_other_images(board):
    "An independent search: a loop over images"
    state, j = board.desk.state, 3
    z, v = state.train.z, state.vectors[j, :, 0, 0]
    best = {i: ((z[i] - v[:, None, None]) ** 2).sum(0).min().item() for i in range(24) if state.train.y[i] == 1 and i != state.papers[j].image}
    found = destinations(state, j, 4)
    assert [p.image for p in found] == sorted(best, key=best.get)[:4]
    assert [p.distance for p in found] == pytest.approx(sorted(best.values())[:4], abs=1e-5)


def test_after_a_removal_another_can_move(board):
    press(board, "remove", 0)
    press(board, "move", 5)
    assert edit_words(board.desk.state) == {0: "removed", 5: "moved"}
    assert board.desk.state.papers[5].image == destinations(made()[0].state, 5, 1)[0].image


def test_what_the_desk_refuses_is_said(board):
    press(board, "remove", 0)
    before = list(board.desk.edits)
    press(board, "remove", 0)
    assert "was removed" in board.said and board.desk.edits == before and "was removed" in board.screen.value
    board.press("redo")
    assert "nothing to redo" in board.said


def test_nothing_chosen_nothing_done(board):
    board.press("remove")
    assert not board.desk.edits and board.buttons["remove"].disabled and "choose a prototype first" in board.said
    board.press("move")
    assert not board.desk.edits


def test_marks_are_words_not_colours_alone(board):
    press(board, "remove", 1)
    card = board_card(board.shown()[0], 1)
    assert "pl-removed" in card and "<small>removed</small>" in card and re.search(r'alt="[^"]*removed', card)
    assert "removed" not in board_card(board.shown()[0], 0)


def test_the_view_is_pure_and_escapes_names(board):
    press(board, "forbid", 1)
    scene = board.shown()[0]
    assert board_view(scene) == board_view(scene) and "<b>)" not in board_view(scene) and "picture" in edit_lines(board.desk.state)[0]
    assert scene_of(board.desk, board.album, (1,), board.said) == scene


def test_numbers_are_the_desks(board):
    press(board, "remove", 0)
    for what, a, b in board.desk.numbers().rows(): assert all(text in board.screen.value for text in (what, a))


def test_still_twin_page_and_no_widget_left(board, tmp_path):
    before = living()
    for n in range(20): board.chosen.value = (n % 6,)
    press(board, "remove", 2)
    assert living() == before
    board.to_html(tmp_path/"board.html")
    assert "removed" in (tmp_path/"board.html").read_text() and Image.open(io.BytesIO(board.sheet(*board.shown()))).width > 500


def test_an_album_of_another_model_is_refused(board):
    with pytest.raises(ValueError, match="make the album of the model"): BoardGallery(board.desk, Album(board.album.patches[:2], board.album.thumbs, board.album.classes))
