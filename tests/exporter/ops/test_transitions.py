"""What begins and what ends, by comparing one set with the next."""

from exporter.ops.transitions import Transitions


def test_transitions() -> None:
    """Each begin and each end is reported once."""
    transitions = Transitions()
    steps = ({"a"}, {"a"}, {"a", "b"}, {"b"}, set(), set())
    told = [transitions.update(step) for step in steps]
    assert [sorted(each.begun) for each in told] == [["a"], [], ["b"], [], [], []]
    assert [sorted(each.ended) for each in told] == [[], [], [], ["a"], ["b"], []]
