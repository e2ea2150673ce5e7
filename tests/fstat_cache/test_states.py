"""The table of states, by enumeration; and when something is too busy for events."""

import itertools

import pytest

from fstat_cache.states import (
    BELIEVED,
    EVENT_KINDS,
    EVENTS,
    FILES,
    GONE,
    LOST,
    NEVER_WATCHED,
    POLLED,
    QUIET,
    RECHECK,
    REFUSED,
    REMOTE,
    SAMPLED,
    STATES,
    TABLE,
    Action,
    Event,
    Sampled,
    State,
    Threshold,
)

ALL = list(itertools.product(STATES, EVENT_KINDS))
WATCHED = (*BELIEVED, RECHECK)


def name_of(value: object) -> str | None:
    return value.reason or value.name if isinstance(value, State) else value.name if isinstance(value, Event) else None


@pytest.mark.parametrize(("state", "event"), ALL, ids=name_of)
def test_every_transition_keeps_the_promises(state: State, event: Event) -> None:
    """Nothing keeps a watch that needs none, is stat'ed before it is watched, or is believed without the kernel."""
    after, actions = TABLE[state, event]
    assert after in STATES
    assert (after is GONE) == (state is GONE), "only the owner forgets, and what is forgotten stays so"
    if state in WATCHED and after not in WATCHED:
        assert actions == (Action.UNWATCH,)
    else:
        assert Action.UNWATCH not in actions
    if state is GONE:
        assert actions == ()
    if Action.WATCH in actions:
        assert actions == (Action.WATCH, Action.STAT), "watch first, then stat"
    if after in BELIEVED and state not in BELIEVED:
        assert event.name == "is_watched"
    if state is RECHECK and Action.STAT in actions:
        assert Action.WATCH in actions, "a watch first: the path may lead to another inode with the same number"
    if after.reason in NEVER_WATCHED:
        assert Action.WATCH not in actions


def test_the_table_knows_all_states_and_events() -> None:
    """It is total, and has no row for anything else."""
    assert TABLE.keys() == set(ALL)


def test_lost_events_leave_nothing_believed() -> None:
    """After an overflow whatever is watched is to be watched again; what is asked for at each sync() is true anyway."""
    assert {state: TABLE[state, LOST] for state in STATES} == {
        state: (RECHECK if state in WATCHED else state, ()) for state in STATES
    }


def test_a_refusal_is_the_reason() -> None:
    """Whatever the state: the reason for which a file is polled is the latest one."""
    for reason, state in itertools.product(POLLED, set(STATES) - {GONE}):
        after, _ = TABLE[state, REFUSED[reason]]
        assert (after.reason, after.shown) == (reason, reason)


def test_all_but_what_is_never_watched_gets_events_again() -> None:
    """From every state a watch follows when somebody asks, or when it is quiet; from no other reason than these two."""
    for state in set(STATES) - {GONE}:
        actions = [TABLE[state, event][1] for event in EVENT_KINDS]
        assert any(Action.WATCH in each for each in actions) == (state.reason not in NEVER_WATCHED)


def test_how_states_are_shown() -> None:
    """By the words of how_followed()."""
    shown = {state.name: state.shown for state in (EVENTS, SAMPLED, RECHECK, REMOTE)}
    assert shown == {"events": "watched", "sampled": "hot", "recheck": "watched", "remote": "remote"}


def test_several_batches_in_a_row_make_a_file_busy() -> None:
    """The watch in each of the latest batches is busy, the one that was missing from one of them is not."""
    sampled = Sampled(FILES)
    for number in range(FILES.events - 1):
        assert not sampled.after_batch([1, 2] if number else [1], now=number * 0.1)
    assert list(sampled.after_batch([1, 2], now=0.5)) == [1]


def test_batches_far_apart_are_not_in_a_row() -> None:
    """A lone file written now and then is in every batch there is, and stays armed."""
    sampled = Sampled(FILES)
    for number in range(10):
        assert not sampled.after_batch([1], now=number * (FILES.within_s + 0.1))


def test_many_events_in_a_short_time_make_a_directory_busy() -> None:
    """They add up over batches, until the time is over."""
    sampled = Sampled(Threshold(5, 1.0, is_in_a_row=False, quiet_s=1.0, tick_s=1.0, greatest_tick_s=1.0))
    assert not sampled.after_batch([1, 1, 1, 2], now=10.0)
    assert not sampled.after_batch([2], now=10.4)
    assert sampled.after_batch([1, 1], now=10.9) == {1: 5}
    assert not sampled.after_batch([1, 1, 1, 2], now=11.1)
    assert not sampled.after_batch([2, 2], now=12.2)


def test_a_sampled_watch_is_armed_when_quiet() -> None:
    """It is armed again after it was found unchanged for a while, counted from the last change."""
    sampled = Sampled(FILES)
    sampled.add(1, now=0.0)
    assert sampled.after_samples([1], now=1.0) == []
    assert sampled.after_samples([], now=FILES.quiet_s + 0.9) == []
    assert sampled.after_samples([], now=FILES.quiet_s + 1.1) == [1]
    assert TABLE[SAMPLED, QUIET] == (RECHECK, (Action.WATCH, Action.STAT))


def test_a_sampled_watch_is_not_made_busy_again() -> None:
    """Left-over events of a watch that is disarmed already, such as a rename, do not count."""
    sampled = Sampled(FILES)
    sampled.add(1, now=0.0)
    for number in range(FILES.events):
        assert not sampled.after_batch([1], now=number * 0.1)


def test_left_over_events_keep_a_watch_sampled() -> None:
    """The stat that they have led to has seen what was written, so the sample right after sees no change."""
    sampled = Sampled(FILES)
    sampled.add(1, now=0.0)
    sampled.after_batch([1], now=0.5)
    assert sampled.after_samples([], now=0.5) == []
    assert sampled.after_samples([], now=0.5 + FILES.quiet_s) == [1]
