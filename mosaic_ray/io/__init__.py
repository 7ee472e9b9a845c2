"""How bytes move: the one door to file systems, what the input is, and how its rows are read."""
