"""Records that are computed: templates, each a function from a stream of random numbers to one entry.

A template computes its answer from what it drew, so an answer is right for every draw.
"""
