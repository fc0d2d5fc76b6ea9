"""Our speed and memory beside the peers': one file a part, and the program that runs them."""
