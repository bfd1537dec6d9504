"""What screens are made of. Each widget draws what it is given and asks nobody."""
