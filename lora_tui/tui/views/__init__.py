"""What screens show, gathered from the store and put into words: no widgets in here."""
