"""Applications that show what ensue is for; each is tested, and quoted by the documentation."""
