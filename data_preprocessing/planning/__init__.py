"""From scans to the plan of a preprocessed folder."""
