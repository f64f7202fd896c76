"""Label values and class indices, there and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from how_many import examples
from lemis.errors import DataFault
from lemis.preparation.classes import to_classes
from way_back import from_classes


@given(st.lists(st.integers(-50, 70000), unique=True, max_size=8), st.integers(0, 10**6))
@examples(60)
def test_any_integers_become_classes_and_come_back(values, seed):
    values = [0, *sorted(value for value in values if value != 0)]
    label = np.random.default_rng(seed).choice(values, (3, 4, 5))
    classes = to_classes(label, values)
    assert classes.dtype == np.uint8
    assert classes.max() < len(values)
    np.testing.assert_array_equal(from_classes(classes, values), label)
    assert ((classes == 0) == (label == 0)).all()


def test_an_unknown_label_value_is_refused():
    with pytest.raises(DataFault, match="label values 2, 7"):
        to_classes(np.array([0, 1, 2, 7]), (0, 1, 5))


def test_ignored_values_become_background():
    label = np.array([[0, 7, 1], [5, 9, 7]])
    np.testing.assert_array_equal(to_classes(label, (0, 1, 5), (7, 9)), [[0, 0, 1], [2, 0, 0]])
    with pytest.raises(DataFault, match="label values 9"):
        to_classes(label, (0, 1, 5), (7,))
