"""What describes an app to its clients: schemas of records and values, and the page that shows them."""
