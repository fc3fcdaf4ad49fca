"""How long jobs that are over are kept, by channel."""

from __future__ import annotations

import pytest

from procman.jobs.vacuum import Ages


@pytest.mark.parametrize(
    ("said", "channel", "seconds"),
    [
        ([("root", 5.0)], "root", 5.0),
        ([("root", 5.0)], "root.mail.fast", 5.0),
        ([("root", 5.0), ("root.mail", 2.0)], "root.mail.fast", 2.0),
        ([("root", 5.0), ("mail", 2.0)], "root.mail", 2.0),
        ([("root", 5.0), ("root.mail", None)], "root.mail.fast", None),
        ([("root.mail", 2.0)], "root.other", None),
        ([("root", 5.0), ("root.mail", 2.0)], "root.mailing", 5.0),
        ([("root", 5.0)], "", 5.0),
    ],
)
def test_what_is_said_of_a_channel_counts_for_those_below_it(said, channel, seconds):
    assert Ages(said).of(channel) == seconds
