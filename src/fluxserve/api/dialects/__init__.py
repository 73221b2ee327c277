"""One file per vendor's documentation. Dialects do not know each other."""
