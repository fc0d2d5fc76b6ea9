"""Instance norm and LeakyReLU as one operator."""
