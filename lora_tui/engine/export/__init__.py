"""Taking results elsewhere: the adapter, merged weights, and datasets in the forms other tools read."""
