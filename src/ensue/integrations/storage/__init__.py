"""Object storage: signed addresses, records of what is stored, and where it is kept."""
