"""Labels of a chart: beside their points, and never over one another."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tasks import labels
from tasks.labels import Box, Wish


@given(
    st.lists(
        st.builds(
            Wish,
            st.tuples(st.floats(0, 800), st.floats(0, 400)),
            st.just(6.0),
            st.lists(st.text("ab日", min_size=1, max_size=40), min_size=1, max_size=2),
            st.booleans(),
        ),
        max_size=40,
    )
)
def test_labels_never_overlap(wishes):
    """Neither each other, nor a point, nor what was taken before; and none leaves the chart."""
    within, taken = Box(0, 0, 800, 400), [Box(0, 100, 800, 102)]
    found = labels.placed(wishes, within, taken)
    boxes = [label.box for label in found if label]
    assert all(within.holds(box) for box in boxes)
    others = [*taken, *(wish.covered for wish in wishes)]
    assert not any(box.meets(other) for box in boxes for other in others)
    assert not any(a.meets(b) for a, b in itertools.combinations(boxes, 2))
    assert all(label is None or label.text in wish.texts for label, wish in zip(found, wishes, strict=True))


def test_a_label_alone_stands_beside_its_point():
    """The preferred text, to the right, with no line between them."""
    (label,) = labels.placed([Wish((100, 100), 6, ("a name", "1"), True)], Box(0, 0, 400, 200), [])
    assert (label.text, label.anchor, label.far) == ("a name", "start", False)
    assert 100 < label.box.left < 120
