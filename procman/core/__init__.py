"""What procman decides, apart from doing it: no input or output, clock, randomness or logging in here."""
