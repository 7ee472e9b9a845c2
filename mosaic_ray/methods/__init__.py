"""Ways to make training samples of records. Pure: nothing here reads a file, a clock or the environment."""
