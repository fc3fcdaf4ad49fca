"""What can be seen of a running procman: log lines, the scoreboard, stacks."""
