"""Effects that outgrow one database: handed to a broker when they are due, called by workers that need no database."""
