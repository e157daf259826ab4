"""Make a database fit an app's schema: install an empty one, refuse an older one with the difference, or add to it."""
