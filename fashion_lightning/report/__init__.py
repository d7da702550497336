"""The HTML report of a test, and the learning curves that it shows."""
