"""What main.py runs: the modes, and how settings become networks, data and trainers."""
