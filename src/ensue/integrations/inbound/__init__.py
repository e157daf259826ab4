"""What comes in from outside: webhooks and consumers, their inbox, and what is done with each message, once."""
