"""Named experiments: each a specification with defaults, and a function that runs it and returns stored results."""
