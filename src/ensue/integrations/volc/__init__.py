"""What the integrations with Volcengine share."""
