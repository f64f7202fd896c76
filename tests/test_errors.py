import pickle

import pytest

from lemis.errors import DataFault, Interrupted, LemisError, TrainingStopped, UsageError


@pytest.mark.parametrize("kind", [UsageError, DataFault])
def test_message_says_what_was_given_what_is_allowed_and_what_to_do(kind):
    error = kind("--fold 7", allowed="folds are 0 to 4", next="lemis fit scans/ --fold 0")
    assert str(error) == "--fold 7\n  allowed: folds are 0 to 4\n  next:    lemis fit scans/ --fold 0"


@pytest.mark.parametrize("kind", [UsageError, DataFault])
def test_errors_come_back_whole_from_a_worker_process(kind):
    error = kind("given", allowed="allowed", next="next")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert (again.given, again.allowed, again.next) == ("given", "allowed", "next")


def test_exit_codes():
    assert [kind.exit_code for kind in (LemisError, UsageError, DataFault, TrainingStopped, Interrupted)] == [
        1, 2, 3, 1, 130,
    ]  # fmt: skip
