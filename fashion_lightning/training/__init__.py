"""What training minimizes, how a run's settings change over time, and what an epoch measures."""
