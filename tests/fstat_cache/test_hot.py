"""When a watch becomes hot, and when it cools down."""

from fstat_cache.hot import BATCHES_IN_A_ROW, QUIET_S, ROW_GAP_S, HotWatches


def test_several_batches_in_a_row_make_a_watch_hot() -> None:
    """The watch in each of the latest batches becomes hot, the one that was missing from one of them does not."""
    hot = HotWatches()
    for number in range(BATCHES_IN_A_ROW - 1):
        assert hot.after_batch([1, 2] if number else [1], now=number * 0.1) == []
    assert hot.after_batch([1, 2], now=0.5) == [1]


def test_batches_far_apart_are_not_in_a_row() -> None:
    """A lone file written now and then is in every batch there is, and stays armed."""
    hot = HotWatches()
    for number in range(10):
        assert hot.after_batch([1], now=number * (ROW_GAP_S + 0.1)) == []


def test_a_hot_watch_cools_down_when_quiet() -> None:
    """It is armed again after it was found unchanged for a while, counted from the last change."""
    hot = HotWatches()
    hot.add(1, now=0.0)
    assert hot.after_samples([1], now=1.0) == []
    assert hot.after_samples([], now=QUIET_S + 0.9) == []
    assert hot.after_samples([], now=QUIET_S + 1.1) == [1]
    hot.discard(1)
    assert 1 not in hot
    assert len(hot) == 0


def test_a_hot_watch_is_not_made_hot_again() -> None:
    """Left-over events of a watch that is hot already, such as a rename, do not count."""
    hot = HotWatches()
    hot.add(1, now=0.0)
    for number in range(BATCHES_IN_A_ROW):
        assert hot.after_batch([1], now=number * 0.1) == []


def test_left_over_events_keep_a_watch_hot() -> None:
    """The look that they have led to has seen what was written, so the sample right after sees no change."""
    hot = HotWatches()
    hot.add(1, now=0.0)
    hot.after_batch([1], now=0.5)
    assert hot.after_samples([], now=0.5) == []
    assert hot.after_samples([], now=0.5 + QUIET_S) == [1]
