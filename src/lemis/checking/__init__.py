"""What is wrong with a data set, each fault with its repair."""
