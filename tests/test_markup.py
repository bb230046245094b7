"The pages as a browser reads them: every tag is closed where it should be, and names of classes, images and models stay words"
from collections import Counter
from html import escape
from html.parser import HTMLParser

import pytest
import test_widgets
from test_widgets import MADE

from protolab.film import Frame, film_reel, film_view, strip_html
from protolab.gallery import page, table_html
from protolab.street import folded

VOID = {"meta", "img", "br", "hr", "link", "input", "polyline"}
INSIDE = {"summary": {"details"}, "figcaption": {"figure"}, "tr": {"table"}, "td": {"tr"}, "th": {"tr"}}
INLINE = {"span", "p", "h1", "h2", "h3", "h4", "small", "strong", "b", "i", "em", "u", "a"}          # what may not hold a block
BLOCKS = {"div", "p", "header", "section", "table", "details", "h1", "h2", "h3", "h4"}
NASTY = ["</style></span><script>x</script>", "\"' onmouseover='x' a=\"", "&lt;b&gt; &amp <!-- × weight = {end}"]


class Reader(HTMLParser):
    "Follows the open tags, and notes what is wrong with them"
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.wrong, self.tags, self.words, self.named = [], [], Counter(), [], Counter()

    def handle_starttag(self, tag, attrs):
        names, above = [name for name, _ in attrs], self.open[-1] if self.open else ""
        self.tags[tag] += 1
        self.named.update(value for name, value in attrs if name == "id")
        self.words += [value for name, value in attrs if name in ("alt", "aria-label")]
        if len(set(names)) < len(names): self.wrong.append(f"<{tag}> has an attribute twice: {names}")
        if odd := set(names) - {"alt", "class", "style", "src", "role", "aria-label", "aria-hidden", "open", "name", "href", "id", "lang", "charset", "content"} \
                - ({"viewBox".lower(), "width", "height", "preserveaspectratio", "points", "fill", "stroke-width", "stroke-linejoin", "vector-effect", "stroke-dasharray"}):
            self.wrong.append(f"<{tag}> has the attributes {sorted(odd)}")
        if tag in INSIDE and above not in INSIDE[tag]: self.wrong.append(f"<{tag}> in <{above}>")
        if tag in BLOCKS and above in INLINE: self.wrong.append(f"<{tag}> in <{above}>")
        if tag not in VOID: self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID: self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag: self.wrong.append(f"</{tag}> where another tag was open")

    def handle_data(self, data): self.words.append(data)


def read(html):
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert not reader.wrong and not reader.open, (reader.wrong[:5], reader.open)
    assert "script" not in reader.tags and max(reader.named.values(), default=1) == 1
    return reader


@pytest.mark.parametrize("html, complaint", [
    ("<div><p>a</div>", "</div> where"), ("<p>a<div>b</div></p>", "<div> in <p>"), ('<img alt="a" alt="b">', "twice"), ("<i onclick='x'></i>", "onclick"), ("<div>", "div"),
    ("<details><div><summary>a</summary></div></details>", "<summary> in <div>")])
def test_the_reader_sees_what_is_wrong(html, complaint):
    with pytest.raises(AssertionError, match=complaint): read(html)


@pytest.fixture(params=MADE)
def gallery(request, monkeypatch):
    monkeypatch.setattr(test_widgets, "CLASSES", NASTY)
    made = MADE[request.param]()
    yield made
    made.close()


def test_a_gallery_stays_whole_whatever_its_classes_are_called(gallery, tmp_path):
    gallery.to_html(tmp_path/"page.html")
    told = " ".join(read((tmp_path/"page.html").read_text(encoding="utf-8")).words)
    assert NASTY[0] in told and NASTY[1] in told
    read(gallery.screen.value)


def test_films_stages_and_tables_stay_whole(monkeypatch):
    monkeypatch.setattr(test_widgets, "CLASSES", NASTY)
    album, film = test_widgets.album(), [Frame(n, NASTY[n // 2], n % 2, test_widgets.frame(n)[3], {}) for n in range(4)]
    reel = film_reel(album, film, 1)
    for html in (*(view.value for view in reel.stack.children), strip_html(album, film, 1)):
        assert any(name in " ".join(read(html).words) for name in NASTY)
    reel.close()
    for html in (page(NASTY[0], [(NASTY[1], film_view(album, film, 0, 0)), (NASTY[2], table_html([(NASTY[0], NASTY[1])], NASTY[:2]))], NASTY[2]), folded(NASTY[1], escape(NASTY[0]))):
        assert NASTY[1] in " ".join(read(html).words)
