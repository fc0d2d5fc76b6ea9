"""Networks and the weights that other people trained for them."""
