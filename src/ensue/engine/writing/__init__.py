"""The writes themselves: ids, rows and their locks, and the store's write calls as engine work."""
