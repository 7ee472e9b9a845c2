"""Data sets that go on from one another: what a night takes, and listing, comparing, searching and deleting them."""
